"""What requests and answers about webhooks hold."""

from __future__ import annotations

import re
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, RootModel

from core.clock import to_rfc3339
from core.delivery import DeliveryState
from core.errors import InvalidField, NotFound
from core.sending.events import EventKind
from core.services.statuses import AttemptRecord
from core.services.webhook_deliveries import LISTED_STATES, EventDelivery
from core.services.webhooks import (
    MAX_FILTER_ENTRIES,
    MAX_NOTE_LENGTH,
    MAX_TAG_LENGTH,
    DisabledBecause,
    WebhookDraft,
    WebhookRecord,
)
from web.api.fields import (
    STATUS_ID,
    AccountPath,
    StrictQuery,
    Text,
    Timestamp,
    Url,
    as_optional_parameter,
    drop_null_defaults,
)
from web.api.paging import MAX_CURSOR_LENGTH, PAGE_HEADERS, ListQuery
from web.api.status_models import Attempt

WEBHOOK_ID = "[0-9a-f]{16}"
EXAMPLE_URL = "https://example.com/events"
EXAMPLE_TAGS: list[JsonValue] = ["welcome"]
EXAMPLE_KINDS: list[JsonValue] = ["delivery", "bounce"]


def _check_webhook_id(text: str) -> str:
    return _check_id(WEBHOOK_ID, text, "webhook")


def _check_delivery_id(text: str) -> str:
    return _check_id(STATUS_ID, text, "delivery")


def _check_id(pattern: str, text: str, noun: str) -> str:
    """An id of another form names nothing, as an unknown one does: 404, not 422. Raises `NotFound`."""
    lowered = text.lower()
    if not re.fullmatch(pattern, lowered):
        raise NotFound(f"there is no {noun} with this id")
    return lowered


WebhookId = Annotated[
    str,
    AfterValidator(_check_webhook_id),
    Field(
        description="The id of a webhook.",
        json_schema_extra={"pattern": f"^{WEBHOOK_ID}$", "example": "cccc111122223333"},
    ),
]
EventDeliveryId = Annotated[
    str,
    AfterValidator(_check_delivery_id),
    Field(
        description="The id of a delivery: the `webhook-id` of its POSTs.",
        json_schema_extra={"format": "uuid", "example": "0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90"},
    ),
]
Tag = Annotated[Text, Field(min_length=1, max_length=MAX_TAG_LENGTH)]
_KINDS = "Only events of these kinds; empty for all but `complaint`, which has to be named."
_TAGS = "Only events of messages that have one of these tags; empty for all."
_DOMAINS = "Only events of mail from these sending domains, by their ids; empty for all."
_NOTE = "Your own words."
_ACTIVE = (
    "Whether it is called. While it is not, nothing new is kept for it, and what it has not taken yet is held; that "
    "goes out when it is switched on again."
)
_LEFT_OUT = "Left out of a PUT it stays; null empties it."
_STATES = "`pending`, `delivered`, `rejected` (by 410, or the webhook was deleted), `exhausted` or `quarantined` (held)"


class WebhookPath(AccountPath):
    """One webhook."""

    webhook_id: WebhookId


class EventDeliveryPath(WebhookPath):
    """One delivery of a webhook."""

    delivery_id: EventDeliveryId


class EventDeliveryQuery(ListQuery):
    """Which deliveries to list."""

    state: DeliveryState | None = Field(
        default=None,
        description=f"Only deliveries in this state: {_STATES}.",
        json_schema_extra=as_optional_parameter,
    )


class EventReplayQuery(StrictQuery):
    """Which deliveries to try again."""

    state: DeliveryState = Field(default=DeliveryState.EXHAUSTED, description=f"Deliveries in this state: {_STATES}.")
    since: AwareDatetime | None = Field(
        default=None,
        description="Only those made at or after this moment (RFC 3339).",
        json_schema_extra=as_optional_parameter,
    )
    cursor: Text | None = Field(
        default=None,
        max_length=MAX_CURSOR_LENGTH,
        description="The `next_cursor` of the call before.",
        json_schema_extra=as_optional_parameter,
    )


