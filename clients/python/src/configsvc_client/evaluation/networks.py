"""IP addresses and networks, the attributes and operands of `cidr`."""

import ipaddress
from typing import Any

from configsvc_client.evaluation import limits

Json = Any

# (4 or 6, address as an integer).
Address = tuple[int, int]


def address(text: Json) -> Address | None:
    """An IPv4 or IPv6 address; None if the text is not one. An IPv4 address inside IPv6 is that IPv4 address."""
    if not isinstance(text, str) or len(text) > limits.OPERAND_CHARACTERS:
        return None
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.version, int(parsed)


def network_operand(operand: Json) -> tuple[int, int, int]:
    """An operand of `cidr`: (4 or 6, number of host bits, network bits as an integer).

    IPv4 networks inside IPv6 (::ffff:0:0/96) are those IPv4 networks, as IPv4 addresses are in `address`.
    """
    allowed = "must be a network such as '10.0.0.0/8' or '2001:db8::/32', or an address"
    if not isinstance(operand, str) or len(operand) > limits.OPERAND_CHARACTERS or "%" in operand:
        raise ValueError(allowed)
    try:
        network = ipaddress.ip_network(operand, strict=False)
    except ValueError:
        raise ValueError(allowed) from None
    if int(network.network_address) != int(ipaddress.ip_address(operand.partition("/")[0])):
        raise ValueError(f"must not have bits beyond its prefix; '{network}' may be meant")
    host_bits = network.max_prefixlen - network.prefixlen
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and host_bits <= 32:
        # A network of IPv4, as in `address`: ::ffff:10.0.0.0/104 is 10.0.0.0/8.
        return 4, host_bits, int(mapped) >> host_bits
    return network.version, host_bits, int(network.network_address) >> host_bits
