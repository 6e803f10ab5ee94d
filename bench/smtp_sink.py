"""The yardstick for receiving: aiosmtpd on uvloop that keeps nothing. Run as `python -m bench.smtp_sink PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from aiosmtpd.smtp import SMTP


class _Discard:
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 (aiosmtpd's name)
        return "250 OK"


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    handler = _Discard()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="bench", loop=loop), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
