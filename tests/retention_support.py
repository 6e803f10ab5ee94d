"""Mail of any age and state in a database and a blob store, for tests of what removes it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from core.clock import DAY_MS
from core.delivery import DeliveryState
from core.ids import new_time_ordered_id
from core.routing import Route
from core.services.acceptance import DeliveryPlan, store_accepted
from core.services.accounts import NewAccount
from core.services.retention import PurgeLimits, RetentionAges
from core.store.blobs import BlobStore
from core.store.db import Database, Row
from tests.api_support import accepted_mail
from tests.conftest import NOW_MS
from tests.deliveries import Deliveries

FAST = PurgeLimits(pause_s=0.0)
RAW = b"Subject: hello\r\n\r\nhi\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"x" * 1000
_LOG_ATTEMPT = "INSERT INTO attempt (delivery_id, number, started_ms, duration_ms, status) VALUES (?, ?, ?, 5, 500)"
TABLES = ("message", "raw_message", "delivery", "attempt")


def days_ago(days: float, now_ms: int = NOW_MS) -> int:
    """That moment in milliseconds."""
    return now_ms - int(days * DAY_MS)


@dataclass
class Archive:
    """What lies in a database, and its blob store."""

    database: Database
    account: NewAccount
    blobs: BlobStore
    folder: Path
    """For spool files."""
    deliveries: Deliveries = field(init=False)

    def __post_init__(self) -> None:
        self.deliveries = Deliveries(self.database, self.account)

    def receive(
        self,
        at_ms: int,
        states: tuple[tuple[DeliveryState, int | None], ...] = ((DeliveryState.DELIVERED, None),),
        is_large: bool = False,
        attempts: tuple[int, ...] = (),
        duplicate_window_ms: int = 0,
    ) -> str:
        """One mail with a delivery for each state and moment of its end, each with attempts begun at those moments.

        Gives the id of the message.
        """
        targets = [f"https://target{number}.example.com/" for number in range(len(states))]
        routes = [Route(self.account.account_id, self.deliveries.address(target), None, target) for target in targets]
        mail = accepted_mail(at_ms, tuple((f"to{n}@pillarbox.test", route) for n, route in enumerate(routes)), raw=RAW)
        plans = {route.delivery_key: DeliveryPlan(duplicate_window_ms=duplicate_window_ms) for route in routes}
        mail = replace(mail, plans=plans, md5=new_time_ordered_id()[-32:])
        if is_large:
            mail = replace(mail, raw=None, blob_key=mail.message_id, size=len(LARGE))
            self.put_blob(mail.message_id)
        with self.database.transaction():
            store_accepted(self.database, [mail])
            self._execute("UPDATE message SET body_text = 'hi', verdicts = '{}' WHERE id = ?", mail.message_id)
            for target, (state, ended_ms) in zip(targets, states, strict=True):
                ((delivery_id,),) = self._execute(
                    "SELECT id FROM delivery WHERE message_id = ? AND address_id = ?",
                    mail.message_id,
                    self.deliveries.address(target),
                )
                self.end(delivery_id, state, ended_ms)
                for number, started_ms in enumerate(attempts):
                    self._execute(_LOG_ATTEMPT, delivery_id, number + 1, started_ms)
        return mail.message_id

    def end(self, delivery_id: str, state: DeliveryState, ended_ms: int | None) -> None:
        """Put a delivery into a state."""
        self._execute("UPDATE delivery SET state = ?, finished_ms = ? WHERE id = ?", state.value, ended_ms, delivery_id)

    def put_blob(self, key: str) -> None:
        """Store a large message without telling the database."""
        path = self.folder / f"spool-{key}"
        path.write_bytes(LARGE)
        self.blobs.put_file(key, path)

    def blob_keys(self) -> list[str]:
        """What lies in the blob store."""
        keys: list[str] = []
        cursor = ""
        while True:
            page = self.blobs.list_page(cursor)
            keys += page.keys
            cursor = page.next_cursor
            if not cursor:
                return sorted(keys)

    def counts(self) -> dict[str, int]:
        """Rows of each table."""
        return {table: self._execute(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}

    def raw_ids(self) -> list[str]:
        """Messages that have their bytes."""
        return [row[0] for row in self._execute("SELECT message_id FROM raw_message ORDER BY message_id")]

    def delivery_of(self, message_id: str) -> str:
        """The id of a message's only delivery."""
        ((delivery_id,),) = self._execute("SELECT id FROM delivery WHERE message_id = ?", message_id)
        return str(delivery_id)

    def _execute(self, statement: str, *parameters: str | int | None) -> list[Row]:
        return self.deliveries.execute(statement, parameters)


def ages(raw: int = 0, parsed: int = 0, attempts: int = 0, statuses: int = 0) -> RetentionAges:
    """Only what is named goes."""
    return RetentionAges(raw, parsed, attempts, statuses)
