"""Mail that was sent, for tests of what comes back for it."""

from __future__ import annotations

import re
import smtplib
from dataclasses import dataclass

import orjson

from core.clock import DAY_MS, system_clock
from core.ids import new_domain_id, new_time_ordered_id
from core.sending import verp
from core.sending.verp import RETURN_HEADER, ReturnPaths
from core.services.secrets import shared_secret
from core.services.sends import NewSend, Submitter, store_send
from core.store.db import Database, Row
from tests.returned_samples import BOUNCE_ADDRESS, KIM, MESSAGE_ID

US = "us.test"
RETURN_PATH_LINE = f"Return-Path: <{BOUNCE_ADDRESS}>"


@dataclass(frozen=True, slots=True)
class Sent:
    """A mail to one recipient that a host has taken."""

    database: Database
    account_id: str
    message_id: str
    delivery_id: str
    return_path: str

    @property
    def local_part(self) -> str:
        """Of its return path."""
        return self.return_path.partition("@")[0]

    def events(self) -> list[tuple[str, dict[str, object]]]:
        """What has been told of it since it was accepted, oldest first."""
        rows = self._rows("SELECT kind, details FROM event WHERE delivery_id = ? ORDER BY id")
        return [(kind, orjson.loads(details)) for kind, details in rows if kind != "registration"]

    def kinds(self) -> list[str]:
        """Of the events."""
        return [kind for kind, _ in self.events()]

    def returned(self) -> list[Row]:
        """Account and state of the mails that came back for it, oldest first."""
        like = f'%"{self.delivery_id}"%'
        with self.database.reading():
            return self.database.execute(
                "SELECT account_id, state FROM delivery WHERE kind = 'returned' AND detail LIKE ? ORDER BY id", (like,)
            )

    def suppressed(self) -> list[Row]:
        """Reason and domain of the entries of its account."""
        with self.database.reading():
            return self.database.execute(
                "SELECT address, reason, sending_domain_id FROM suppression WHERE account_id = ?", (self.account_id,)
            )

    def _rows(self, statement: str) -> list[Row]:
        with self.database.reading():
            return self.database.execute(statement, (self.delivery_id,))


def add_sending_domain(database: Database, account_id: str, name: str = US) -> str:
    """A sending domain; gives its id."""
    made = new_domain_id()
    with database.transaction():
        database.execute(
            "INSERT INTO sending_domain (id, account_id, domain, dkim_verified, return_path_verified, spf_verified, "
            "dmarc_verified, tracking_verified, next_check_ms, settings, created_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '{}', 0)",
            (made, account_id, name, True, True, True, True, False, system_clock() + 1_000 * DAY_MS),
        )
    return made


def store_sent(
    database: Database,
    account_id: str,
    recipient: str = KIM,
    sending_domain_id: str | None = None,
    return_domain: str = "pillarbox.test",
) -> Sent:
    """Store a mail as sent and taken by the recipient's host. No worker ever gets to see it."""
    now_ms = system_clock()
    content = b"From: shop@us.test\r\nSubject: Your order\r\n\r\nHello.\r\n"
    stored = store_send(
        database,
        NewSend(
            message_id=new_time_ordered_id(now_ms), submitter=Submitter(account_id, "test", "192.0.2.1"),
            sending_domain_id=sending_domain_id, mail_from="shop@us.test", recipients=(recipient,),
            header_from="Shop <shop@us.test>", header_to=(recipient,), header_cc=(), subject="Your order",
            header_message_id=MESSAGE_ID, content=content, size=len(content), md5="0" * 32, needs_smtputf8=False,
            received_ms=now_ms, send_at_ms=now_ms + DAY_MS,
        ),
        system_clock,
    )  # fmt: skip
    (only,) = stored.recipients
    with database.transaction():
        database.execute(
            "UPDATE delivery SET state = 'delivered', finished_ms = ? WHERE id = ?", (now_ms, only.delivery_id)
        )
    paths = ReturnPaths(shared_secret(database, verp.SECRET_NAME), system_clock)
    return Sent(database, account_id, stored.message_id, only.delivery_id, paths.make(only.delivery_id, return_domain))


def addressed(raw: bytes, sent: Sent) -> bytes:
    """A sample, with this mail's return path wherever it names one, and its mark in the header that is returned."""
    path = sent.return_path.encode()
    marked = raw.replace(RETURN_PATH_LINE.encode(), b"Return-Path: <%s>\r\n%s: %s" % (
        path, RETURN_HEADER.encode(), sent.local_part.encode(),
    ))  # fmt: skip
    return re.sub(re.escape(BOUNCE_ADDRESS.encode()), path, marked)


def rcpt(port: int, *recipients: str, sender: str = "", size: int | None = None) -> list[str]:
    """The replies to these recipients, in one transaction that is given up."""
    with smtplib.SMTP("127.0.0.1", port, "mx.far.test", timeout=20) as client:
        client.ehlo()
        client.mail(sender, [] if size is None else [f"SIZE={size}"])
        replies = []
        for recipient in recipients:
            code, text = client.rcpt(recipient)
            replies.append(f"{code} {text.decode()}")
        return replies
