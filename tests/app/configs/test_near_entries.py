"""The bounds of the entries of the near cache."""

import gc
import tracemalloc
from datetime import UTC, datetime

from configsvc.app.configs.near_entries import Encoding, Entry, NearEntries
from configsvc.domain.records import Kind, Record, Ref
from configsvc.domain.sizes import held_bytes

ENTRIES = 5_000
AT = datetime(2025, 1, 2, tzinfo=UTC).timestamp()


def small_entry(number: int) -> tuple[Ref, Entry]:
    ref = Ref(Kind.CONFIG, f"env-{number}", "", f"services/checkout/setting-{number}")
    at, by = datetime.fromtimestamp(AT + number, UTC), datetime.fromtimestamp(AT + number, UTC)
    body = {"value": f"v{number}", "description": ""}
    record = Record(ref, 1, number, body, at, by, f"actor-{number}", "h1", held_bytes(f'{{"value":"v{number}",""}}'))
    return ref, Entry(record, number, number, "h1")


def test_bytes_of_small_values_are_about_what_python_holds_for_them() -> None:
    entries = NearEntries(ENTRIES, 1 << 40)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(ENTRIES):
        ref, entry = small_entry(number)
        entries.put(ref, entry)
        entries.put_encoding(entry, Encoding(bytes(100), number))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held / 1.5 < entries.held_bytes < held * 1.5


def test_entries_for_what_does_not_exist_are_bounded_in_bytes_too() -> None:
    entries = NearEntries(ENTRIES, 100_000)
    for number in range(ENTRIES):
        entries.put(Ref(Kind.CONFIG, "production", "", "k" * 1_000 + str(number)), Entry(None, 1, 1, "h1"))
        assert entries.held_bytes <= 100_000
    assert 50 <= len(entries) <= 100
