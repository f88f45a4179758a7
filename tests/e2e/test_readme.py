"""Runs every example of the README as it is, on its own service."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.docs.pages import README
from tests.e2e.conftest import Running, start, stop
from tests.engines.ports import Port

EXAMPLES = re.findall(r"<!-- run -->\n```(\w+)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Port() as port:
        running = start(tmp_path_factory.mktemp("readme"), port.number)
        yield running
        assert stop(running) == 0


def run_examples(running: Running, directory: Path) -> None:
    """Runs the examples in order; only the address is replaced. Raises AssertionError if one fails."""
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    for language, text in EXAMPLES:
        example = text.replace("localhost:8082", running.target)
        # curl exits with 0 on an HTTP error. A person would notice the error, so this test must too.
        script = (
            'set -euo pipefail\ncurl() { command curl --silent --show-error --fail-with-body "$@"; echo; }\n' + example
        )
        command = ["bash", "-c", script] if language == "bash" else [sys.executable, "-c", example]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=directory)
        assert done.returncode == 0, f"{example}\n{done.stdout}\n{done.stderr}"
        if language == "python":
            assert done.stdout == "2.5 in version 1\non TARGETING_MATCH\n"


def test_readme_examples_work_when_pasted_in_order(fresh: Running, tmp_path: Path) -> None:
    assert [language for language, _ in EXAMPLES] == ["bash", "bash", "python"]
    run_examples(fresh, tmp_path)


def test_readme_watch_sends_the_state_and_then_a_change(fresh: Running) -> None:
    (command,) = re.findall(r"<!-- watch -->\n```bash\n(.*?)```", README, flags=re.DOTALL)
    example = command.replace("localhost:8082", fresh.target)
    with subprocess.Popen(["bash", "-c", f"exec {example}"], stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        try:
            # The watch begins with the state; `synced` marks the end of the state.
            assert any("synced" in json.loads(line) for line in watch.stdout)
            body = {"key": "watched", "value": 1, "environment": "development"}
            assert httpx.post(f"{fresh.url}/api/v1/config", json=body, timeout=20).status_code == 201
            changed = next(message for line in watch.stdout if "change" in (message := json.loads(line)))
            assert changed["change"]["config"]["key"] == "watched"
        finally:
            watch.kill()


def test_every_readme_example_is_run_or_is_a_watch() -> None:
    blocks = re.findall(r"(?m)^(.*)\n```(\w+)\n", README)
    assert blocks
    assert [(before, language) for before, language in blocks if not re.fullmatch("<!-- [a-z]+ -->", before)] == []
