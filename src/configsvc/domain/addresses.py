"""Which addresses a health check may reach. The URL comes from outside, so its address is judged twice: when an instance
registers, if the URL contains an address, and at each check, for every address that the name resolves to.

The same rules apply to every notation: IPv6 addresses that embed an IPv4 address, and the notations of IPv4 that resolvers
accept (`2852039166`, `0xa9fea9fe`, `0251.0376.0251.0376`, `127.1`).
"""

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from urllib.parse import unquote

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


# The metadata services of clouds, which give out credentials, in addition to 169.254.0.0/16 and fe80::/10, which most use:
# AWS, Google, Oracle, Scaleway over IPv6; Alibaba, Azure, Oracle over IPv4.
METADATA = _networks(
    "fd00:ec2::254/128", "fd20:ce::254/128", "fd00:c1::a9fe:a9fe/128", "fd00:42::42/128",
    "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32",
)  # fmt: skip
# Unspecified (it means this machine), link-local, multicast, broadcast: no instance has such an address.
NEVER_INSTANCES = _networks(
    "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/128", "fe80::/10", "ff00::/8"
)
# Loopback; RFC 1918, 6598, 2544; RFC 4193 and the site-local addresses that it replaced.
PRIVATE = _networks(
    "127.0.0.0/8", "::1/128",
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
    "fc00::/7", "fec0::/10",
)  # fmt: skip

_COMPATIBLE, _TRANSLATED = ip_network("::/96"), ip_network("::ffff:0:0:0/96")
_NAT64, _LOCAL_NAT64 = ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48")
# The bytes of the IPv4 address in an IPv6 address, by the length of the translator's prefix (RFC 6052, 2.2).
_NAT64_BYTES = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))
_ISATAP = (bytes.fromhex("00005efe"), bytes.fromhex("02005efe"))
# Characters of other scripts that IDNA treats as dots.
_DOTS = str.maketrans(dict.fromkeys("\u3002\uff0e\uff61", "."))


@dataclass(frozen=True, slots=True)
class AddressRules:
    """`denied`: the operator's networks. `NEVER_INSTANCES` and `METADATA` are always refused."""

    denied: tuple[Network, ...] = ()
    allows_private: bool = True

    def refusal(self, address: Address) -> str:
        """Why an address may not be checked; empty if it may."""
        for meant in with_embedded(address):
            if _in(meant, NEVER_INSTANCES) or _in(meant, METADATA):
                return "is never checked: link-local, multicast, broadcast, unspecified, or a cloud's metadata"
            if _in(meant, self.denied):
                return "is in HEALTH_CHECK_DENIED_NETWORKS"
            if not self.allows_private and _in(meant, PRIVATE):
                return "is loopback or private, which HEALTH_CHECK_PRIVATE_NETWORKS=false refuses"
        return ""

    def refusal_of_host(self, host: str) -> str:
        """The same for the host of a URL, if it is an address. A name is judged when it is resolved."""
        address = parse_address(host)
        if address is not None:
            return self.refusal(address)
        name = host.rstrip(".").lower()
        if not self.allows_private and (name == "localhost" or name.endswith(".localhost")):
            return self.refusal(IPv4Address("127.0.0.1"))
        return ""


# The rules without an operator's own.
DEFAULT_RULES = AddressRules()


def _in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def with_embedded(address: Address) -> frozenset[Address]:
    """The address, and each IPv4 address that a connection to it may reach."""
    if isinstance(address, IPv4Address):
        return frozenset({address})
    packed = address.packed
    found: set[Address] = {IPv6Address(packed)}
    last = IPv4Address(packed[12:])
    if address.ipv4_mapped or address in _NAT64 or address in _TRANSLATED or packed[8:12] in _ISATAP:
        found.add(last)
    # Smaller values are ::, ::1 and unused.
    if address in _COMPATIBLE and int(last) > 0xFFFF:
        found.add(last)
    if address in _LOCAL_NAT64:
        # Each network chooses its prefix length, so every length is tried. A leading zero belongs to a longer prefix.
        candidates = (IPv4Address(bytes(packed[index] for index in indexes)) for indexes in _NAT64_BYTES)
        found.update(candidate for candidate in candidates if int(candidate) > 0xFF_FFFF)
    if address.sixtofour:
        found.add(address.sixtofour)
    if address.teredo:
        found.update(address.teredo)
    return frozenset(found)


def parse_address(host: str) -> Address | None:
    """The address that a host is, in any notation; None if the host is a name. A zone is ignored."""
    text = unicodedata.normalize("NFKC", unquote(host).translate(_DOTS)).strip("[]")
    try:
        if ":" in text:
            return IPv6Address(text.partition("%")[0])
    except ValueError:
        return None
    number = _inet_aton(text.removesuffix("."))
    return None if number is None else IPv4Address(number)


def _inet_aton(text: str) -> int | None:
    """As the C library parses it: one to four numbers in base 10, 8 or 16. The last one fills the remaining bytes."""
    parts = text.split(".")
    if len(parts) > 4 or not all(re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", part) for part in parts):
        return None
    numbers = []
    for part in parts:
        base = 16 if part[:2].lower() == "0x" else 8 if part.startswith("0") else 10
        try:
            numbers.append(int(part, base) if len(part) <= 64 else 1 << 32)
        except ValueError:
            return None
    *first, last = numbers
    if any(number > 0xFF for number in first) or last >= 1 << 8 * (4 - len(first)):
        return None
    return sum(number << 8 * (3 - place) for place, number in enumerate(first)) + last
