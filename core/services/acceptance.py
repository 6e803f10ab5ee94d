"""Taking responsibility for mail: many accepted messages become durable in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from core.delivery import DeliveryKind, DeliveryState
from core.ids import new_time_ordered_id
from core.netguard import target_host
from core.routing import Route
from core.store.db import Database, Row

_INSERT_MESSAGE = """
INSERT INTO message (id, mail_from, helo, remote_ip, tls_version, tls_cipher, size, md5, subject, header_from,
                     header_message_id, received_ms)
VALUES {rows}"""
_INSERT_RAW = "INSERT INTO raw_message (message_id, body, blob_key) VALUES {rows}"
_INSERT_DELIVERY = """
INSERT INTO delivery (id, kind, account_id, message_id, address_id, custom_domain_id, recipients, target_host, state,
                      attempts, cycle_attempts, cycle_started_ms, due_ms, created_ms)
VALUES {rows}"""

_IS_STORED = "SELECT 1 FROM message WHERE id = ?"


@dataclass(frozen=True, slots=True)
class AcceptedMail:
    """One SMTP transaction that is about to be answered with 250."""

    message_id: str
    mail_from: str
    recipients: tuple[tuple[str, Route], ...]
    """Each accepted recipient, as given, with its route."""
    helo: str
    remote_ip: str
    tls_version: str | None
    tls_cipher: str | None
    size: int
    md5: str
    subject: str | None
    header_from: str | None
    header_message_id: str | None
    received_ms: int
    raw: bytes | None
    """The bytes, when they go into the row; else they are in the blob store already."""
    blob_key: str | None


def store_accepted(database: Database, mails: Sequence[AcceptedMail]) -> None:
    """Commit messages and their deliveries, all or none. Raises `StorageUnavailable`."""
    messages = [_message_row(mail) for mail in mails]
    bodies = [(mail.message_id, mail.raw, mail.blob_key) for mail in mails]
    deliveries = [row for mail in mails for row in _delivery_rows(mail)]
    with database.transaction():
        database.execute_values(_INSERT_MESSAGE, messages)
        database.execute_values(_INSERT_RAW, bodies)
        database.execute_values(_INSERT_DELIVERY, deliveries)


def is_stored(database: Database, message_id: str) -> bool:
    """Whether a message was committed. Raises `StorageUnavailable` when that cannot be known now."""
    with database.reading():
        return bool(database.execute(_IS_STORED, (message_id,)))


def _message_row(mail: AcceptedMail) -> Row:
    return (
        mail.message_id, mail.mail_from, mail.helo, mail.remote_ip, mail.tls_version, mail.tls_cipher, mail.size,
        mail.md5, mail.subject, mail.header_from, mail.header_message_id, mail.received_ms,
    )  # fmt: skip


def _delivery_rows(mail: AcceptedMail) -> list[Row]:
    """One delivery for each address (and each custom domain with its own target), with all its recipients."""
    grouped: dict[tuple[str, str | None], tuple[Route, list[str]]] = {}
    for recipient, route in mail.recipients:
        grouped.setdefault(route.delivery_key, (route, []))[1].append(recipient)
    return [_delivery_row(mail, route, recipients) for route, recipients in grouped.values()]


def _delivery_row(mail: AcceptedMail, route: Route, recipients: list[str]) -> Row:
    moment = mail.received_ms
    return (
        new_time_ordered_id(moment), DeliveryKind.INBOUND, route.account_id, mail.message_id, route.address_id,
        route.custom_domain_id, orjson.dumps(recipients).decode(), target_host(route.target), DeliveryState.PENDING,
        0, 0, moment, moment, moment,
    )  # fmt: skip
