"""Conversions of large values run beside the event loop."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from configsvc_client.v1 import config_pb2

from configsvc.clock import SystemClock
from configsvc.domain.records import Change
from configsvc.rpc import convert
from configsvc.rpc.convert.message_budget import Detail
from configsvc.rpc.offload import LARGE_BYTES, offload
from configsvc.rpc.responses.watch_streams import WatchStreams
from tests.app.replica import config, open_replica, open_storage
from tests.rpc.local_watches import ALL, open_hub, put, snapshot


async def test_large_conversion_runs_on_another_thread() -> None:
    here = threading.get_ident()
    assert await offload(LARGE_BYTES - 1, threading.get_ident) == here
    assert await offload(LARGE_BYTES, threading.get_ident) != here


async def test_large_change_is_encoded_once_for_all_watchers_on_another_thread(tmp_path: Path) -> None:
    threads: list[int] = []

    def change(found: Change, detail: Detail) -> Any:
        threads.append(threading.get_ident())
        return convert.config_change(found, detail)

    async with open_storage(tmp_path) as storage, open_replica(storage, SystemClock()) as replica:
        hub = open_hub(replica)
        watches = WatchStreams(
            hub, response=config_pb2.WatchConfigsResponse, snapshot=snapshot, item=convert.config, change=change
        )
        streams = [watches.stream(ALL, None) for _ in range(10)]
        for stream in streams:
            assert (await anext(stream)).WhichOneof("event") == "synced"
        await put(replica, config("a"), "x" * LARGE_BYTES)
        messages = await asyncio.gather(*(anext(stream) for stream in streams))
        assert len(set(map(id, messages))) == 1
        assert (len(threads), threads[0] != threading.get_ident()) == (1, True)
        for stream in streams:
            await stream.aclose()
        hub.shutdown()
