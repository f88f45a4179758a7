"""Envoy's admin interface on its unix socket, as far as the supervisor needs it."""

import json

import httpx

# The admin interface answers from memory; what takes longer is not there.
ANSWER_SECONDS = 2.0


async def ask(path: str, request: str, *, method: str = "GET") -> str:
    """The body of an answer.

    Raises:
        httpx.HTTPError: nobody answers, not in time, or not with 200.
    """
    transport = httpx.AsyncHTTPTransport(uds=path)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", timeout=ANSWER_SECONDS) as client:
        answer = await client.request(method, request)
        answer.raise_for_status()
        return answer.text


async def listening_port(path: str) -> int:
    """The port of the one listener."""
    listeners = json.loads(await ask(path, "/listeners?format=json"))["listener_statuses"]
    return int(listeners[0]["local_address"]["socket_address"]["port_value"])


async def active(path: str, what: str) -> int:
    """How many `rq` (requests, streams among them) or `cx` (connections) the listener carries."""
    text = await ask(path, f"/stats?filter=^http.gateway.downstream_{what}_active$")
    return int(text.rpartition(":")[2].strip() or 0)


async def begin_drain(path: str) -> None:
    """From now on each connection is told to close with its next answer; new ones are still taken."""
    await ask(path, "/healthcheck/fail", method="POST")


async def close_listeners(path: str) -> None:
    """Takes no new connections; those that are open go on."""
    await ask(path, "/drain_listeners", method="POST")
