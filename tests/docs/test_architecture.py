"""Comments that cite docs/architecture.md cite a law or a section that it has; its map leads to files that exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

ARCHITECTURE = PAGES[ROOT / "docs" / "architecture.md"]
LAWS = {int(number) for number in re.findall(r"(?m)^(\d+)\. \*\*", ARCHITECTURE)}
SECTIONS = {title.lower() for title in re.findall(r"(?m)^## (.+)$", ARCHITECTURE)}
# A citation is `docs/architecture.md, law 5` or `docs/architecture.md, "Registry"`.
CITATION = re.compile(r"docs/architecture\.md(?:, (?:law (\d+)|\"([^\"]+)\"))?")
CODE = ("src", "clients/python/src/configsvc_client/evaluation", "deploy", "proto", "tests", "benchmarks", "scripts")
SUFFIXES = (".py", ".lua", ".yaml", ".sql", ".proto")


def code_files() -> Iterator[Path]:
    for folder in CODE:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in SUFFIXES and path != Path(__file__):
                yield path


def test_laws_are_numbered_without_gaps() -> None:
    assert set(range(1, len(LAWS) + 1)) == LAWS


def test_every_citation_resolves() -> None:
    cited = 0
    for path in code_files():
        for law, section in CITATION.findall(path.read_text()):
            cited += 1
            assert law or section, f"{path}: cites the page without a law or a section"
            assert not law or int(law) in LAWS, f"{path}: there is no law {law}"
            assert not section or section.lower() in SECTIONS, f"{path}: there is no section {section}"
    assert cited >= 3


@pytest.mark.parametrize("pattern", [r"\bDESIGN\b", r"(?<!architecture\.md, )\blaw \d"])
def test_no_other_style_of_citation(pattern: str) -> None:
    assert [str(path) for path in code_files() if re.search(pattern, path.read_text())] == []


def test_map_names_one_existing_place_for_each_question() -> None:
    (table,) = re.findall(r"(?s)## Where is …\n\n\| question \| file \|\n\|---\|---\|\n(.*?)\n\n", ARCHITECTURE)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert len({question for question, _ in rows}) == len(rows)
    for question, places in rows:
        paths = re.findall(r"`([^`]+)`", places)
        assert paths, question
        for path in paths:
            assert (ROOT / path).exists(), f"{question}: {path}"
