"""Whether a name and a password open the door: looked up in threads, slower and at last not at all for those who guess.

Nothing tells an unknown name from a wrong password: both are one look-up by digest, one reply, one delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from core.clock import MINUTE_MS, Clock
from core.errors import StorageUnavailable
from core.services.accounts import CredentialKind
from core.services.credential_use import CredentialUse
from core.services.credentials import Credential, Scope, find_active, find_credential
from core.store.db import Database
from inbound.clients import client_group
from inbound.smtp.rates import RateLimit
from inbound.submission.replies import SubmissionReply

MAX_FAILURES = 20
"""Failed logins of one address (or IPv6 /64) within `FAILURE_PERIOD_MS`; then none is tried."""
FAILURE_PERIOD_MS = 10 * MINUTE_MS
RECHECK_MS = MINUTE_MS
"""A session outlives the login that opened it by no more than this, should that be revoked."""
THREADS = 4
ANSWER_S = 20.0
"""How long a database may take to say who somebody is."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Login:
    """Who has logged in to a session."""

    credential: Credential
    checked_ms: int


class Logins:
    """The doorkeeper of one process."""

    def __init__(self, database: Database, use: CredentialUse, clock: Clock) -> None:
        self._database = database
        self._use = use
        self._clock = clock
        self._failures = RateLimit(MAX_FAILURES, clock, period_ms=FAILURE_PERIOD_MS)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="login")

    def is_barred(self, ip: str) -> bool:
        """Whether so many logins have failed from there that no more are tried."""
        return self._failures.is_used_up(client_group(ip))

    def failures(self, ip: str) -> int:
        """How many have failed from there lately."""
        return self._failures.count(client_group(ip))

    async def open(self, ip: str, username: str, password: str) -> Login | SubmissionReply:
        """The login, or the reply that refuses it. Raises `StorageUnavailable`.

        A client that hangs up without waiting for the answer has tried all the same.
        """
        return await asyncio.shield(self._open(ip, username, password))

    async def recheck(self, login: Login) -> Login | None:
        """The login as it is now; None when it opens nothing any more. Raises `StorageUnavailable`."""
        if self._clock() - login.checked_ms < RECHECK_MS:
            return login
        found = await self._ask(lambda: find_active(self._database, login.credential.username))
        if found is None or Scope.SEND not in found.scopes:
            return None
        self._use.note(found)
        return Login(found, self._clock())

    def stop(self) -> None:
        """Try no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _open(self, ip: str, username: str, password: str) -> Login | SubmissionReply:
        found = await self._ask(lambda: find_credential(self._database, username, password))
        if found is None:
            self._failures.allow(client_group(ip))
            return SubmissionReply.WRONG_LOGIN
        if found.kind is not CredentialKind.SMTP:
            return SubmissionReply.IS_API_KEY
        if Scope.SEND not in found.scopes:
            return SubmissionReply.MAY_NOT_SEND
        self._use.note(found)
        return Login(found, self._clock())

    async def _ask(self, question: Callable[[], _T]) -> _T:
        asking = asyncio.get_running_loop().run_in_executor(self._threads, _asked_twice, question)
        try:
            return await asyncio.wait_for(asking, ANSWER_S)
        except TimeoutError as error:
            raise StorageUnavailable("the database does not answer") from error


def _asked_twice(question: Callable[[], _T]) -> _T:
    """The first query after a pause meets connections that died meanwhile; the next opens a new one."""
    try:
        return question()
    except StorageUnavailable:
        return question()
