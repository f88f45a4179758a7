"""Which reads are quick, and when the general path answers."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from configsvc_client.v1 import config_pb2, flag_pb2

from configsvc.domain.configs import ConfigDraft
from configsvc.domain.flags import flag_ref
from configsvc.domain.records import Action, Author, Put
from configsvc.errors import Unavailable
from configsvc.logs import JsonFormatter
from configsvc.rpc.interceptors import AccessLog
from configsvc.rpc.quick_reads import Positions, QuickConfigs, QuickReads
from configsvc.rpc.quick_reads.request_memo import MEMO_BYTES, RequestMemo
from configsvc.rpc.services import CONFIGS
from tests.app.replica import AT, config, write_all
from tests.rpc.quick_reads.world import World, open_world, path_of

NUMBERS = iter(range(1, 10**9))
GET = config_pb2.GetConfigRequest(key="k", environment="test", service_name="svc").SerializeToString()
BULK = config_pb2.BulkGetConfigsRequest(keys=["k", "none"], environment="test", service_name="svc").SerializeToString()
EVALUATE = flag_pb2.EvaluateFlagRequest(flag_name="f", environment="test", user_id="u1").SerializeToString()
BATCH = flag_pb2.BatchEvaluateFlagsRequest(environment="test", user_id="u1").SerializeToString()
MANY = flag_pb2.BatchEvaluateFlagsRequest(
    requests=[flag_pb2.EvaluateFlagRequest(flag_name="f", environment="test", user_id="u1")]
).SerializeToString()
READS = {
    "GetConfig": GET,
    "BulkGetConfigs": BULK,
    "EvaluateFlag": EVALUATE,
    "BatchEvaluateFlags": BATCH,
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        await put_config(opened, 1)
        await put_flag(opened)
        yield opened


def author() -> Author:
    return Author("tester", "", f"r{next(NUMBERS)}", AT)


async def put_config(world: World, value: Any, key: str = "k") -> None:
    await world.configs.update(ConfigDraft("test", "svc", key, value, "d"), author(), allow_missing=True)


async def put_flag(world: World, name: str = "f", **members: Any) -> None:
    definition = {"name": name, "environment": "test", "enabled": True, **members}
    await world.flags.update(flag_ref("test", name), definition, author(), allow_missing=True)


def value_of(answer: Any) -> Any:
    return config_pb2.GetConfigResponse.FromString(answer.message).config.value.number_value


@pytest.mark.parametrize("method", READS)
async def test_read_is_quick_from_the_second_time_on(world: World, method: str) -> None:
    assert world.ask_quickly(method, READS[method]) is None, "nothing is in memory yet"
    await world.ask(method, READS[method])
    for metadata in ((), (("x-configsvc-rest", "1"),), (("x-history", world.tail.history), ("x-request-id", "mine"))):
        assert world.ask_quickly(method, READS[method], metadata) is not None
    await put_config(world, 2)
    await put_flag(world, rollout_percentage=3)
    assert world.ask_quickly(method, READS[method]) is not None, "a change is applied, not read again"


async def test_batch_of_requests_is_quick(world: World) -> None:
    await world.ask("BatchEvaluateFlags", MANY)
    answer = world.ask_quickly("BatchEvaluateFlags", MANY)
    assert answer is not None
    assert flag_pb2.BatchEvaluateFlagsResponse.FromString(answer.message).results[0].user_id == "u1"


async def test_change_is_seen_at_once(world: World) -> None:
    await world.ask("GetConfig", GET)
    assert value_of(world.ask_quickly("GetConfig", GET)) == 1
    await put_config(world, 2)
    assert value_of(world.ask_quickly("GetConfig", GET)) == 2
    for method in ("EvaluateFlag", "BatchEvaluateFlags"):
        await world.ask(method, READS[method])
        before = world.ask_quickly(method, READS[method])
        await put_flag(world, rollout_percentage=100 if method == "EvaluateFlag" else 0, targeted_users=["u1"])
        assert world.ask_quickly(method, READS[method]) != before


@pytest.mark.parametrize("method", READS)
async def test_stale_replica_answers_the_general_way(world: World, method: str) -> None:
    await world.ask(method, READS[method])
    world.tail.mark_stale(Unavailable("the store is down"))
    assert world.ask_quickly(method, READS[method]) is None
    answer = await world.ask(method, READS[method])
    assert ("x-stale", "true") in answer.trailing_metadata


@pytest.mark.parametrize("method", READS)
@pytest.mark.parametrize(
    "metadata", [[("x-history", "other")], [("if-none-match", '"1-1-x"')], [("x-history", "h"), ("trace-bin", b"\xff")]]
)
async def test_call_out_of_the_ordinary_takes_the_general_path(world: World, method: str, metadata: Any) -> None:
    await world.ask(method, READS[method])
    assert world.ask_quickly(method, READS[method], metadata) is None


@pytest.mark.parametrize("min_revision", [-1, 10_000])
async def test_revision_that_is_not_applied_is_waited_for_elsewhere(world: World, min_revision: int) -> None:
    await world.ask("GetConfig", GET)
    request = config_pb2.GetConfigRequest.FromString(GET)
    request.min_revision = min_revision
    assert world.ask_quickly("GetConfig", request.SerializeToString()) is None
    request.min_revision = world.tail.applied
    assert world.ask_quickly("GetConfig", request.SerializeToString()) is not None


@pytest.mark.parametrize("members", [{"sticky": True}, {"prerequisites": [{"flag_name": "s", "variants": ["on"]}]}])
async def test_flag_whose_result_depends_on_assignments_is_evaluated_the_general_way(
    world: World, members: dict[str, Any]
) -> None:
    await put_flag(world, "s", sticky=True, rollout_percentage=50)
    await put_flag(world, **members)
    for method in ("EvaluateFlag", "BatchEvaluateFlags"):
        await world.ask(method, READS[method])
        assert world.ask_quickly(method, READS[method]) is None


async def test_malformed_and_refused_requests_are_left_to_the_general_path(world: World) -> None:
    bad = config_pb2.GetConfigRequest(key="k", environment="bad name", service_name="svc").SerializeToString()
    for received in (b"\xff", bad, b""):
        assert world.ask_quickly("GetConfig", received) is None
        assert world.ask_quickly("EvaluateFlag", received) is None


async def test_large_value_is_converted_by_the_general_path(world: World) -> None:
    await put_config(world, ["x" * 1_000] * 200)
    await world.ask("GetConfig", GET)
    await world.ask("BulkGetConfigs", BULK)
    assert world.ask_quickly("GetConfig", GET) is None
    assert world.ask_quickly("BulkGetConfigs", BULK) is None


async def test_entry_that_was_read_ahead_of_the_log_says_its_own_revision(world: World) -> None:
    applied = world.tail.applied
    await write_all(world.replica.storage, Put(config("k"), {"value": 7, "description": ""}, Action.UPDATE))
    general = await world.ask("GetConfig", GET)
    if world.tail.applied > applied:
        pytest.fail("the log was read before the entry")
    quick = world.ask_quickly("GetConfig", GET)
    assert quick is not None
    assert config_pb2.GetConfigResponse.FromString(quick.message).revision == applied + 1
    assert quick.message == general.message
    assert ("x-revision", str(applied)) in quick.trailing_metadata
    await world.ask("BulkGetConfigs", BULK)
    assert world.ask_quickly("BulkGetConfigs", BULK) is None, "the general path says what stood together"


async def test_encodings_are_counted_and_evicted_with_their_entries(tmp_path: Path) -> None:
    async with open_world(tmp_path, near_cache_bytes=4_000) as world:
        requests = {}
        for number in range(30):
            await put_config(world, "x" * 100, f"key-{number}")
            request = config_pb2.GetConfigRequest(key=f"key-{number}", environment="test", service_name="svc")
            requests[number] = request.SerializeToString()
            await world.ask("GetConfig", requests[number])
            world.ask_quickly("GetConfig", requests[number])
        assert 0 < world.near_cache.held_bytes <= 4_000
        quick = [number for number, received in requests.items() if world.ask_quickly("GetConfig", received)]
        assert quick
        assert len(quick) < len(requests)
        bulk = config_pb2.BulkGetConfigsRequest(
            keys=[f"key-{number}" for number in quick], environment="test", service_name="svc"
        )
        world.ask_quickly("BulkGetConfigs", bulk.SerializeToString())
        assert world.near_cache.held_bytes <= 4_000


async def test_entry_that_is_read_quickly_stays_longer_than_one_that_is_not(tmp_path: Path) -> None:
    async with open_world(tmp_path, near_cache_entries=10) as world:
        await put_config(world, 1)
        await world.ask("GetConfig", GET)
        for number in range(30):
            assert world.ask_quickly("GetConfig", GET) is not None
            other = config_pb2.GetConfigRequest(key=f"key-{number}", environment="test", service_name="svc")
            await put_config(world, 1, f"key-{number}")
            await world.ask("GetConfig", other.SerializeToString())


async def test_call_that_must_have_a_line_in_the_access_log_takes_the_general_path(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.ask("GetConfig", GET)
    read = world.quick.by_path[path_of("GetConfig")]
    log = world.access_log.of(path_of("GetConfig"))
    assert read(GET, ()) is None
    log.write(1e12, started=1e12, request_id="r", metadata={}, peer="p")
    for received, is_quick in ((GET, True), (GET, True), (b"\xff", False)):
        assert (read(received, ()) is not None) is is_quick
    caplog.set_level(logging.INFO, logger="access")
    log.write(1e12, started=1e12, request_id="r", metadata={}, peer="p")
    (line,) = [JsonFormatter().format(record) for record in caplog.records if record.name == "access"]
    assert json.loads(line)["skipped"] == 2, "the general path counts the calls that it answers"
    everything = QuickReads(Positions(world.tail), AccessLog(writes_all=True, slow_seconds=1).sample_of)
    everything.add(CONFIGS.descriptor, QuickConfigs(world.configs, 10).methods)
    assert everything.by_path == {}


def test_memo_is_bounded_in_bytes() -> None:
    memo = RequestMemo[int]()
    requests = [number.to_bytes(4, "big") * 250 for number in range(20_000)]
    for number, request in enumerate(requests):
        memo.put(request, number)
        memo.put(request, -number, 100)
        assert memo.held_bytes <= MEMO_BYTES
    assert memo.get(requests[-1]) == -19_999
    assert memo.get(requests[0]) is None
    memo.put(b"x" * (8 << 10) + b"y", 1)
    assert memo.get(b"x" * (8 << 10) + b"y") is None
