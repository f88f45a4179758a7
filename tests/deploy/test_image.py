"""The image and the compose file. No Docker runs here, so they are compared with the settings and the code."""

import json
import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from configsvc import __version__
from configsvc.gateway import supervisor
from configsvc.settings import Settings, load
from tests.e2e.conftest import start, stop
from tests.engines.ports import Port

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "deploy/Dockerfile").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
ENGINES = {"postgres": 5432, "valkey": 6379, "kafka": 9092, "zookeeper": 2181}


def instructions(name: str) -> list[str]:
    """The arguments of each instruction with this name, in the order of the file."""
    return re.findall(rf"(?m)^ *{name} (.+)$", DOCKERFILE)


def interpolated(text: str) -> str:
    """The text as compose interpolates it if no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def service_environment() -> dict[str, str]:
    return {name: interpolated(str(value)) for name, value in COMPOSE["services"]["configsvc"]["environment"].items()}


def test_every_variable_is_a_setting() -> None:
    names = {name.upper() for name in Settings.model_fields}
    assert set(service_environment()) <= names
    (environment,) = instructions("ENV")
    own = {part.partition("=")[0] for part in shlex.split(environment)}
    assert own - {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"} == {"SQLITE_PATH", "HOST"}


def test_service_uses_every_engine_and_runs_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in service_environment().items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.embedded == ()
    assert settings.workers > 1
    url = urlsplit(settings.database_url)
    assert (url.hostname, url.port) == ("postgres", ENGINES["postgres"])
    assert (settings.redis_host, settings.redis_port) == ("valkey", ENGINES["valkey"])
    assert settings.kafka_bootstrap_servers == f"kafka:{ENGINES['kafka']}"
    assert settings.zookeeper_hosts == f"zookeeper:{ENGINES['zookeeper']}"
    engine = COMPOSE["services"]["postgres"]["environment"]
    credentials = (engine["POSTGRES_USER"], interpolated(engine["POSTGRES_PASSWORD"]), engine["POSTGRES_DB"])
    assert (url.username, url.password, url.path.lstrip("/")) == credentials
    command = [interpolated(part) for part in COMPOSE["services"]["valkey"]["command"]]
    assert command[command.index("--requirepass") + 1] == settings.redis_password.get_secret_value()


@pytest.mark.parametrize("name", ENGINES)
def test_engine_is_pinned_checked_waited_for_and_keeps_its_data(name: str) -> None:
    engine = COMPOSE["services"][name]
    # A complete version, optionally followed by the base of the image.
    assert re.fullmatch(r"[a-z0-9/]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", engine["image"])
    assert engine["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert COMPOSE["services"]["configsvc"]["depends_on"][name] == {"condition": "service_healthy"}
    named = [volume.partition(":")[0] for volume in engine["volumes"]]
    assert named
    assert set(named) <= set(COMPOSE["volumes"])
    assert "ports" not in engine, "only the service is reachable from outside"


def test_base_image_is_pinned_to_the_python_of_the_tests() -> None:
    bases = {text.split()[0] for text in instructions("FROM")}
    (base,) = bases
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", base)
    (requires,) = re.findall(r'(?m)^requires-python = ">=(\d+\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert base.startswith(f"python:{requires}.")


def test_copied_files_exist_and_only_they_are_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    allowed = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert rules[0] == "*", "everything else is ignored"
    copied = [source for text in instructions("COPY") if "--from=" not in text for source in shlex.split(text)[:-1]]
    for source in copied:
        assert (ROOT / source).exists()
        assert any(fnmatch(source, rule) for rule in allowed), f"{source} is not sent to the builder"
    assert sorted(allowed) == sorted(copied), "nothing is sent that is not copied"
    # The build of the wheel needs these.
    gateway = ("deploy/envoy.yaml", "deploy/lua")
    for needed in ("pyproject.toml", "README.md", "LICENSE", "src", *gateway, "clients/python"):
        assert needed in copied
    assert "-c constraints.txt" in " ".join(instructions("RUN"))


def test_image_tag_is_the_version() -> None:
    assert COMPOSE["services"]["configsvc"]["image"] == f"configsvc:{__version__}"


def test_service_is_process_one_and_not_root() -> None:
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry) == ["configsvc"], "a shell in between would not forward the signal"
    assert json.loads(instructions("CMD")[0]) == ["up"]
    assert instructions("USER")[-1] == "10001"
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("EXPOSE") == [str(Settings.model_fields["port"].default)]


def test_container_has_enough_time_to_stop() -> None:
    grace = COMPOSE["services"]["configsvc"]["stop_grace_period"]
    # The drain comes before the workers' stop; their last answers and Envoy's exit come after it.
    envoy = 2 * supervisor.DRAIN_SECONDS + supervisor.LAST_ANSWERS_SECONDS + supervisor.ENVOY_EXIT_SECONDS
    workers = load().stop_seconds + supervisor.KILL_SECONDS
    assert float(grace.removesuffix("s")) > envoy + workers


def test_health_check_of_the_image_fails_unless_the_service_is_ready(tmp_path: Path) -> None:
    (text,) = instructions("HEALTHCHECK")
    command = json.loads(text.partition("CMD ")[2])
    assert command[0] == "python"

    def check(port: int) -> int:
        environment = {**os.environ, "PORT": str(port)}
        done = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, timeout=30)
        return done.returncode

    with Port() as port:
        assert check(port.number) != 0, "nothing listens there yet"
        running = start(tmp_path, port.number)
        try:
            assert check(port.number) == 0
        finally:
            stop(running)
        assert check(port.number) != 0
