"""A real HTTP server that behaves as a test tells it to: answers, delays, resets, truncates, drips, redirects.

The path of the URL says what to do, so that a target needs no other set-up:
`/ok`, `/status/503`, `/sleep/2.5`, `/reset`, `/close`, `/truncate`, `/drip`, `/redirect/307/ok`, `/endless`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

DRIP_S = 0.05
ENDLESS_CHUNK = b"x" * 65536


@dataclass(frozen=True, slots=True)
class Received:
    """One request, as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    """`time.monotonic()` when its last byte had arrived."""
    connection: int
    """Numbers the TCP connections, to see which were used again."""


@dataclass
class HttpTarget:
    """A running server and everything it received."""

    port: int
    received: list[Received] = field(default_factory=list)
    scripted: dict[str, list[bytes]] = field(default_factory=dict)
    """Raw answers to give on a path, one after the other, before what the path says."""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def url(self, path: str = "/ok", credentials: str = "") -> str:
        """The URL of a path here."""
        return f"http://{credentials}127.0.0.1:{self.port}{path}"

    def wait_for(self, count: int, timeout: float = 20.0) -> list[Received]:
        """Wait until so many requests have arrived; fails with what there is."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.received) >= count, timeout)
        assert arrived, f"{len(self.received)} of {count} requests arrived within {timeout} s"
        return list(self.received)

    def record(self, request: Received) -> None:
        """Called by the server."""
        with self._changed:
            self.received.append(request)
            self._changed.notify_all()


@contextmanager
def running_target(port: int = 0) -> Iterator[HttpTarget]:
    """Start a server on a port of loopback, any free one by default."""
    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    target = HttpTarget(listener.getsockname()[1])
    numbers = iter(range(1, 1_000_000))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await _serve(target, reader, writer, next(numbers))
        writer.close()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(connected, sock=listener, limit=1 << 20)

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield target
    finally:
        loop.call_soon_threadsafe(_shut, loop, server)
        thread.join(5)


def _shut(loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> None:
    server.close()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.call_soon(loop.stop)


async def _serve(
    target: HttpTarget, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
) -> None:
    while head := await _read_head(reader):
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        target.record(Received(method, path, headers, body, time.monotonic(), connection))
        if not await _answer(target, path, writer):
            return


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\r\n\r\n"))[:-4]
    except asyncio.IncompleteReadError:
        return b""


async def _answer(target: HttpTarget, path: str, writer: asyncio.StreamWriter) -> bool:
    """Behave; returns whether the connection stays open."""
    if target.scripted.get(path):
        writer.write(target.scripted[path].pop(0))
        await writer.drain()
        return True
    _, action, *rest = [*path.split("?")[0].split("/"), "", ""]
    if action == "sleep":
        await asyncio.sleep(float(rest[0]))
    if action == "reset":
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    if action == "close":
        return False
    if action == "truncate":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
        await writer.drain()
        return False
    if action == "drip":
        return await _drip(writer)
    if action == "endless":
        return await _endless(writer)
    if action == "redirect":
        location = "/" + "/".join(part for part in rest[1:] if part)
        writer.write(f"HTTP/1.1 {rest[0]} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
    else:
        status = int(rest[0]) if action == "status" else 200
        writer.write(reply(status, b"" if status == 204 else b"answer of the test target"))
    await writer.drain()
    return True


def reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A raw HTTP answer, for `scripted`."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def _drip(writer: asyncio.StreamWriter) -> bool:
    """A header that never ends, a byte at a time: each byte resets a naive timeout."""
    writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(DRIP_S)


async def _endless(writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(ENDLESS_CHUNK)
        await writer.drain()
