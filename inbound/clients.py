"""Who a client is: its address in one spelling, and the group that limits count it by."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from core.netguard import IPNetwork

IPV6_GROUP_BITS = 64
"""What a provider gives one customer at least (RFC 6177): within it, anybody has as many addresses as he likes."""
_REMEMBERED = 4_096


@lru_cache(maxsize=_REMEMBERED)
def client_ip(host: str) -> str:
    """One spelling for each client: IPv4 that came in over a dual-stack socket is IPv4, and zones are dropped."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)


@lru_cache(maxsize=_REMEMBERED)
def client_group(ip: str) -> str:
    """What limits count by: the IPv4 address, or the /64 of an IPv6 one."""
    try:
        address = ipaddress.ip_address(client_ip(ip))
    except ValueError:
        return ip
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_GROUP_BITS), strict=False))


def is_within(ip: str, networks: Iterable[IPNetwork]) -> bool:
    """Whether an address belongs to one of the networks."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    return any(address.version == network.version and address in network for network in networks)
