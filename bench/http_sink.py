"""An HTTP server that answers 200 to everything, as fast as Python can: run as `python -m bench.http_sink PORT`.

`GET /count` tells how many POSTs came and when the last one did, so that the measuring process counts nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STATUS_PATH = b"GET /count"


class Counter:
    """What the sink has seen."""

    requests = 0
    last_at = 0.0


class SinkProtocol(asyncio.Protocol):
    """Counts POSTs; `GET /count` tells how many, and when the last one came (`time.monotonic`)."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer every complete request in the buffer."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = end + 4 + _content_length(self._buffer[:end])
            if len(self._buffer) < length:
                return
            self._answer(self._buffer[:end])
            self._buffer = self._buffer[length:]

    def _answer(self, head: bytes) -> None:
        if head.startswith(STATUS_PATH):
            body = f"{self._counter.requests} {self._counter.last_at!r}".encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            return
        self._counter.requests += 1
        self._counter.last_at = time.monotonic()
        self._transport.write(ANSWER)


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    start = lowered.find(b"content-length:")
    return 0 if start < 0 else int(lowered[start + 15 :].split(b"\r\n", 1)[0])


async def _serve(port: int) -> None:
    counter = Counter()
    server = await asyncio.get_running_loop().create_server(lambda: SinkProtocol(counter), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