class WebhookBody(BaseModel):
    """What you say of a webhook. The fields that an answer has beside these may be sent back; they are ignored."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    url: Url = Field(
        description="Where events are POSTed; `user:password@` in it becomes basic authentication.",
        json_schema_extra={"example": EXAMPLE_URL},
    )
    kinds: list[EventKind] | None = Field(
        default=None,
        max_length=MAX_FILTER_ENTRIES,
        description=f"{_KINDS} {_LEFT_OUT}",
        json_schema_extra={"example": EXAMPLE_KINDS},
    )
    tags: list[Tag] | None = Field(
        default=None,
        max_length=MAX_FILTER_ENTRIES,
        description=f"{_TAGS} {_LEFT_OUT}",
        json_schema_extra={"example": EXAMPLE_TAGS},
    )
    sending_domain_ids: list[Text] | None = Field(
        default=None,
        max_length=MAX_FILTER_ENTRIES,
        description=f"{_DOMAINS} {_LEFT_OUT}",
        json_schema_extra={"example": []},
    )
    note: Text | None = Field(
        default=None,
        max_length=MAX_NOTE_LENGTH,
        description=f"{_NOTE} {_LEFT_OUT}",
        json_schema_extra={"example": "billing"},
    )
    is_active: bool | None = Field(
        default=None,
        strict=True,
        description=f"{_ACTIVE} Left out or null: true, or in a PUT as it is.",
        json_schema_extra={"example": True},
    )
    id: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    disabled_because: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    secret_rotation_ends_at: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    signing_secret: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    created_at: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    updated_at: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})

    def to_draft(self) -> WebhookDraft:
        """For the services."""
        return WebhookDraft(
            url=self.url,
            kinds=tuple(self.kinds or ()),
            tags=tuple(self.tags or ()),
            sending_domain_ids=tuple(entry.lower() for entry in self.sending_domain_ids or ()),
            note=self.note,
            is_active=self.is_active is not False,
        )

    @property
    def left_out(self) -> set[str]:
        """The fields that a PUT leaves as they are."""
        unset = {"kinds", "tags", "sending_domain_ids", "note"} - self.model_fields_set
        return unset if self.is_active is not None else {*unset, "is_active"}


class Webhook(BaseModel):
    """A webhook."""

    id: WebhookId
    url: str = Field(description="Where events are POSTed.", json_schema_extra={"example": EXAMPLE_URL})
    kinds: list[EventKind] = Field(description=_KINDS, json_schema_extra={"example": EXAMPLE_KINDS})
    tags: list[str] = Field(description=_TAGS, json_schema_extra={"example": EXAMPLE_TAGS})
    sending_domain_ids: list[str] = Field(description=_DOMAINS)
    note: str | None = Field(description=_NOTE, json_schema_extra={"example": "billing"})
    is_active: bool = Field(description=_ACTIVE)
    disabled_because: DisabledBecause | None = Field(
        description="Why we have switched it off: `gone` (it answered 410) or `failing` (a delivery has used up all "
        "its attempts, and meanwhile no other was taken). Null while it is on, and when you have switched it off."
    )
    secret_rotation_ends_at: Timestamp | None = Field(
        description="Until then the secret before the last rotation signs as well."
    )
    created_at: Timestamp
    updated_at: Timestamp


class WebhookWithSecret(Webhook):
    """A webhook and its secret, which is shown when it is made, and not again."""

    signing_secret: str = Field(
        description="The secret of the Standard Webhooks signature that every POST carries. Keep it: it is not shown "
        "again.",
        json_schema_extra={"example": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3GgB4sXnJ0I="},
    )


class WebhookList(RootModel[list[Webhook]]):
    """Webhooks, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


class EventDeliveryStatus(BaseModel):
    """One POST of events to a webhook, and where it stands."""

    id: EventDeliveryId
    state: DeliveryState = Field(description=f"{_STATES}.")
    status: int | None = Field(
        description="The HTTP status of the last attempt; 0 when the webhook could not be reached, null before the "
        "first attempt has ended.",
        json_schema_extra={"example": 200},
    )
    error: str | None = Field(
        description="Why the last attempt got no usable answer, or why it is held or was not made."
    )
    event_count: int = Field(description="How many events it carries.", ge=0)
    kinds: list[str] = Field(description="The kinds of these, each once.", json_schema_extra={"example": EXAMPLE_KINDS})
    test: bool = Field(description="Whether it was sent by the test call, with samples.")
    attempts: int = Field(description="How many attempts there have been.", ge=0)
    last_attempt: Attempt | None
    in_progress: bool = Field(description="Whether it is being POSTed at this moment.")
    next_attempt_at: Timestamp | None = Field(description="When it will be tried (again).")
    created_at: Timestamp
    finished_at: Timestamp | None = Field(description="When it was taken, given up or held.")


