"""An SMTP server that takes all mail and keeps none, as fast as Python can: run as `python -m bench.mail_sink PORT`.

It answers `COUNT` (which is no SMTP) with how many mails came and when the last one did, so that whoever measures
counts nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import uvloop

END_OF_DATA = b"\r\n.\r\n"
GREETING = b"220 sink.example ESMTP\r\n"
CAPABILITIES = b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000\r\n"
ANSWERS = {
    b"EHLO": CAPABILITIES,
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}
OK = b"250 ok\r\n"


class Counter:
    """What the sink has seen."""

    mails = 0
    last_at = 0.0


class MailSink(asyncio.Protocol):
    """One connection."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._buffer = b""
        self._is_in_data = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        """Take commands and messages out of what came."""
        self._buffer += data
        while self._take_message() if self._is_in_data else self._take_command():
            pass

    def _take_command(self) -> bool:
        line, end, rest = self._buffer.partition(b"\r\n")
        if not end:
            return False
        self._buffer = rest
        verb = line[:4].upper()
        if line == b"COUNT":
            self._transport.write(b"250 %d %r\r\n" % (self._counter.mails, self._counter.last_at))
            return True
        self._is_in_data = verb == b"DATA"
        if self._is_in_data:
            self._buffer = b"\r\n" + self._buffer  # so that an empty message ends too
        self._transport.write(ANSWERS.get(verb, OK))
        if verb == b"QUIT":
            self._transport.close()
        return True

    def _take_message(self) -> bool:
        end = self._buffer.find(END_OF_DATA)
        if end < 0:
            return False
        self._buffer = self._buffer[end + len(END_OF_DATA) :]
        self._is_in_data = False
        self._counter.mails += 1
        self._counter.last_at = time.monotonic()
        self._transport.write(OK)
        return True


async def _serve(port: int) -> None:
    counter = Counter()
    server = await asyncio.get_running_loop().create_server(lambda: MailSink(counter), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
