"""The PROXY header of a load balancer: the client's own address, before the first byte of SMTP.

Versions 1 and 2 of HAProxy's specification (doc/proxy-protocol.txt), read by aiosmtpd's parser; what it found is
judged here. The values behind the addresses (TLVs) are skipped, at most 64 KiB of them, which is what the format can
say; a CRC32C among them is not checked.
"""

from __future__ import annotations

import asyncio

from aiosmtpd.proxy_protocol import AF, PROTO, V2_CMD, ProxyData, get_proxy

from inbound.clients import client_ip

HEADER_S = 5.0
"""A load balancer sends its header at once; the specification asks for 3 seconds at least."""


class NoProxyHeader(Exception):
    """What came is no PROXY header, or none that leads to a client."""


async def read_client(reader: asyncio.StreamReader, balancer: tuple[str, int]) -> tuple[str, int]:
    """Read the header, and nothing behind it; gives the client's address and port.

    The balancer's own address stands for connections of its own (LOCAL: health checks) and for those whose client it
    does not know (UNKNOWN, or one on a Unix socket). Raises `NoProxyHeader`.
    """
    try:
        header: ProxyData = await get_proxy(reader)
    except asyncio.IncompleteReadError as error:
        raise NoProxyHeader("the connection ended before it") from error
    if not header.valid:
        raise NoProxyHeader(header.error)
    if header.command == V2_CMD.LOCAL:
        return balancer
    if header.protocol == PROTO.DGRAM:
        raise NoProxyHeader("mail does not come by datagram")
    if header.src_addr is None or header.family == AF.UNIX:
        return balancer
    return client_ip(str(header.src_addr)), header.src_port or 0