class EventDeliveryDetail(EventDeliveryStatus):
    """One POST of events with its body and its attempts."""

    body: dict[str, Any] = Field(description="What is POSTed, every time.")
    attempt_log: list[Attempt] = Field(description="The attempts, oldest first; the last 100 of them.")


class EventDeliveryList(RootModel[list[EventDeliveryStatus]]):
    """Deliveries of a webhook, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


class TestResult(BaseModel):
    """What a test has sent."""

    __test__ = False  # not a test case, whatever its name begins with

    delivery_id: EventDeliveryId


def listed_state(state: DeliveryState) -> DeliveryState:
    """A state that deliveries of events can be in. Raises `InvalidField`."""
    if state not in LISTED_STATES:
        raise InvalidField("state", f"must be one of {', '.join(LISTED_STATES)}")
    return state


def check_cursor(cursor: str | None) -> str | None:
    """The id that a cursor is. Raises `InvalidField`."""
    if cursor is not None and not re.fullmatch(STATUS_ID, cursor):
        raise InvalidField("cursor", "is not one that this list gave")
    return cursor


def webhook_fields(record: WebhookRecord, now_ms: int) -> dict[str, Any]:
    """The fields of a `Webhook`."""
    draft = record.draft
    until_ms = record.previous_secret_until_ms or 0
    return {
        "id": record.webhook_id,
        "url": draft.url,
        "kinds": list(draft.kinds),
        "tags": list(draft.tags),
        "sending_domain_ids": list(draft.sending_domain_ids),
        "note": draft.note,
        "is_active": draft.is_active,
        "disabled_because": record.disabled_because,
        "secret_rotation_ends_at": to_rfc3339(until_ms) if until_ms > now_ms else None,
        "created_at": to_rfc3339(record.created_ms),
        "updated_at": to_rfc3339(record.updated_ms),
    }


def delivery_answer(record: EventDelivery, now_ms: int) -> EventDeliveryStatus:
    """A delivery as lists show it."""
    return EventDeliveryStatus(**_delivery_fields(record, orjson.loads(record.body), now_ms))


def delivery_detail(record: EventDelivery, attempts: list[AttemptRecord], now_ms: int) -> EventDeliveryDetail:
    """A delivery with all there is to know."""
    body = orjson.loads(record.body)
    return EventDeliveryDetail(
        **_delivery_fields(record, body, now_ms),
        body=body,
        attempt_log=[_attempt_answer(attempt) for attempt in attempts],
    )


def _delivery_fields(record: EventDelivery, body: dict[str, Any], now_ms: int) -> dict[str, Any]:
    is_attempted = record.is_being_attempted(now_ms)
    is_waiting = record.state is DeliveryState.PENDING and not is_attempted
    events = body["events"]
    return {
        "id": record.delivery_id,
        "state": record.state,
        "status": record.last_status,
        "error": record.last_error,
        "event_count": len(events),
        "kinds": list(dict.fromkeys(event["kind"] for event in events)),
        "test": any("test" in event for event in events),
        "attempts": record.attempts,
        "last_attempt": None if record.last_attempt is None else _attempt_answer(record.last_attempt),
        "in_progress": is_attempted,
        "next_attempt_at": to_rfc3339(record.due_ms) if is_waiting else None,
        "created_at": to_rfc3339(record.created_ms),
        "finished_at": None if record.finished_ms is None else to_rfc3339(record.finished_ms),
    }


def _attempt_answer(attempt: AttemptRecord) -> Attempt:
    return Attempt(
        number=attempt.number,
        started_at=to_rfc3339(attempt.started_ms),
        duration=attempt.duration_ms / 1000,
        status=attempt.status,
        error=attempt.error,
        response=attempt.response,
    )
