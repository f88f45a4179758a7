"""Addresses that no health check may reach, in every notation, and whatever other addresses a name has.

No test makes a connection that leaves the machine: denied addresses are refused before that.
"""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.domain.addresses import METADATA, AddressRules, parse_address
from configsvc.domain.fields import checked
from configsvc.domain.limits import Limits
from configsvc.domain.registrations import Registration, validate
from configsvc.errors import InvalidInput
from tests.probes.conftest import Servers, failure_of
from tests.probes.test_network import answering

DENIED = [
    # Link-local: the metadata services of clouds.
    "169.254.169.254",
    "169.254.0.1",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
    "[2002:a9fe:a9fe::1]",
    "[fe80::1]",
    "[fe80::1%eth0]",
    "[fe80::1%25eth0]",
    "[::169.254.169.254]",
    "[64:ff9b:1::169.254.169.254]",
    "[64:ff9b:1:a9fe:a9:fe00::]",
    "[2001:0:4136:e378:8000:63bf:5601:5601]",
    "[2001:0:a9fe:a9fe::1]",
    "[2001:db8::5efe:a9fe:a9fe]",
    "[::ffff:0:169.254.169.254]",
    "[::ffff:168.63.129.16]",
    "[2002:6464:64c8::]",
    # Metadata services that are not link-local.
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "1684301000",
    # Other notations of an IPv4 address, which resolvers understand.
    "2852039166",
    "0xa9fea9fe",
    "0xA9FEA9FE",
    "0xa9.0xfe.43518",
    "169.16689662",
    "169.254.169.254.",
    "169。254。169。254",
    "１６９.254.169.254",
    "0xffffffff",
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
async def test_denied_address_is_refused_at_the_check(scheme: str, host: str) -> None:
    found = await failure_of(f"{scheme}://{host}:80/")
    assert "is never checked" in found or "is in HEALTH_CHECK_DENIED_NETWORKS" in found


@pytest.mark.parametrize("host", [*DENIED, "0251.0376.0251.0376"])
@pytest.mark.parametrize("field", ["service_url", "health_check_url"])
def test_denied_address_is_refused_at_registration_with_the_field_name(field: str, host: str) -> None:
    denied, other = f"http://{host}/latest", "http://h:1"
    urls = (denied, other) if field == "service_url" else (other, denied)
    with pytest.raises(InvalidInput, match=f"{field}: must have another address"), checked(Limits()) as fields:
        validate(fields, Registration("svc", urls[0], health_check_url=urls[1]))


PRIVATE = [
    "127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "10.1.2.3", "172.31.0.1", "192.168.0.1",
    "100.64.0.1", "[fd12:3456::1]", "[64:ff9b::10.0.0.1]", "localhost", "a.localhost.",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize("allows_private", [True, False])
async def test_private_networks_are_allowed_unless_the_setting_denies_them(host: str, allows_private: bool) -> None:
    registered = Registration("svc", f"http://{host}:1", health_check_url=f"http://{host}:1/health")
    if allows_private:
        with checked(Limits()) as fields:
            validate(fields, registered, AddressRules())
        return
    with (
        pytest.raises(InvalidInput, match=r"^health_check_url: .*HEALTH_CHECK_PRIVATE_NETWORKS"),
        checked(Limits()) as fields,
    ):
        validate(fields, registered, AddressRules(allows_private=False))
    if "localhost" not in host:
        assert "HEALTH_CHECK_PRIVATE_NETWORKS" in await failure_of(f"http://{host}:1/", allows_private=False)


@pytest.mark.parametrize(
    "host", ["h", "cafe", "0x", "1.2.3.4.5", "256.1.1.1", "08.1.1.1", "a.1", "8.8.8.8", "[2001:db8::1]"]
)
def test_names_and_public_addresses_are_accepted(host: str) -> None:
    with checked(Limits()) as fields:
        validate(fields, Registration("svc", f"http://{host}:1", health_check_url=f"http://{host}:1/"))


ADDRESSES = st.sampled_from([*METADATA, *AddressRules().denied]).map(lambda network: network[0]) | st.integers(
    0xA9FE0000, 0xA9FEFFFF
).map(IPv4Address)


@given(
    address=ADDRESSES.filter(lambda address: address.version == 4),
    how=st.integers(0, 11),
    rest=st.binary(min_size=16, max_size=16),
)
def test_embedded_ipv4_addresses_are_judged(address: IPv4Address, how: int, rest: bytes) -> None:
    four, full = address.packed, bytearray(rest)
    match how:
        case 0:
            full[:] = bytes(12) + four
        case 1:
            full[:] = bytes(10) + b"\xff\xff" + four
        case 2:
            full[:] = bytes(8) + b"\xff\xff\x00\x00" + four
        case 3:
            full[:] = bytes.fromhex("0064ff9b0000000000000000") + four
        case 4:
            full[:6] = b"\x20\x02" + four
        case 5:
            full[:8] = bytes.fromhex("20010000") + four
        case 6:
            full[:4], full[12:] = bytes.fromhex("20010000"), bytes(255 - byte for byte in four)
        case 7:
            full[8:] = bytes.fromhex("02005efe") + four
        case _:
            full[:6] = bytes.fromhex("0064ff9b0001")
            places = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))[how - 8]
            for place, byte in zip(places, four, strict=True):
                full[place] = byte
    assert AddressRules().refusal(IPv6Address(bytes(full)))


