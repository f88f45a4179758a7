"""Addresses that no health check may reach, however they are written, and whatever else a name resolves to."""

from collections.abc import Callable

import pytest

from tests.probes.conftest import Listening, problem
from tests.probes.test_network import answering

DENIED = [
    # Link-local: where clouds keep what instances must not know of each other.
    "169.254.169.254",
    "169.254.0.1",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
    "[2002:a9fe:a9fe::1]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    # Other ways to write an IPv4 address, which resolvers understand.
    "2852039166",
    "0xa9fea9fe",
    # Unspecified: it means this machine.
    "0.0.0.0",
    "0",
    "[::]",
    "[::ffff:0.0.0.0]",
    # Multicast.
    "224.0.0.1",
    "[ff02::1]",
]


@pytest.mark.parametrize("scheme", ["http", "https", "tcp", "grpc"])
@pytest.mark.parametrize("host", DENIED)
async def test_an_address_that_is_never_checked_is_refused(scheme: str, host: str) -> None:
    found = await problem(f"{scheme}://{host}:80/")
    assert "is never checked" in found or "is in HEALTH_CHECK_DENIED_NETWORKS" in found


@pytest.mark.parametrize("scheme", ["http", "tcp", "grpc"])
async def test_an_octal_address_is_refused_too(scheme: str) -> None:
    found = await problem(f"{scheme}://0251.0376.0251.0376:80/")
    assert "is never checked" in found or "Invalid IPv4 address" in found


@pytest.mark.parametrize("scheme", ["http", "tcp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]"])
async def test_networks_of_the_settings_are_refused_and_nothing_is_sent(
    listening: Listening, scheme: str, host: str
) -> None:
    port = await listening(answering())
    url = f"{scheme}://{host}:{port}/"
    assert "HEALTH_CHECK_DENIED_NETWORKS" in await problem(url, denied="10.0.0.0/8,127.0.0.0/8")
    assert listening.connections == 0
    assert await problem(url) == ""


@pytest.mark.parametrize("scheme", ["http", "tcp", "grpc"])
@pytest.mark.parametrize("addresses", [("127.0.0.1", "169.254.169.254"), ("fe80::1", "127.0.0.1")])
async def test_a_name_with_one_address_that_is_denied_is_refused_whole(
    listening: Listening, resolves: Callable[..., None], scheme: str, addresses: tuple[str, ...]
) -> None:
    port = await listening(answering())
    resolves("instance.example", *addresses)
    assert "is never checked" in await problem(f"{scheme}://instance.example:{port}/")
    assert listening.connections == 0


async def test_the_connection_goes_to_the_address_that_was_judged(
    listening: Listening, resolves: Callable[..., None]
) -> None:
    """The name exists for the one look at it alone: whoever resolved it again would find nothing."""
    port = await listening(answering())
    resolves("instance.invalid", "127.0.0.1")
    for scheme in ("http", "tcp"):
        assert await problem(f"{scheme}://instance.invalid:{port}/") == ""
