"""Runs every example of the README as it is, on its own service, and checks what the documentation refers to."""

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

from tests.e2e.conftest import Running, start, stop
from tests.engines.ports import Port

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
# Every page for people, with the folder that its links start from.
PAGES = {
    path: path.read_text() for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
}
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_refer_only_to_existing_files_targets_and_pages(page: Path) -> None:
    text = PAGES[page]
    for path in re.findall(r"`((?:src|deploy|tests|clients|proto)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", text):
        assert re.search(rf"(?m)^{target}:", makefile), target
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link


def test_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 150


def test_settings_in_the_pages_have_the_defaults_of_the_template() -> None:
    template = dict(re.findall(r"(?m)^([A-Z_]+)=(.*)$", (ROOT / "env.template").read_text()))
    rows = re.findall(r"(?m)^\| `([A-Z_]+)` \| ([^|]*) \|", PAGES[ROOT / "docs" / "operations.md"])
    names = {name for name, _ in rows}
    assert names <= template.keys()
    assert {"DATABASE_URL", "REDIS_HOST", "KAFKA_BOOTSTRAP_SERVERS", "ZOOKEEPER_HOSTS", "PORT", "WORKERS"} <= names
    # A default is a number or code. Words stand for a default that is long or computed at start.
    shown = {name: cell.strip("`") for name, cell in rows if re.fullmatch(r"`[^`]+`|\d+", cell)}
    assert shown
    assert shown == {name: template[name] for name in shown}
