"""What requests and answers about sent messages hold: CloudMailin's fields first, then ours."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel

from core.clock import to_rfc3339
from core.delivery import DeliveryState
from core.errors import NotFound
from core.search import MAX_QUERY_LENGTH
from core.sending.priority import Priority
from core.services.sent_messages import RecipientRecord, SentEvent, SentRecord
from web.api.fields import STATUS_ID, Text, Timestamp, as_optional_parameter
from web.api.message_models import EXAMPLE_ID, SenderPath
from web.api.paging import PAGE_HEADERS, ListQuery

EXAMPLE_QUERY = "last_event:bounce AND created_at:[now-1d/d TO now]"
EXAMPLE_LOGIN = "5f0c9ad2b1e84d37"
_ADDRESS = re.compile(r'(?:^|<)((?:"(?:[^"\\]|\\.)*"|[^\s"<>]+)@[^\s"<>@]+)>?$')
"""The end of `Name <user@example.com>`, as `outbound.listed_headers.shown` writes it."""


def _check_message_id(text: str) -> str:
    """An id of another form names nothing, as an unknown one does: 404, not 422. Raises `NotFound`."""
    lowered = text.lower()
    if not re.fullmatch(STATUS_ID, lowered):
        raise NotFound("there is no message with this id")
    return lowered


MessageId = Annotated[
    str,
    AfterValidator(_check_message_id),
    Field(description="The id of a message.", json_schema_extra={"format": "uuid", "example": EXAMPLE_ID}),
]


class OutboundPath(SenderPath):
    """One sent message."""

    message_id: MessageId


class OutboundListQuery(ListQuery):
    """Which sent messages to list."""

    outbound_account_id: Text | None = Field(
        default=None,
        max_length=64,
        description="Only messages that came with this SMTP username, or API key.",
        json_schema_extra=as_optional_parameter,
    )
    query: Text | None = Field(
        default=None,
        max_length=MAX_QUERY_LENGTH,
        description="A search in Elasticsearch's query string syntax over from, to, subject, tag, stream, message_id, "
        "priority, test_mode, state, event, last_event, created_at and metadata.<key>, such as "
        f"`{EXAMPLE_QUERY}`.",
        json_schema_extra=as_optional_parameter,
    )


class MessageEvent(BaseModel):
    """One step of a recipient."""

    kind: str = Field(json_schema_extra={"example": "delivery"})
    timestamp: Timestamp
    details: dict[str, Any] = Field(
        description="What there is to tell: `agent`, `reply_code`, `delivery_status`, `smtp_response`, `remote_host`, "
        "and ours: `reason`, `url`, `ip`, `attempt`, `next_attempt_at`, `tls`, `severity`, `is_test`.",
        json_schema_extra={"example": {"reply_code": "250", "smtp_response": "250 2.0.0 OK"}},
    )


class Recipient(BaseModel):
    """One recipient and where its delivery stands."""

    email: str = Field(json_schema_extra={"example": "recipient@example.com"})
    last_event: str | None = Field(
        description="The kind of its last event; null once events were purged.",
        json_schema_extra={"example": "delivery"},
    )
    state: DeliveryState = Field(
        description="`pending`, `delivered`, `rejected` by the recipient's host, `exhausted` (no retries are left), "
        "`quarantined` (held: a pause, or the spam check), `suppressed` (never sent), or `cancelled`. Ours."
    )
    attempts: int = Field(description="How many attempts there have been. Ours.", ge=0)
    next_attempt_at: Timestamp | None = Field(description="When it will be tried (again). Ours.")
    finished_at: Timestamp | None = Field(description="When it was delivered or given up. Ours.")
    error: str | None = Field(description="Why the last attempt failed, or why it is held. Ours.")


class RecipientDetail(Recipient):
    """One recipient with its events."""

    events: list[MessageEvent] = Field(description="In the order they happened.")


class OutboundMessage(BaseModel):
    """A sent message and where its deliveries stand."""

    id: MessageId
    sender: str = Field(
        serialization_alias="from",
        description="The author's address, or the envelope sender that an SMTP client gave.",
        json_schema_extra={"example": "sender@example.com"},
    )
    subject: str | None = Field(json_schema_extra={"example": "Hello from Pillarbox"})
    message_id: str = Field(
        description="Its Message-ID header, with angle brackets.",
        json_schema_extra={"example": f"<{EXAMPLE_ID}@mx.example.com>"},
    )
    to: list[str] = Field(description="Addresses of its To header.")
    cc: list[str] = Field(description="Addresses of its Cc header.")
    tags: list[str]
    test_mode: bool
    created_at: Timestamp
    recipients: list[Recipient] = Field(description="Everybody who gets it, Bcc too.")
    header_from: str = Field(
        description="Its From header, decoded. Ours.", json_schema_extra={"example": "Sender <sender@example.com>"}
    )
    outbound_account_id: str = Field(
        description="The SMTP username, or API key, it came with. Ours.", json_schema_extra={"example": EXAMPLE_LOGIN}
    )
    sending_domain_id: str | None = Field(description="Null for a domain that the account has not added. Ours.")
    priority: Priority
    stream: str
    metadata: dict[str, str]
    size: int = Field(description="Bytes, as it was accepted. Ours.", ge=0)
    send_at: Timestamp | None = Field(description="When it was scheduled for. Ours.")


class OutboundMessageDetail(OutboundMessage):
    """A sent message with all events of its recipients."""

    recipients: list[RecipientDetail] = Field(description="Everybody who gets it, Bcc too.")  # type: ignore[assignment]


class OutboundMessageList(RootModel[list[OutboundMessage]]):
    """Sent messages, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


