"""kazoo's client, configured for this service."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.retry import KazooRetry

from configsvc.clock import Clock, wait_within

_driver_logger = logging.getLogger("configsvc.registry.zookeeper.client.driver")
_driver_logger.setLevel(logging.ERROR)

# How long the end of a client is waited for. A server that hangs lets the session expire.
CLOSE_SECONDS = 2.0


class _InOrderHandler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's handler with one queue, so that watch events and answers arrive in the order of the connection."""

    def dispatch_callback(self, callback: Any) -> None:
        self.completion_queue.put(lambda: callback.func(*callback.args))


def new_client(
    hosts: str, session_seconds: float, auth: tuple[str, str] | None, acl: Sequence[Any] | None
) -> KazooClient:
    """A client that reconnects for ever, and retries no command."""
    return KazooClient(
        hosts,
        timeout=session_seconds,
        connection_retry=KazooRetry(max_tries=-1, delay=0.1, backoff=2, max_delay=1.0),
        command_retry=KazooRetry(max_tries=0),
        auth_data=[auth] if auth else None,
        default_acl=acl,
        logger=_driver_logger,
        handler=_InOrderHandler(),
    )


async def close_client(client: KazooClient, clock: Clock) -> None:
    """Ends the client's session, so that its nodes vanish at once."""

    def close() -> None:
        client.stop()
        client.close()

    await wait_within(clock, CLOSE_SECONDS, asyncio.get_running_loop().run_in_executor(None, close))
