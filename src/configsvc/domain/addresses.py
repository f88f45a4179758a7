"""Which addresses a health check may reach. The URL comes from outside, so this is judged when an instance registers, of
an address that is written in the URL, and at each check, of every address that the name has.

One judgement for both, and for every way to write an address: IPv6 addresses that stand for an IPv4 one, and the forms
of IPv4 that resolvers take (`2852039166`, `0xa9fea9fe`, `0251.0376.0251.0376`, `127.1`).
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


# Where clouds keep what instances must not tell each other (credentials), beside 169.254.0.0/16 and fe80::/10, which
# most use: AWS, Google, Oracle, Scaleway over IPv6; Alibaba, Azure, Oracle over IPv4.
METADATA = _networks(
    "fd00:ec2::254/128", "fd20:ce::254/128", "fd00:c1::a9fe:a9fe/128", "fd00:42::42/128",
    "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32",
)  # fmt: skip
# Unspecified (it means this machine), link-local, multicast, broadcast: no instance is there.
NOWHERE = _networks(
    "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/128", "fe80::/10", "ff00::/8"
)
# Loopback; RFC 1918, 6598, 2544; RFC 4193 and the site-local addresses before it.
PRIVATE = _networks(
    "127.0.0.0/8", "::1/128",
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
    "fc00::/7", "fec0::/10",
)  # fmt: skip

_COMPATIBLE, _TRANSLATED = ip_network("::/96"), ip_network("::ffff:0:0:0/96")
_NAT64, _LOCAL_NAT64 = ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48")
# Where the IPv4 address lies in an IPv6 one, by the length of the translator's prefix (RFC 6052, 2.2).
_PLACES_OF_NAT64 = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))
_ISATAP = (bytes.fromhex("00005efe"), bytes.fromhex("02005efe"))
# Dots of other alphabets, which IDNA takes for dots.
_DOTS = str.maketrans(dict.fromkeys("\u3002\uff0e\uff61", "."))


@dataclass(frozen=True, slots=True)
class AddressRules:
    """`denied`: the operator's own. What is nowhere and what is a cloud's metadata is refused in any case."""

    denied: tuple[Network, ...] = ()
    allows_private: bool = True

    def refusal(self, address: Address) -> str:
        """Why an address may not be looked at; empty if it may."""
        for meant in meanings(address):
            if _in(meant, NOWHERE) or _in(meant, METADATA):
                return "is never checked: link-local, multicast, broadcast, unspecified, or a cloud's metadata"
            if _in(meant, self.denied):
                return "is in HEALTH_CHECK_DENIED_NETWORKS"
            if not self.allows_private and _in(meant, PRIVATE):
                return "is loopback or private, which HEALTH_CHECK_PRIVATE_NETWORKS=false refuses"
        return ""

    def refusal_of_host(self, host: str) -> str:
        """The same of a URL's host, if that is an address; a name is judged when it is looked up."""
        address = literal(host)
        if address is not None:
            return self.refusal(address)
        name = host.rstrip(".").lower()
        if not self.allows_private and (name == "localhost" or name.endswith(".localhost")):
            return self.refusal(IPv4Address("127.0.0.1"))
        return ""


# What nobody may be sent to, whoever connects.
ANYONE = AddressRules()


def _in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def meanings(address: Address) -> frozenset[Address]:
    """The address, and each IPv4 address that is reached by it."""
    if isinstance(address, IPv4Address):
        return frozenset({address})
    packed = address.packed
    found: set[Address] = {IPv6Address(packed)}
    last = IPv4Address(packed[12:])
    if address.ipv4_mapped or address in _NAT64 or address in _TRANSLATED or packed[8:12] in _ISATAP:
        found.add(last)
    # Below come ::, ::1 and what nobody uses.
    if address in _COMPATIBLE and int(last) > 0xFFFF:
        found.add(last)
    if address in _LOCAL_NAT64:
        # The prefix's length is the network's own affair. A zero is the rest of a longer prefix.
        tried = (IPv4Address(bytes(packed[place] for place in places)) for places in _PLACES_OF_NAT64)
        found.update(meant for meant in tried if int(meant) > 0xFF_FFFF)
    if address.sixtofour:
        found.add(address.sixtofour)
    if address.teredo:
        found.update(address.teredo)
    return frozenset(found)


def literal(host: str) -> Address | None:
    """The address that a host is, however it is written; None if it is a name. A zone is left out."""
    text = unicodedata.normalize("NFKC", unquote(host).translate(_DOTS)).strip("[]")
    try:
        if ":" in text:
            return IPv6Address(text.partition("%")[0])
    except ValueError:
        return None
    number = _inet_aton(text.removesuffix("."))
    return None if number is None else IPv4Address(number)


def _inet_aton(text: str) -> int | None:
    """As the C library reads it: one to four numbers in base 10, 8 or 16, of which the last fills what is left."""
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