def message_answer(record: SentRecord, now_ms: int) -> OutboundMessage:
    """A message as lists show it."""
    shown = [Recipient(**_recipient(one, now_ms)) for one in record.recipients]
    return OutboundMessage(**_common(record), recipients=shown)


def detail_answer(record: SentRecord, now_ms: int) -> OutboundMessageDetail:
    """A message with all there is to know."""
    shown = [
        RecipientDetail(**_recipient(one, now_ms), events=[_event(event) for event in one.events])
        for one in record.recipients
    ]
    return OutboundMessageDetail(**_common(record), recipients=shown)


def _common(record: SentRecord) -> dict[str, Any]:
    return {
        "id": record.message_id,
        "sender": record.mail_from,
        "subject": record.subject,
        "message_id": f"<{record.header_message_id}>",
        "to": [_bare(one) for one in record.header_to],
        "cc": [_bare(one) for one in record.header_cc],
        "tags": list(record.tags),
        "test_mode": record.is_test,
        "created_at": to_rfc3339(record.created_ms),
        "header_from": record.header_from,
        "outbound_account_id": record.username,
        "sending_domain_id": record.sending_domain_id,
        "priority": record.priority,
        "stream": record.stream,
        "metadata": dict(record.metadata),
        "size": record.size,
        "send_at": None if record.send_at_ms is None else to_rfc3339(record.send_at_ms),
    }


def _recipient(record: RecipientRecord, now_ms: int) -> dict[str, Any]:
    is_pending = record.state is DeliveryState.PENDING
    is_attempted = is_pending and record.is_leased and record.due_ms > now_ms
    return {
        "email": record.address,
        "last_event": record.last_event,
        "state": record.state,
        "attempts": record.attempts,
        "next_attempt_at": to_rfc3339(record.due_ms) if is_pending and not is_attempted else None,
        "finished_at": None if record.finished_ms is None else to_rfc3339(record.finished_ms),
        "error": record.last_error,
    }


def _event(event: SentEvent) -> MessageEvent:
    """CloudMailin's clients expect the reply code as text."""
    details = dict(event.details)
    if "reply_code" in details:
        details["reply_code"] = str(details["reply_code"])
    return MessageEvent(kind=event.kind, timestamp=to_rfc3339(event.at_ms), details=details)


def _bare(text: str) -> str:
    """The address of a mailbox; what cannot be read as one stays as it is."""
    found = _ADDRESS.search(text)
    return found[1] if found else text
