"""Envoy's admin interface on its unix socket. `path` is the socket's.

All functions raise `httpx.HTTPError` if there is no answer in time, or one whose status is not 200.
"""

import json

import httpx

# The admin interface answers from memory. If it takes longer than this, it is not there.
ANSWER_SECONDS = 2.0


async def listening_port(path: str) -> int:
    """The port of the one listener. Raises `IndexError` or `KeyError` if it does not listen yet."""
    listeners = json.loads(await _request(path, "GET", "/listeners?format=json"))["listener_statuses"]
    return int(listeners[0]["local_address"]["socket_address"]["port_value"])


async def active_connections(path: str) -> int:
    """How many connections the listener has."""
    return await _gauge(path, "cx")


async def active_requests(path: str) -> int:
    """How many requests are in flight, streams among them."""
    return await _gauge(path, "rq")


async def endpoints(path: str) -> dict[str, bool]:
    """The addresses of the workers on unix sockets that Envoy knows, each with whether it is healthy."""
    clusters = json.loads(await _request(path, "GET", "/clusters?format=json"))["cluster_statuses"]
    return {
        f"unix:{host['address']['pipe']['path']}": set(host["health_status"]) <= {"eds_health_status"}
        for cluster in clusters
        for host in cluster.get("host_statuses", ())
    }


async def begin_drain(path: str) -> None:
    """From now on each connection is told to close with its next answer. New connections are still accepted."""
    await _request(path, "POST", "/healthcheck/fail")


async def close_listeners(path: str) -> None:
    """Accepts no new connections. Open ones go on."""
    await _request(path, "POST", "/drain_listeners")


async def _gauge(path: str, kind: str) -> int:
    text = await _request(path, "GET", f"/stats?filter=^http.gateway.downstream_{kind}_active$")
    return int(text.rpartition(":")[2].strip() or 0)


async def _request(path: str, method: str, target: str) -> str:
    transport = httpx.AsyncHTTPTransport(uds=path)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", timeout=ANSWER_SECONDS) as client:
        response = await client.request(method, target)
        response.raise_for_status()
        return response.text
