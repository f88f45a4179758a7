"""Cost against size: the same work with a thousand and with a million configurations, flags and instances in proportion.

Each size is a database and a worker of its own, all of them up at the same time, so that rounds interleave. One call is
in flight. Reads "not in memory" are of workers before these, which keep one value in memory.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
from configsvc_client.v1 import change_pb2, config_pb2, config_pb2_grpc, flag_pb2, registry_pb2
from google.protobuf.message import Message

from benchmarks import processes
from benchmarks.load import Request, Target
from benchmarks.measure import Figure, Measured, Round, Table, in_turns
from benchmarks.placement import Placement
from benchmarks.processes import Server
from benchmarks.run import ALONE_PART, Run
from configsvc.storage.postgres.storage import PostgresStorage
from tests.scale import filling
from tests.scale.filling import Size

MEMBERS = 200
REPLICA = "sizes"
MIB = 1 << 20
RESUMES = 20


def _size(configs: int, others: int) -> Size:
    return Size(
        configs=configs,
        environments=max(1, configs // 1_000),
        flags=others,
        services=max(1, others // 10),
        instances=others,
        versions=100,
        requests=configs // 10,
        removed=others,
    )


SIZES = (_size(1_000, 1_000), _size(10_000, 2_000), _size(100_000, 5_000), _size(1_000_000, 10_000))
SMALL_SIZES = (_size(100, 20), _size(1_000, 40))


@dataclass(frozen=True, slots=True)
class Filled:
    """A worker on a database of a size."""

    size: Size
    worker: Server

    @property
    def name(self) -> str:
        """The side's name: all sizes in order."""
        return f"{self.size.configs:,} configurations, {self.size.flags:,} flags and instances"


def tables(run: Run, placement: Placement) -> list[Table]:
    """One table for each operation; its first row is the smallest size."""
    with ExitStack() as stack:
        run = run.on(placement, stack)
        databases = {size: _filled(run, size) for size in (SMALL_SIZES if run.effort.small else SIZES)}
        with ExitStack() as without_memory:
            filled = _workers(run.on(placement, without_memory), databases, {"NEAR_CACHE_ENTRIES": "1"})
            found = [_calls(run, *_STORED, filled)]
        filled = _workers(run, databases, {})
        found += [_calls(run, *operation, filled) for operation in _OPERATIONS]
        found.append(_resume(run, filled))
        starts = [Figure(one.name, (one.worker.start_seconds,)) for one in filled]
        memory = [Figure(one.name, (one.worker.memory_bytes / MIB,)) for one in filled]
        return [
            *found,
            run.table("sizes.start", "From start to ready, against size", "s", starts, "One round."),
            run.table("sizes.memory", "Memory after all of this, against size", "MiB", memory, "One round."),
        ]


def _filled(run: Run, size: Size) -> str:
    url = run.stack.enter_context(run.services.postgres.database())
    asyncio.run(_fill(url, size))
    return url


def _workers(run: Run, databases: Mapping[Size, str], settings: Mapping[str, str]) -> list[Filled]:
    """A worker for each database, with the id of the replica that owns its instances."""
    return [
        Filled(size, run.server(processes.service(REPLICA, run.placement, {"DATABASE_URL": url, **settings})))
        for size, url in databases.items()
    ]


async def _fill(url: str, size: Size) -> None:
    async with PostgresStorage(url):
        pass
    await asyncio.to_thread(filling.fill_postgres, url, size, REPLICA)


Calls = Callable[[Size], Sequence[Message]]


def _members(count: int) -> list[int]:
    return random.Random(7).sample(range(count), min(MEMBERS, count))


