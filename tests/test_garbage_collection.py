"""Python's garbage collector in a process that holds many objects: no long stops, and cycles still go."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from configsvc.process import FULL_COLLECTION_AFTER, make_full_collections_rare

FULL = 2
# As many as 10,000 small flags, compiled.
OBJECTS = 340_000


class Node:
    """Refers to itself, so only the collector can remove it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def rare_full_collections() -> Iterator[None]:
    """The collector as `serve` sets it up."""
    thresholds = gc.get_threshold()
    make_full_collections_rare()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def full_collections() -> int:
    """How many there were in this process."""
    return int(gc.get_stats()[FULL]["collections"])


@pytest.mark.usefixtures("rare_full_collections")
def test_a_large_set_of_objects_is_made_without_a_full_collection() -> None:
    before = full_collections()
    held = [[number] for number in range(OBJECTS)]
    assert len(held) == OBJECTS
    assert full_collections() == before


@pytest.mark.usefixtures("rare_full_collections")
def test_cycles_are_collected_without_a_full_collection() -> None:
    node = weakref.ref(Node())
    before = full_collections()
    young, middle, _ = gc.get_threshold()
    held: list[list[int]] = []
    while node() is not None:
        held.append([len(held)])
        assert len(held) <= 2 * young * middle
    assert full_collections() == before


@pytest.mark.usefixtures("rare_full_collections")
def test_full_collections_still_happen() -> None:
    young, middle, full = gc.get_threshold()
    assert full == FULL_COLLECTION_AFTER
    before = full_collections()
    held: list[list[int]] = []
    while full_collections() == before:
        held.append([len(held)])
        assert len(held) <= 2 * young * middle * full
