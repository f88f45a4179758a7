"""kazoo alone, called from coroutines: calls are made there, and kazoo's thread hands the answers over."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kazoo.client import KazooClient

from benchmarks.alone.commands import Work, main

BASE = "/kazoo-alone"


@asynccontextmanager
async def opened(config: dict[str, Any]) -> AsyncIterator[Work]:
    """`hosts`: ZooKeeper's. `work`: register (a new ephemeral node), heartbeat (a read of one node; its session is the
    lease), or discover (all nodes of a service, of which there are `instances`)."""
    client: Any = KazooClient(config["hosts"])
    client.start()
    numbers = itertools.count()
    root = f"{BASE}/{client.client_id[0]}"

    async def put(service: str, instance_id: str) -> None:
        data = {"name": service, "id": instance_id, "address": f"http://127.0.0.1:9/{instance_id}"}
        await _answered(
            client.create_async(f"{root}/{service}/{instance_id}", json.dumps(data).encode(), ephemeral=True)
        )

    async def register(worker: int) -> None:
        await put("registered", f"{worker}-{next(numbers)}")

    async def heartbeat(worker: int) -> None:
        await _answered(client.exists_async(f"{root}/payments/{worker % config['instances']}"))

    async def discover(_worker: int) -> None:
        path = f"{root}/payments"
        names = await _answered(client.get_children_async(path))
        nodes = await asyncio.gather(*(_answered(client.get_async(f"{path}/{name}")) for name in names))
        found = [json.loads(data) for data, _ in nodes]
        assert len(found) == config["instances"], "kazoo finds all instances"

    try:
        client.ensure_path(f"{root}/payments")
        client.ensure_path(f"{root}/registered")
        for number in range(config["instances"]):
            await put("payments", str(number))
        yield {"register": register, "heartbeat": heartbeat, "discover": discover}[config["work"]]
    finally:
        client.stop()
        client.close()


async def _answered(result: Any) -> Any:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()
    result.rawlink(lambda done: loop.call_soon_threadsafe(_settle, answer, done))
    return await answer


def _settle(answer: "asyncio.Future[Any]", done: Any) -> None:
    if answer.done():
        return
    if done.successful():
        answer.set_result(done.get(block=False))
    else:
        answer.set_exception(done.exception)


if __name__ == "__main__":
    main(opened)
