"""The rules of single fields: what is accepted at each limit, what is refused beyond it, and in which words."""

import pytest

from configsvc.domain.fields import Fields, checked
from configsvc.domain.limits import Limits
from configsvc.domain.records import Author
from configsvc.errors import InvalidInput
from tests.app.replica import AT


def fields() -> Fields:
    return Fields(Limits())


def refused(collected: Fields) -> list[str]:
    return [violation.field for violation in collected.violations]


@pytest.mark.parametrize("name", ["a", "9", "a.b_c-D", "x" * 64])
def test_name_in_the_alphabet_is_accepted_up_to_its_limit(name: str) -> None:
    collected = fields()
    assert collected.name("n", name, 64) == name
    assert refused(collected) == []


@pytest.mark.parametrize("name", ["x" * 65, "-a", ".a", "a b", "a/b", "ä", "a\n"])
def test_other_name_is_refused_with_the_alphabet(name: str) -> None:
    collected = fields()
    collected.name("n", name, 64)
    (violation,) = collected.violations
    assert violation.field == "n"
    assert violation.description.startswith("must be 1 to 64 characters: letters, digits")


def test_empty_name_is_refused_only_if_it_is_required() -> None:
    collected = fields()
    collected.name("optional", "", 64, required=False)
    collected.name("required", "", 64)
    (violation,) = collected.violations
    assert violation.field == "required"
    assert violation.description.startswith("is required: 1 to 64 characters")


def test_text_keeps_its_limit_and_may_have_lines() -> None:
    collected = fields()
    collected.text("short", "a\tb\r\nc", 6)
    collected.text("empty", "", 6)
    assert refused(collected) == []
    collected.text("long", "x" * 7, 6)
    collected.text("missing", "", 6, required=True)
    collected.text("nul", "a\0", 6)
    collected.text("surrogate", "\ud800", 6)
    collected.text("bell", "\a", 6)
    assert refused(collected) == ["long", "missing", "nul", "surrogate", "bell"]


@pytest.mark.parametrize(("count", "is_refused"), [(0, True), (1, False), (3, False), (4, True)])
def test_count_of_items_keeps_both_limits(count: int, is_refused: bool) -> None:
    collected = fields()
    collected.count("items", count, 3, least=1)
    assert bool(collected.violations) is is_refused


def test_page_size_keeps_its_limit_and_0_means_the_default() -> None:
    collected = fields()
    limits = Limits()
    assert collected.page_size(0) == limits.default_page_size
    assert collected.page_size(limits.page_size) == limits.page_size
    assert collected.page_size(1) == 1
    assert refused(collected) == []
    for value in (-1, limits.page_size + 1):
        other = fields()
        other.page_size(value)
        assert refused(other) == ["page_size"]


@pytest.mark.parametrize(
    ("version", "least", "is_refused"), [(0, 1, True), (1, 1, False), (0, 0, False), (-1, 0, True)]
)
def test_version_keeps_its_lower_limit(version: int, least: int, is_refused: bool) -> None:
    collected = fields()
    collected.version("version", version, least=least)
    assert bool(collected.violations) is is_refused


def test_key_keeps_the_configured_limit_only_when_it_is_written() -> None:
    long = "k" * (Limits().key_characters + 1)
    read, written = fields(), fields()
    read.key(long)
    written.key(long, written=True)
    assert (refused(read), refused(written)) == ([], ["key"])
    beyond = fields()
    beyond.key("k" * 4_097)
    beyond.key("", "other")
    assert refused(beyond) == ["key", "other"]


@pytest.mark.parametrize("key", ["/a", "a/", "a//b", "a/./b", "../a", "a\0", "\ud800"])
def test_key_that_a_url_path_cannot_carry_is_refused_even_when_it_is_read(key: str) -> None:
    collected = fields()
    collected.key(key)
    assert refused(collected) == ["key"]


def test_violations_of_a_part_have_its_path_and_are_refused_in_the_whole() -> None:
    whole = fields()
    part = whole.inside("operations[3]")
    part.name("key", "a b", 64)
    part.inside("value").refuse("x", "is wrong")
    assert refused(whole) == refused(part) == ["operations[3].key", "operations[3].value.x"]


def test_first_violation_of_a_field_stands() -> None:
    collected = fields()
    collected.refuse("name", "the cause")
    collected.refuse("name", "a consequence")
    assert [violation.description for violation in collected.violations] == ["the cause"]


def test_invalid_input_of_a_block_is_collected() -> None:
    collected = fields().inside("part")
    with collected.collecting():
        raise InvalidInput.of("name", "is wrong")
    assert refused(collected) == ["part.name"]


def test_author_has_to_be_named() -> None:
    with pytest.raises(InvalidInput) as caught, checked(Limits()) as collected:
        collected.author(Author("", "r" * 1_025, "i" * 129, AT))
    assert [violation.field for violation in caught.value.violations] == ["x-actor", "reason", "request_id"]
