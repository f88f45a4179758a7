"""What the pages refer to exists, and settings have the documented defaults."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, README, ROOT

OPERATIONS = ROOT / "docs" / "operations.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_refer_only_to_existing_files_targets_and_pages(page: Path) -> None:
    text = PAGES[page]
    for path in re.findall(r"`((?:src|deploy|tests|clients|proto|docs|scripts|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", text):
        assert re.search(rf"(?m)^{target}:", makefile), target
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link


def test_decisions_refer_only_to_existing_modules() -> None:
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        for path in re.findall(r"`((?:app|storage|bus|cache|registry|rpc|domain)/[\w./-]+)`", PAGES[page]):
            assert (ROOT / "src" / "configsvc" / path).exists(), f"{page.name}: {path}"


def test_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 150


def test_settings_in_the_pages_have_the_defaults_of_the_template() -> None:
    template = dict(re.findall(r"(?m)^([A-Z_]+)=(.*)$", (ROOT / "env.template").read_text()))
    rows = re.findall(r"(?m)^\| `([A-Z_]+)` \| ([^|]*) \|", PAGES[OPERATIONS])
    names = {name for name, _ in rows}
    assert names <= template.keys()
    assert {"DATABASE_URL", "REDIS_HOST", "KAFKA_BOOTSTRAP_SERVERS", "ZOOKEEPER_HOSTS", "PORT", "WORKERS"} <= names
    # A default is a number or code. Words stand for a default that is long or computed at start.
    shown = {name: cell.strip("`") for name, cell in rows if re.fullmatch(r"`[^`]+`|\d+", cell)}
    assert shown
    assert shown == {name: template[name] for name in shown}
