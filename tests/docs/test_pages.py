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


def test_settings_in_the_pages_are_those_of_the_template() -> None:
    entries = re.findall(r"(?m)^# (.+)\n([A-Z_]+)=(.*)$", (ROOT / "env.template").read_text())
    defaults = {name: default for _, name, default in entries}
    descriptions = {name: description for description, name, _ in entries}
    rows = re.findall(r"(?m)^\| `([A-Z_]+)` \| ([^|]*) \| (.*) \|$", PAGES[OPERATIONS])
    settings = {name: (default, meaning) for name, default, meaning in rows if meaning.count("|") == 0}
    assert settings.keys() <= defaults.keys()
    assert {"PORT", "WORKERS", "REDIS_PORT", "COMPACTION_KEEP_DAYS", "LOG_LEVEL"} <= settings.keys()
    assert {name: meaning for name, (_, meaning) in settings.items()} == {name: descriptions[name] for name in settings}
    # A default is a number or code. Words stand for a default that is long or computed at start.
    shown = {name: cell.strip("`") for name, (cell, _) in settings.items() if re.fullmatch(r"`[^`]+`|\d+", cell)}
    assert shown
    assert shown == {name: defaults[name] for name in shown}


def test_engines_in_the_pages_are_chosen_by_settings_that_exist() -> None:
    template = (ROOT / "env.template").read_text()
    for name in ("DATABASE_URL", "REDIS_HOST", "KAFKA_BOOTSTRAP_SERVERS", "ZOOKEEPER_HOSTS"):
        assert f"| `{name}` |" in PAGES[OPERATIONS]
        assert f"\n{name}=\n" in template
