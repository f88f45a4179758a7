"""A damaged file: altered rows are never served, intact rows are, and `ping` reports the damage."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from configsvc.domain.records import Action, Kind, Mutation, Put, Ref, View, Write
from configsvc.errors import DataLoss, ServiceError
from configsvc.storage.port import ChangeQuery, RecordQuery
from configsvc.storage.sql.migrations import migrations_of
from configsvc.storage.sqlite.file_check import FileCheck
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.app.fake_clock import FakeClock
from tests.conformance.storage.writing import author, config, create

KEYS = 400
FLIPS = (1, 8, 60)
ROUNDS = 8


def value_of(number: int) -> str:
    return f"value {number} " + chr(0x61 + number % 26) * (number % 300)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database of 400 values."""
    path = tmp_path_factory.mktemp("intact") / "configsvc.db"

    async def fill() -> None:
        async with SqliteStorage(path) as storage:
            await asyncio.gather(*(storage.write(create(config(f"k{n}"), value_of(n))) for n in range(KEYS)))

    asyncio.run(fill())
    return path


def flip(path: Path, chance: random.Random, bits: int) -> None:
    """Flips so many bits at random places of the file."""
    data = bytearray(path.read_bytes())
    for _ in range(bits):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("bits", FLIPS)
@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_flipped_bits_never_serve_a_wrong_or_missing_value(
    intact: Path, tmp_path: Path, bits: int, round_number: int
) -> None:
    path = tmp_path / "configsvc.db"
    shutil.copy(intact, path)
    seed = random.randrange(2**32)
    flip(path, random.Random(seed), bits)
    try:
        async with SqliteStorage(path) as storage:
            for number in range(KEYS):
                await check_value(storage, number, seed)
            await check_lists(storage, seed)
    except DataLoss:
        # The file can't even be opened: nothing was served.
        pass


async def check_value(storage: SqliteStorage, number: int, seed: int) -> None:
    """A value is the stored one, or an error."""
    ref = config(f"k{number}")
    try:
        record = (await storage.get([ref])).get(ref)
    except DataLoss:
        return
    assert record is not None, f"seed {seed}: {ref} is missing"
    assert record.body == {"value": value_of(number)}, f"seed {seed}: {ref} was altered"


async def check_lists(storage: SqliteStorage, seed: int) -> None:
    """A list and a search are complete and right, or an error."""
    try:
        page = await storage.page(RecordQuery(Kind.CONFIG, "test", limit=KEYS))
        assert {r.ref.key: r.body["value"] for r in page.records} == {f"k{n}": value_of(n) for n in range(KEYS)}, seed
    except DataLoss:
        pass
    try:
        changes = (await storage.search(ChangeQuery(limit=KEYS + 1))).changes
        assert {c.ref.key: (c.after or {})["value"] for c in changes} == {f"k{n}": value_of(n) for n in range(KEYS)}, (
            seed
        )
    except DataLoss:
        pass


def alter(path: Path, old: bytes, new: bytes) -> None:
    """Replaces bytes everywhere in the file by others of the same length."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new))


async def test_damaged_row_is_refused_alone_and_named(intact: Path, tmp_path: Path) -> None:
    path = tmp_path / "configsvc.db"
    shutil.copy(intact, path)
    alter(path, b"value 123 ", b"value 124 ")
    async with SqliteStorage(path) as storage:
        with pytest.raises(DataLoss, match=r"config/test//k123"):
            await storage.get([config("k123")])
        assert (await storage.get([config("k124")])).records[config("k124")].body["value"] == value_of(124)
        with pytest.raises(DataLoss, match=r"restored from a copy.*k123"):
            await storage.ping()


async def test_damaged_row_that_a_decision_asks_for_refuses_writes(intact: Path, tmp_path: Path) -> None:
    path = tmp_path / "configsvc.db"
    shutil.copy(intact, path)
    alter(path, b"value 123 ", b"value 124 ")

    def decide(view: View) -> Sequence[Mutation]:
        record = view.get(config("k123"))
        return (Put(config("copy"), record.body if record else {}, Action.CREATE),)

    async with SqliteStorage(path) as storage:
        for write in (Write(author(), (), decide), create(config("new"))):
            with pytest.raises(DataLoss, match="k123"):
                await storage.write(write)
        assert (await storage.get([config("copy"), config("new")])).records == {}


@pytest.mark.parametrize("broken", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f"])
@pytest.mark.parametrize("text", [b"value 123 ", b"k123"])
async def test_text_that_is_not_utf8_is_damage(intact: Path, tmp_path: Path, text: bytes, broken: bytes) -> None:
    path = tmp_path / "configsvc.db"
    shutil.copy(intact, path)
    alter(path, text, (broken + text)[: len(text)])
    async with SqliteStorage(path) as storage:
        with pytest.raises(DataLoss):
            await storage.get([config("k123")])
        with pytest.raises(DataLoss):
            await storage.search(ChangeQuery(limit=KEYS + 1))
        with pytest.raises(DataLoss):
            await storage.ping()


async def test_background_check_detects_damage(intact: Path, tmp_path: Path) -> None:
    path = tmp_path / "configsvc.db"
    shutil.copy(intact, path)
    alter(path, b"value 77 ", b"value 78 ")
    async with SqliteStorage(path) as storage, FileCheck(storage, FakeClock()):
        found = ""
        while not found:
            try:
                await storage.ping()
            except DataLoss as error:
                found = error.message
        assert "k77" in found


async def test_writes_are_refused_once_damage_is_known(intact: Path, tmp_path: Path) -> None:
    path = tmp_path / "configsvc.db"
    shutil.copy(intact, path)
    alter(path, b"value 123 ", b"value 124 ")
    async with SqliteStorage(path) as storage:
        outcomes = await asyncio.gather(
            storage.write(create(config("k123"))), storage.write(create(config("new"))), return_exceptions=True
        )
        assert all(isinstance(outcome, ServiceError) for outcome in outcomes)
        with pytest.raises(DataLoss):
            await storage.write(create(config("other")))
        assert (await storage.state()).head == KEYS


async def test_rows_of_an_earlier_release_get_checksums(tmp_path: Path) -> None:
    """Schema 2 had no checksums. The migration computes them, and later damage is detected."""
    path = tmp_path / "configsvc.db"
    with closing(sqlite3.connect(path)) as old:
        for step in migrations_of("sqlite")[:2]:
            old.executescript(step.sql)
        old.execute("PRAGMA user_version = 2")
        old.execute(
            "INSERT INTO changes VALUES (1, 0, 'config', 'test', '', 'a', 'CREATE', 1, NULL, '{\"value\":1}', 0, 7, 'ann', '', '', 7)"
        )
        old.execute("INSERT INTO records VALUES ('config', 'test', '', 'a', 1, 1, '{\"value\":1}', 7, 7, 'ann')")
        old.execute("UPDATE counter SET head = 1")
        old.commit()
    async with SqliteStorage(path) as storage:
        ref = Ref(Kind.CONFIG, "test", "", "a")
        assert (await storage.get([ref])).records[ref].body == {"value": 1}
        assert [change.after for change in await storage.read(0, 10)] == [{"value": 1}]
    alter(path, b'{"value":1}', b'{"value":2}')
    async with SqliteStorage(path) as storage:
        with pytest.raises(DataLoss):
            await storage.get([ref])
