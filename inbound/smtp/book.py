"""The address book as the receiver asks it: the store behind a short-lived cache of what was found.

Only finds are remembered, and only for a moment: a stale "unknown" would refuse mail for an address that was just
made, for good.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from core.addresses import Mailbox
from core.clock import Clock
from core.errors import StorageUnavailable
from core.routing import Refusal, Route, resolve
from core.services.routing_book import StoredAddressBook

REMEMBER_MS = 2_000
ANSWER_S = 15.0
"""How long a session waits for the store: longer than SQLite's busy timeout and a refused connection take."""
CACHE_ENTRIES = 10_000


class CachedRoutes:
    """Finds routes without blocking the event loop."""

    def __init__(
        self, book: StoredAddressBook, receiving_domain: str, clock: Clock, answer_s: float = ANSWER_S
    ) -> None:
        self._answer_s = answer_s
        self._book = book
        self._receiving_domain = receiving_domain
        self._clock = clock
        self._found: OrderedDict[tuple[str, str], tuple[int, Route]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="address-book")

    async def find(self, mailbox: Mailbox) -> Route | Refusal:
        """The route of a recipient. Raises `StorageUnavailable` when the store must be asked and cannot answer."""
        key = self._key(mailbox)
        remembered = self._found.get(key)
        if remembered is not None and remembered[0] > self._clock():
            return remembered[1]
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._thread, resolve, mailbox, self._receiving_domain, self._book)
        try:
            route = await asyncio.wait_for(asked, self._answer_s)
        except TimeoutError as error:
            raise StorageUnavailable("the database does not answer") from error
        if isinstance(route, Route):
            self._remember(key, route)
        return route

    def _key(self, mailbox: Mailbox) -> tuple[str, str]:
        """Tags do not matter on the receiving domain; elsewhere a pattern may look at the whole."""
        is_default = mailbox.domain == self._receiving_domain
        return (mailbox.untagged_local if is_default else mailbox.text, mailbox.domain)

    def _remember(self, key: tuple[str, str], route: Route) -> None:
        self._found[key] = (self._clock() + REMEMBER_MS, route)
        self._found.move_to_end(key)
        if len(self._found) > CACHE_ENTRIES:
            self._found.popitem(last=False)
