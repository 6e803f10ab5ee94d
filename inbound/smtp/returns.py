"""Bounces to senders that we had rewritten when forwarding: they go on to the sender they are about (`core.srs`)."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from core.address_settings import AddressSettings
from core.addresses import Mailbox
from core.clock import Clock
from core.netguard import MAILTO
from core.routing import Route
from core.services.gateway_account import GATEWAY_ACCOUNT_ID, GATEWAY_ADDRESS_ID, ensure_gateway_account
from core.services.secrets import shared_secret
from core.srs import SECRET_NAME, SrsRewriter, bounce_destination
from core.store.db import Database

BOUNCE_SETTINGS = AddressSettings(max_message_size=1024 * 1024)
"""A bounce returns headers, perhaps a text: whoever has minted such an address must not send much through it."""
_PREFIXES = ("srs0", "srs1")


class Returns:
    """Finds the way back, without blocking the event loop."""

    def __init__(self, database: Database, receiving_domain: str, clock: Clock, threads: Executor) -> None:
        self._database = database
        self._domain = receiving_domain
        self._clock = clock
        self._threads = threads

    async def find(self, mailbox: Mailbox, mail_from: str) -> Route | None:
        """The route of a bounce; None for every other mail. Raises `StorageUnavailable`."""
        if mailbox.domain != self._domain or not mailbox.local.lower().startswith(_PREFIXES):
            return None
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, mailbox, mail_from)

    def _look_up(self, mailbox: Mailbox, mail_from: str) -> Route | None:
        rewriter = SrsRewriter(shared_secret(self._database, SECRET_NAME), self._domain, self._clock)
        destination = bounce_destination(rewriter, mailbox, mail_from)
        if destination is None:
            return None
        ensure_gateway_account(self._database, self._clock)
        target = f"{MAILTO}:{destination.text}"  # for its domain only: it is never parsed
        return Route(GATEWAY_ACCOUNT_ID, GATEWAY_ADDRESS_ID, None, target, BOUNCE_SETTINGS, returns_to=destination.text)
