"""Every example of the README is run as it stands, on a service of its own."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Running, start, stop
from tests.services.ports import Port

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"<!-- run -->\n```(\w+)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Port() as port:
        running = start(tmp_path_factory.mktemp("readme"), port.number)
        yield running
        assert stop(running) == 0


def test_the_readme_examples_work_when_pasted_in_order(fresh: Running, tmp_path: Path) -> None:
    assert [language for language, _ in EXAMPLES] == ["bash", "bash", "python"]
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    for language, text in EXAMPLES:
        here = text.replace("localhost:8082", fresh.target)
        # curl answers 0 on an HTTP error; people would see it, and so must this test.
        script = (
            'set -euo pipefail\ncurl() { command curl --silent --show-error --fail-with-body "$@"; echo; }\n' + here
        )
        command = ["bash", "-c", script] if language == "bash" else [sys.executable, "-c", here]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
        assert done.returncode == 0, f"{here}\n{done.stdout}\n{done.stderr}"
        if language == "python":
            assert done.stdout == "2.5 in version 1\non TARGETING_MATCH\n"


def test_every_setting_in_the_readme_is_in_the_template() -> None:
    template = (ROOT / "env.template").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \|", README, flags=re.MULTILINE)
    assert rows
    assert [name for name in rows if f"{name}=" not in template] == []
