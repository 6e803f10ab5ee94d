"""What requests and answers about incoming statuses hold."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

from core.clock import to_rfc3339
from core.delivery import DeliveryState
from core.search import MAX_QUERY_LENGTH
from core.services.statuses import AttemptRecord, StatusCategory, StatusRecord
from core.verdicts import Verdicts
from web.api.fields import AccountPath, AddressId, StatusId, StrictQuery, Text, Timestamp, as_optional_parameter
from web.api.paging import MAX_CURSOR_LENGTH, PAGE_HEADERS, ListQuery

EXAMPLE_QUERY = "status_category:delayed AND created_at:[now-1d/d TO now]"


class StatusPath(AccountPath):
    """One status."""

    status_id: StatusId


class StatusListQuery(ListQuery):
    """Which statuses to list."""

    address_id: AddressId | None = Field(
        default=None, description="Only messages to this address.", json_schema_extra=as_optional_parameter
    )
    query: Text | None = Field(
        default=None,
        max_length=MAX_QUERY_LENGTH,
        description="A search in Elasticsearch's query string syntax over status, status_category, state, from, to, "
        f"subject, body and created_at, such as `{EXAMPLE_QUERY}`.",
        json_schema_extra=as_optional_parameter,
    )


class ReplayQuery(StrictQuery):
    """Which statuses to try again, or to release."""

    query: Text = Field(
        max_length=MAX_QUERY_LENGTH,
        description="A search as in the list; `*` for all.",
        json_schema_extra={"example": "status_category:failed"},
    )
    address_id: AddressId | None = Field(
        default=None, description="Only messages to this address.", json_schema_extra=as_optional_parameter
    )
    cursor: Text | None = Field(
        default=None,
        max_length=MAX_CURSOR_LENGTH,
        description="The `next_cursor` of the call before.",
        json_schema_extra=as_optional_parameter,
    )


class IncomingStatus(BaseModel):
    """A received message and where its delivery stands."""

    id: StatusId
    address_id: AddressId
    message_id: str | None = Field(
        description="Its Message-ID, without angle brackets.",
        json_schema_extra={"example": "CAB=Hge+gC2LqXPu14q@mail.example.net"},
    )
    to: str = Field(description="The first recipient.", json_schema_extra={"example": "recipient@example.net"})
    recipients: list[str] = Field(description="All recipients that share this delivery.")
    sender: str = Field(
        serialization_alias="from",
        description="The envelope sender; empty for a bounce.",
        json_schema_extra={"example": "sender@example.net"},
    )
    status: int | None = Field(
        description="The HTTP status of the last attempt; 0 when the target could not be reached, null before the "
        "first attempt has ended.",
        json_schema_extra={"example": 200},
    )
    status_category: StatusCategory | None = Field(
        description="`successful`; `delayed` (failed, and will be tried again); `failed` (for good); `quarantined`; "
        "null while nothing has failed or succeeded yet."
    )
    state: DeliveryState = Field(
        description="`pending`, `delivered`, `rejected` by the target, `exhausted` (no retries are left), "
        "`quarantined` (a rule or a check holds it until it is released), or `deferred` (inline: the sender was told "
        "to come again)."
    )
    error: str | None = Field(description="Why the last attempt got no usable answer, or why it is held.")
    flags: list[str] = Field(description="What rules and checks have noted.", json_schema_extra={"example": ["spam"]})
    released: bool = Field(description="Whether it was released from quarantine.")
    attempts: int = Field(description="How many attempts there have been.", ge=0)
    in_progress: bool = Field(description="Whether it is being delivered at this moment.")
    next_attempt_at: Timestamp | None = Field(description="When it will be tried again.")
    subject: str | None = Field(json_schema_extra={"example": "Example Subject Line"})
    tls: str | None = Field(
        description="The TLS version it came with; null without TLS.", json_schema_extra={"example": "TLSv1.3"}
    )
    md5: str = Field(description="The MD5 of the raw message.")
    size: int = Field(description="The bytes of the raw message.", ge=0)
    created_at: Timestamp


class Attempt(BaseModel):
    """One attempt to deliver a message."""

    number: int = Field(ge=1)
    started_at: Timestamp
    duration: float = Field(description="In seconds.", ge=0, json_schema_extra={"example": 0.153})
    status: int = Field(description="The HTTP status; 0 when the target could not be reached.")
    error: str | None = Field(description="Why there was no usable answer.")
    response: str | None = Field(description="The first 2 KB of a failing answer.")


class IncomingStatusDetail(IncomingStatus):
    """A received message with its attempts."""

    finished_at: Timestamp | None = Field(description="When it was delivered or given up.")
    target_host: str = Field(
        description="Where it goes, without path and credentials.",
        json_schema_extra={"example": "https://example.com:443"},
    )
    verdicts: dict[str, Any] | None = Field(
        description="What SPF, DKIM, DMARC, ARC, spam and virus checks found; null when none were made."
    )
    attempt_log: list[Attempt] = Field(description="The attempts, oldest first; the last 100 of them.")


class IncomingStatusList(RootModel[list[IncomingStatus]]):
    """Received messages, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


class RetryResult(BaseModel):
    """What a retry, or a release, of many came to."""

    retried: int = Field(description="How many are due now.", ge=0)
    left_alone: int = Field(
        description="How many were left as they are: being delivered at that moment, in quarantine (a retry) or not "
        "in it (a release), or with their message purged.",
        ge=0,
    )
    next_cursor: str | None = Field(description="Call again with this as `cursor` for the rest; null when done.")


def status_answer(record: StatusRecord, now_ms: int) -> IncomingStatus:
    """A status as lists show it."""
    is_attempted = record.is_being_attempted(now_ms)
    is_waiting = record.state is DeliveryState.PENDING and not is_attempted
    return IncomingStatus(
        id=record.delivery_id,
        address_id=record.address_id,
        message_id=record.message_id,
        to=record.recipients[0],
        recipients=list(record.recipients),
        sender=record.mail_from,
        status=record.last_status,
        status_category=record.category,
        state=record.state,
        error=record.last_error,
        flags=list(record.judgement.flags) if record.judgement else [],
        released=record.is_released,
        attempts=record.attempts,
        in_progress=is_attempted,
        next_attempt_at=to_rfc3339(record.due_ms) if is_waiting else None,
        subject=record.subject,
        tls=record.tls,
        md5=record.md5,
        size=record.size,
        created_at=to_rfc3339(record.created_ms),
    )


def detail_answer(
    record: StatusRecord, attempts: list[AttemptRecord], verdicts: Verdicts | None, now_ms: int
) -> IncomingStatusDetail:
    """A status with all there is to know."""
    return IncomingStatusDetail(
        **status_answer(record, now_ms).model_dump(),
        finished_at=None if record.finished_ms is None else to_rfc3339(record.finished_ms),
        target_host=record.target_host,
        verdicts=None if verdicts is None else json.loads(verdicts.to_json()),
        attempt_log=[_attempt_answer(attempt) for attempt in attempts],
    )


def _attempt_answer(attempt: AttemptRecord) -> Attempt:
    return Attempt(
        number=attempt.number,
        started_at=to_rfc3339(attempt.started_ms),
        duration=attempt.duration_ms / 1000,
        status=attempt.status,
        error=attempt.error,
        response=attempt.response,
    )
