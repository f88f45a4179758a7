"""The load client counts wrong answers as errors, never as answers: a server that fails fast is not fast."""

from collections.abc import Iterator

import pytest

from benchmarks import processes
from benchmarks.bare import GENERAL
from benchmarks.load import Load, LoadError, Request, Target, Watch
from benchmarks.peers import Program, Programs
from benchmarks.placement import FREE
from benchmarks.targets import configsvc

SECONDS = 0.05


@pytest.fixture(scope="module")
def program() -> Program:
    return Programs(may_build=False).load()


@pytest.fixture(scope="module")
def empty() -> Iterator[str]:
    """A server whose methods answer an empty message."""
    with processes.bare(FREE) as server:
        yield server.address


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """A worker on SQLite with the key."""
    with processes.service("load", FREE, {}) as server:
        configsvc.fill(server.address, keys=0)
        yield server.address


@pytest.mark.parametrize("in_flight", [1, 16])
@pytest.mark.parametrize(
    ("request_", "right"),
    [
        (Request(GENERAL, expect=0), True),
        (Request(GENERAL), True),
        (Request(GENERAL, expect=5), False),
        (Request("/bench.Bare/Unknown"), False),
    ],
    ids=["right", "any length", "another length", "an error status"],
)
def test_an_answer_counts_if_its_status_and_its_length_are_right(
    program: Program, empty: str, in_flight: int, request_: Request, right: bool
) -> None:
    with Load(program, FREE, Target(empty, [request_]), in_flight) as load:
        for got in (load.per_second(SECONDS), load.at_rate(200, SECONDS)[0]):
            assert (load.answers > 0) is right
            assert (got.errors > 0) is not right


def test_requests_are_sent_in_turn(program: Program, empty: str) -> None:
    requests = [Request(GENERAL, expect=0), Request("/bench.Bare/Unknown")]
    with Load(program, FREE, Target(empty, requests), 1) as load:
        got = load.at_rate(200, SECONDS)[0]
    assert load.answers == got.errors == 5


def test_every_write_of_a_load_is_in_the_store(program: Program, service: str) -> None:
    before = configsvc.version(service)
    with Load(program, FREE, configsvc.update_config().grpc(service, check=False), 16) as load:
        assert load.per_second(SECONDS).errors == 0
        assert configsvc.version(service) == before + load.answers


def test_an_event_ends_when_every_watcher_has_it(program: Program, service: str) -> None:
    write = configsvc.update_config().grpc(service, check=False)
    with Load(program, FREE, write, watch=configsvc.watch(), watchers=150) as load:
        assert len(load.events(3)) == 3
        assert load.answers == 3 * 150


def test_a_watch_that_ends_is_an_error(program: Program, empty: str) -> None:
    watch = Watch("/bench.Bare/Unknown", b"", opens=1, changes=2)
    with pytest.raises(LoadError, match="a watch ended"):
        Load(program, FREE, Target(empty, [Request(GENERAL)]), watch=watch, watchers=1)


def test_a_server_that_is_not_there_is_an_error(program: Program) -> None:
    with pytest.raises(LoadError, match="refused"):
        Load(program, FREE, Target("127.0.0.1:1", [Request(GENERAL)]))