def _configs(size: Size) -> list[tuple[str, str]]:
    """(environment, key) of random configurations."""
    each = [(number % size.environments, number // size.environments) for number in _members(size.configs)]
    return [(filling.environment_name(environment), filling.config_key(key)) for environment, key in each]


def _gets(size: Size) -> Sequence[Message]:
    return [config_pb2.GetConfigRequest(environment=where, key=key) for where, key in _configs(size)]


def _lists(size: Size) -> Sequence[Message]:
    return [config_pb2.ListConfigsRequest(environment=where, page_size=100) for where, _ in _configs(size)]


def _effective(size: Size) -> Sequence[Message]:
    name = filling.service_name(0)
    return [
        config_pb2.GetEffectiveConfigRequest(environment=where, service_name=name, page_size=100)
        for where, _ in _configs(size)
    ]


def _history(_size: Size) -> Sequence[Message]:
    where, key = filling.HOT_ENVIRONMENT, filling.HOT_KEY
    return [config_pb2.ListConfigHistoryRequest(environment=where, key=key, page_size=20)]


def _reasons(size: Size) -> Sequence[Message]:
    """A reason that one change has."""
    return [
        change_pb2.ListChangesRequest(reason=f"release {number + 1}", page_size=20)
        for number in _members(size.configs)
        if 10 * (number + 1) > size.changes
    ]


def _evaluations(size: Size) -> Sequence[Message]:
    return [
        flag_pb2.EvaluateFlagRequest(
            flag_name=filling.flag_name(number), environment=filling.FLAGS_ENVIRONMENT, user_id=f"user-{number}"
        )
        for number in _members(size.flags)
    ]


def _flag_writes(size: Size) -> Sequence[Message]:
    return [
        flag_pb2.UpdateFlagRequest(
            name=filling.flag_name(number), environment=filling.FLAGS_ENVIRONMENT, rollout_percentage=percentage
        )
        for percentage in (30, 40)
        for number in _members(size.flags)
    ]


def _discoveries(size: Size) -> Sequence[Message]:
    return [
        registry_pb2.DiscoverInstancesRequest(service_name=filling.service_name(number))
        for number in _members(size.services)
    ]


_CONFIGS, _FLAGS = "/configsvc.v1.ConfigService/", "/configsvc.v1.FlagService/"
# Key, title, method, and the messages of a size.
Operation = tuple[str, str, str, Calls]
_STORED: Operation = ("get_stored", "GetConfig, not in memory", f"{_CONFIGS}GetConfig", _gets)
_OPERATIONS: Sequence[Operation] = (
    ("get", "GetConfig", f"{_CONFIGS}GetConfig", _gets),
    ("list", "ListConfigs, a page of 100", f"{_CONFIGS}ListConfigs", _lists),
    ("effective", "GetEffectiveConfig, a page of 100", f"{_CONFIGS}GetEffectiveConfig", _effective),
    ("history", "ListConfigHistory, a page of 20", f"{_CONFIGS}ListConfigHistory", _history),
    ("reason", "ListChanges by reason", "/configsvc.v1.ChangeService/ListChanges", _reasons),
    ("evaluate", "EvaluateFlag", f"{_FLAGS}EvaluateFlag", _evaluations),
    ("flag_write", "UpdateFlag", f"{_FLAGS}UpdateFlag", _flag_writes),
    ("discover", "DiscoverInstances", "/configsvc.v1.RegistryService/DiscoverInstances", _discoveries),
)


def _calls(run: Run, key: str, title: str, method: str, calls: Calls, filled: Sequence[Filled]) -> Table:
    with ExitStack() as stack:
        rounds: dict[str, Round] = {}
        for one in filled:
            requests = [Request(method, message.SerializeToString()) for message in calls(one.size)]
            rounds[one.name] = stack.enter_context(run.load(Target(one.worker.address, requests), 1)).microseconds
        figures = in_turns(rounds, run.effort, ALONE_PART)
    return run.table(f"sizes.{key}", f"{title}, against size", "µs", figures)


def _resume(run: Run, filled: Sequence[Filled]) -> Table:
    """From the request of a watch that resumes ten changes before the end until its first change."""

    def round_of(one: Filled) -> Round:
        request = config_pb2.WatchConfigsRequest(
            environment=filling.HOT_ENVIRONMENT, after_revision=one.size.changes - 10
        )

        def measure(_seconds: float) -> Measured:
            with grpc.insecure_channel(one.worker.address) as channel:
                grpc.channel_ready_future(channel).result(timeout=10)
                stub = config_pb2_grpc.ConfigServiceStub(channel)
                return Measured(statistics.median(_first_change(stub, request) for _ in range(RESUMES)))

        return measure

    figures = in_turns({one.name: round_of(one) for one in filled}, run.effort)
    return run.table("sizes.resume", "A watch that resumes, until its first change, against size", "µs", figures)


def _first_change(stub: config_pb2_grpc.ConfigServiceStub, request: config_pb2.WatchConfigsRequest) -> float:
    began = time.perf_counter()
    stream = stub.WatchConfigs(request)
    next(message for message in stream if message.HasField("change"))
    took = (time.perf_counter() - began) * 1e6
    stream.cancel()
    return took
