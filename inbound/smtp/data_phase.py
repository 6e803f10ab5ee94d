"""The bytes between 354 and the final dot: read in blocks, ended by `<CRLF>.<CRLF>` and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from inbound.smtp.spool import END_OF_DATA, MessageSpool, SpooledMessage

_T = TypeVar("_T")


class EndlessMessage(Exception):
    """The client goes on long after the message was too large."""


async def read_message(reader: asyncio.StreamReader, spool: MessageSpool, most: int) -> SpooledMessage | None:
    """Feed the spool to the end of the message; None when it overflowed.

    Raises `EndlessMessage` after `most` bytes, and `asyncio.IncompleteReadError` when the client has gone. A spool
    that was not finished is discarded.
    """
    # The CRLF that ended the DATA line is part of the terminator of an empty message.
    reader._buffer[:0] = b"\r\n"  # type: ignore[attr-defined]  # asyncio has no public way to put bytes back
    received = 0
    try:
        while True:
            try:
                last = await reader.readuntil(END_OF_DATA)
                return await _off_loop_when_large(spool, spool.finish, last)
            except asyncio.LimitOverrunError as error:
                block = await reader.readexactly(error.consumed)
            received += len(block)
            if received > most:
                raise EndlessMessage
            await _off_loop_when_large(spool, spool.append, block)
    except BaseException:
        spool.discard()
        raise


async def _off_loop_when_large(spool: MessageSpool, take: Callable[[bytes], _T], data: bytes) -> _T:
    """A spool that writes to a file does so in a thread."""
    if spool.is_small_with(data):
        return take(data)
    taking = asyncio.get_running_loop().run_in_executor(None, _take_unless_discarded, spool, take, data)
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        await asyncio.wait([taking])  # or the thread would go on with a spool that has been discarded
        raise


def _take_unless_discarded(spool: MessageSpool, take: Callable[[bytes], _T], data: bytes) -> _T:
    """A session that is cut off a second time, as the receiver stops, does not wait: then we clear up behind it."""
    try:
        return take(data)
    finally:
        if spool.is_discarded:
            spool.discard()
