"""Deliveries in a database, for tests of what claims, attempts and records them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from core.clock import SECOND_MS
from core.delivery import HTTP_POLICY, DeliveryKind, Outcome, Policy, http_verdict
from core.ids import new_address_id, new_signing_secret
from core.netguard import target_host
from core.routing import Route
from core.services.acceptance import store_accepted
from core.services.accounts import NewAccount
from core.services.claims import Claim, ClaimRequest, claim
from core.services.leases import FinishedAttempt
from core.services.received import ClaimedDelivery, FinishedMail, load_received
from core.services.recording import record
from core.store.db import Database, Row
from core.store.models import Address
from tests.api_support import accepted_mail
from tests.conftest import NOW_MS

ATTEMPT_LIMIT_MS = 20 * SECOND_MS
LEASE_MS = ATTEMPT_LIMIT_MS + 15 * SECOND_MS
RAW = b"From: a@example.com\r\nSubject: Hello\r\n\r\nHi.\r\n"


class EveryHost(Collection[str]):
    """All hosts there are: none is a newcomer."""

    def __contains__(self, host: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass
class Deliveries:
    """What is in one database, and ways to work on it."""

    database: Database
    account: NewAccount
    addresses: dict[str, str] = field(default_factory=dict)
    """Address ids by target."""

    def address(self, target: str) -> str:
        """The id of the address with this target, made where there is none."""
        if target not in self.addresses:
            made = self.addresses[target] = new_address_id()
            with self.database.transaction():
                Address.create(
                    id=made, account=self.account.account_id, target=target, target_format="json+n",
                    secret=new_signing_secret(), created_ms=NOW_MS, updated_ms=NOW_MS,
                )  # fmt: skip
        return self.addresses[target]

    def accept(self, target: str, count: int = 1, now_ms: int = NOW_MS) -> list[str]:
        """Accept so many mails for a target; gives the delivery ids in the order in which they come due."""
        route = Route(self.account.account_id, self.address(target), None, target)
        mails = [accepted_mail(now_ms, (("in@pillarbox.test", route),), raw=RAW) for _ in range(count)]
        store_accepted(self.database, mails)
        with self.database.reading():
            rows = dict(self.database.execute("SELECT message_id, id FROM delivery"))
        return [rows[mail.message_id] for mail in mails]

    def claim(self, now_ms: int = NOW_MS, **changes: Any) -> Claim[ClaimedDelivery]:
        """Claim once, as a worker of 64 threads that knows every host."""
        return claim(self.database, claim_request(**changes), load_received, now_ms)

    def record(
        self, claimed: ClaimedDelivery, status: int, now_ms: int = NOW_MS, policy: Policy = HTTP_POLICY, **fields: Any
    ) -> None:
        """Record one attempt with this answer."""
        with self.database.transaction():
            record(self.database, [finished(claimed, status, now_ms, **fields)], policy, now_ms)

    def rows(self, columns: str = "state, attempts, last_status, last_error") -> list[Row]:
        """The deliveries, oldest first."""
        return self.execute(f"SELECT {columns} FROM delivery ORDER BY id")

    def attempts(self, columns: str = "number, status") -> list[Row]:
        """The log of attempts, oldest first."""
        return self.execute(f"SELECT {columns} FROM attempt ORDER BY id")

    def execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Row]:
        """Any statement, in a transaction of its own."""
        with self.database.transaction():
            return self.database.execute(statement, parameters)

    def set_health(self, target: str, failures: int = 0, open_until_ms: int = 0, is_slow: bool = False) -> None:
        """What is remembered of a target's host."""
        self.execute(
            "INSERT INTO target_health (target_host, failures, open_until_ms, is_slow) VALUES (?, ?, ?, ?)",
            (target_host(target), failures, open_until_ms, is_slow),
        )


def claim_request(**changes: Any) -> ClaimRequest:
    """What a worker of 64 threads asks for that has seen every host answer well."""
    request = ClaimRequest(
        kind=DeliveryKind.INBOUND,
        free_places=64,
        pool_size=64,
        host_concurrency=32,
        proven_hosts=EveryHost(),
        attempt_limit_ms=ATTEMPT_LIMIT_MS,
    )
    return replace(request, **changes)


def finished(claimed: ClaimedDelivery, status: int, now_ms: int = NOW_MS, **fields: Any) -> FinishedAttempt:
    """An attempt with this answer; `fields` are an Outcome's."""
    body_text = fields.pop("body_text", None)
    made = Outcome(http_verdict(status), status, now_ms, fields.pop("duration_ms", 50), **fields)
    return FinishedMail(claimed, made, body_text=body_text)
