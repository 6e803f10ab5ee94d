"""Whence a request really comes, where a reverse proxy stands before us."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from flask import Request

from core.netguard import LOOPBACK, IPNetwork

FORWARDED = "X-Forwarded-For"
MAX_HOPS = 20


def client_address(request: Request, proxies: Sequence[IPNetwork] = ()) -> str:
    """The address of the client; empty when it is not known.

    Only a proxy on this machine or in one of the networks is believed, and of what it passes on only what it, or such
    a proxy before it, has added itself: the rightmost address that is no such proxy. What stands left of that is the
    client's own claim.
    """
    trusted = (*LOOPBACK, *proxies)
    peer = request.remote_addr or ""
    said = ",".join(request.headers.getlist(FORWARDED)).split(",")
    hops = [peer, *(hop.strip() for hop in reversed(said[-MAX_HOPS:]))]
    found = ""
    for hop in hops:
        try:
            address = ipaddress.ip_address(hop)
        except ValueError:
            return found
        plain = getattr(address, "ipv4_mapped", None) or address
        found = str(plain)
        if not any(plain.version == network.version and plain in network for network in trusted):
            return found
    return found
