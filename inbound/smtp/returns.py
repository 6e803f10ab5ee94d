"""What comes back: bounces to senders that we had rewritten when forwarding, which go on to the sender they are about
(`core.srs`), and mail to the return paths of what customers send, which is for us to understand (`core.sending.verp`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import Executor

from core.address_settings import AddressSettings
from core.addresses import Mailbox
from core.clock import DAY_MS, SECOND_MS, Clock
from core.config import Settings
from core.errors import StorageUnavailable
from core.netguard import MAILTO
from core.routing import AboutSent, Route
from core.sending import verp
from core.sending.sending_domains import MTA_PREFIX
from core.sending.verp import ReturnPaths, is_like_return_path
from core.services.gateway_account import GATEWAY_ACCOUNT_ID, GATEWAY_ADDRESS_ID, ensure_gateway_account
from core.services.returned import find_return_target
from core.services.secrets import shared_secret
from core.srs import SECRET_NAME, SrsRewriter, bounce_destination
from core.store.db import Database

FEEDBACK_MAILBOX = "fbl"
"""At the receiving domain: where feedback loops send complaints. Those say inside which mail they are about."""
MAILS_A_DAY = 100
"""That one receiver takes for one return path. A mail brings back a bounce, a notice or two and an answer; more is two
programs that answer each other."""
COUNTED_PATHS = 10_000
ANSWER_S = 15.0
"""How long a session waits for the database."""
BOUNCE_SETTINGS = AddressSettings(max_message_size=1024 * 1024)
"""A bounce returns headers, perhaps a text: whoever has minted such an address must not send much through it."""
SAME_MAIL_S = DAY_MS // SECOND_MS
"""For how long the same bytes to a return path are the same mail: its host has missed our 250."""
_SRS_PREFIXES = ("srs0", "srs1")
_HOST = "https://returned.invalid"
"""Stands for all returned mail where fairness counts by target host. It is never asked."""


class Returns:
    """Finds the way of what comes back, without blocking the event loop."""

    def __init__(self, settings: Settings, database: Database, clock: Clock, threads: Executor) -> None:
        self._database = database
        self._domain = settings.domain
        self._own_names = frozenset({settings.domain, settings.return_path_host})
        # A host that returns all of a mail returns no more than this.
        self._settings = AddressSettings(
            max_message_size=settings.max_send_size + (BOUNCE_SETTINGS.max_message_size or 0),
            duplicate_window_s=SAME_MAIL_S,
        )
        self._clock = clock
        self._threads = threads
        self._counts = PathCounts(clock)
        self._has_account = False

    async def find(self, mailbox: Mailbox, mail_from: str) -> Route | None:
        """The route of what comes back; None for every other mail.

        Raises `StorageUnavailable`, and `ReturnedTooOften`.
        """
        local = mailbox.local.lower()
        if mailbox.domain == self._domain and local.startswith(_SRS_PREFIXES):
            return await self._ask(mailbox, mail_from)
        if mailbox.domain == self._domain and local == FEEDBACK_MAILBOX:
            return await self._ask(mailbox, mail_from)
        if is_like_return_path(mailbox.local) and self._may_be_ours(mailbox.domain):
            route = await self._ask(mailbox, mail_from)
            if route is not None and route.about is not None and route.about.delivery_id is not None:
                self._counts.add(route.about.delivery_id)
            return route
        return None

    def _may_be_ours(self, domain: str) -> bool:
        return domain in self._own_names or domain.startswith(MTA_PREFIX)

    async def _ask(self, mailbox: Mailbox, mail_from: str) -> Route | None:
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, mailbox, mail_from)
        try:
            return await asyncio.wait_for(asked, ANSWER_S)
        except TimeoutError as error:
            raise StorageUnavailable("the database does not answer") from error

    def _look_up(self, mailbox: Mailbox, mail_from: str) -> Route | None:
        local = mailbox.local.lower()
        if local.startswith(_SRS_PREFIXES):
            return self._to_rewritten_sender(mailbox, mail_from)
        if local == FEEDBACK_MAILBOX:
            return self._route(GATEWAY_ACCOUNT_ID, AboutSent(None))
        return self._to_return_path(mailbox)

    def _to_rewritten_sender(self, mailbox: Mailbox, mail_from: str) -> Route | None:
        rewriter = SrsRewriter(shared_secret(self._database, SECRET_NAME), self._domain, self._clock)
        destination = bounce_destination(rewriter, mailbox, mail_from)
        if destination is None:
            return None
        self._ensure_account()
        target = f"{MAILTO}:{destination.text}"  # for its domain only: it is never parsed
        return Route(GATEWAY_ACCOUNT_ID, GATEWAY_ADDRESS_ID, None, target, BOUNCE_SETTINGS, returns_to=destination.text)

    def _to_return_path(self, mailbox: Mailbox) -> Route | None:
        """The proof first: strangers who try local parts cost no query."""
        paths = ReturnPaths(shared_secret(self._database, verp.SECRET_NAME), self._clock)
        delivery_id = paths.read(mailbox.local)
        if delivery_id is None:
            return None
        target = find_return_target(self._database, delivery_id)
        if target is None:  # retention has removed what it is about: taken, so that its host need not keep it
            return self._route(GATEWAY_ACCOUNT_ID, AboutSent(delivery_id))
        ours = {*self._own_names, target.return_domain}
        return self._route(target.account_id, AboutSent(delivery_id)) if mailbox.domain in ours else None

    def _route(self, account_id: str, about: AboutSent) -> Route:
        self._ensure_account()
        return Route(account_id, GATEWAY_ADDRESS_ID, None, _HOST, self._settings, about=about)

    def _ensure_account(self) -> None:
        if not self._has_account:
            ensure_gateway_account(self._database, self._clock)
            self._has_account = True


class ReturnedTooOften(Exception):
    """A return path that has got too much mail today: to be put off."""


class PathCounts:
    """How much mail each return path has got today; remembers the last `COUNTED_PATHS`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def add(self, delivery_id: str) -> None:
        """Count one mail more. Raises `ReturnedTooOften`."""
        today = self._clock() // DAY_MS
        day, count = self._counts.pop(delivery_id, (today, 0))
        count = count + 1 if day == today else 1
        self._counts[delivery_id] = (today, count)
        if len(self._counts) > COUNTED_PATHS:
            self._counts.popitem(last=False)
        if count > MAILS_A_DAY:
            raise ReturnedTooOften(delivery_id)