@given(address=st.integers(0, 0xFFFF_FFFF).map(IPv4Address), form=st.integers(0, 5))
def test_every_notation_of_an_ipv4_address_is_parsed(address: IPv4Address, form: int) -> None:
    a, b, c, d = address.packed
    written = (
        str(address), str(int(address)), hex(int(address)), f"0{a:o}.{b}.{hex(c)}.0{d:o}", f"{a}.{(b << 16) + (c << 8) + d}",
        f"{a}.{b}.{(c << 8) + d}",
    )[form]  # fmt: skip
    assert parse_address(written) == address


@pytest.mark.parametrize("scheme", ["http", "tcp", "grpc"])
async def test_octal_address_is_refused(scheme: str) -> None:
    found = await failure_of(f"{scheme}://0251.0376.0251.0376:80/")
    assert "is never checked" in found or "Invalid IPv4 address" in found


@pytest.mark.parametrize("scheme", ["http", "tcp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]"])
async def test_networks_of_the_setting_are_refused_before_connecting(serve: Servers, scheme: str, host: str) -> None:
    port = await serve(answering())
    url = f"{scheme}://{host}:{port}/"
    assert "HEALTH_CHECK_DENIED_NETWORKS" in await failure_of(url, denied="10.0.0.0/8,127.0.0.0/8")
    assert serve.connections == 0
    assert await failure_of(url) == ""


@pytest.mark.parametrize("scheme", ["http", "tcp", "grpc"])
@pytest.mark.parametrize("addresses", [("127.0.0.1", "169.254.169.254"), ("fe80::1", "127.0.0.1")])
async def test_name_with_one_denied_address_is_refused(
    serve: Servers, resolve_to: Callable[..., None], scheme: str, addresses: tuple[str, ...]
) -> None:
    port = await serve(answering())
    resolve_to("instance.example", *addresses)
    assert "is never checked" in await failure_of(f"{scheme}://instance.example:{port}/")
    assert serve.connections == 0


async def test_connection_goes_to_the_judged_address(serve: Servers, resolve_to: Callable[..., None]) -> None:
    """The name exists only in the replaced resolver. A second resolution elsewhere would fail."""
    port = await serve(answering())
    resolve_to("instance.invalid", "127.0.0.1")
    for scheme in ("http", "tcp"):
        assert await failure_of(f"{scheme}://instance.invalid:{port}/") == ""
