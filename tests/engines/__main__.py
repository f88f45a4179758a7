"""`make services`: starts all services, prints how to use them, and stops them on Ctrl-C or SIGTERM.

The lines of `export` are meant to be pasted into the shell that then runs `make run`.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from types import FrameType

from . import ServiceError, ServiceSet


def _leave(number: int, frame: FrameType | None) -> None:
    # One signal is enough: the shutdown must not be interrupted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def main() -> int:
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    services = ServiceSet.find(os.environ)
    try:
        services.start()
        exports = (f"export {name}={shlex.quote(value)}\n" for name, value in services.environment().items())
        sys.stdout.write(f"# {services.versions}\n{''.join(exports)}")
        sys.stdout.write("# Running until Ctrl-C; the data goes with it.\n")
        sys.stdout.flush()
        while True:
            signal.pause()
    except ServiceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        services.close()


if __name__ == "__main__":
    sys.exit(main())
