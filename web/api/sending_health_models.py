"""What `/sending_health` and its neighbours take and answer."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, StrictBool, StrictInt

from core.clock import to_rfc3339
from core.errors import NotFound
from core.sending.health import MIN_RECIPIENTS, Health, HealthLevel, HealthPart
from core.sending.send_settings import SendSettings
from core.sending.send_settings_check import MAX_LIMIT
from core.services.held_sends import HeldMessage
from core.services.pauses import DEFAULT_REASON, Pause
from core.services.send_health import PlaceHealth
from web.api.fields import AccountPath, StrictQuery, Text, Timestamp, as_optional_parameter, drop_null_defaults
from web.api.paging import PAGE_HEADERS
from web.api.sending_domain_models import SendingDomainId

MAX_REASON_LENGTH = 500
MAX_SOURCE_LENGTH = 64
SENT_ID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
EXAMPLE_ID = "0198d4a2-7c11-4f6e-9a53-2f1d8a3e7b90"


def _check_message_id(text: str) -> str:
    """An id of another form names nothing, as an unknown one does: 404, not 422. Raises `NotFound`."""
    lowered = text.lower()
    if not re.fullmatch(SENT_ID, lowered):
        raise NotFound("there is no held message with this id")
    return lowered


Choice = Annotated[StrictBool | None, Field(description="Null leaves it to the gateway.")]
Limit = Annotated[Annotated[StrictInt, Field(ge=1, le=MAX_LIMIT)] | None, Field(description="More wait.")]
SentMessageId = Annotated[
    str,
    AfterValidator(_check_message_id),
    Field(description="The id of a message.", json_schema_extra={"format": "uuid", "example": EXAMPLE_ID}),
]


class HeldMessagePath(AccountPath):
    """One held message."""

    message_id: SentMessageId


class PausePlaceQuery(StrictQuery):
    """What is paused."""

    sending_domain_id: SendingDomainId | None = Field(
        default=None,
        description="Only mail from this sending domain; left out, all of yours.",
        json_schema_extra=as_optional_parameter,
    )


class PauseBody(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    reason: Text | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_REASON_LENGTH,
        description=f"Your own words, shown with every mail that is held. Left out: `{DEFAULT_REASON}`.",
        json_schema_extra={"example": "the list of 3 March was the wrong one"},
    )


class SendingPause(BaseModel):
    """A pause."""

    since: Timestamp
    reason: str = Field(json_schema_extra={"example": DEFAULT_REASON})

    @classmethod
    def of(cls, pause: Pause) -> SendingPause:
        """Its answer."""
        return cls(since=to_rfc3339(pause.since_ms), reason=pause.because)


class SendingResumed(BaseModel):
    """What a resume has let go."""

    released: int = Field(ge=0, description="Recipients whose mail goes now, under the limits.")
    is_partial: bool = Field(description="Whether there are more; they follow by themselves within minutes.")


class SendingHealthPart(BaseModel):
    """One rate, and what it costs."""

    rate: float | None = Field(
        ge=0, le=1, description="A share. Null when there is too little to tell, or nothing is tracked."
    )
    points_lost: int = Field(ge=0, description="Points that it takes from the score.")
    points: int = Field(ge=0, description="Points that it can take at most.")

    @classmethod
    def of(cls, part: HealthPart) -> SendingHealthPart:
        """Its answer."""
        return cls(rate=part.rate, points_lost=part.points_lost, points=part.points)


class SendingScore(BaseModel):
    """How well mail was sent in a stretch of time."""

    score: int | None = Field(
        ge=0, le=100, description=f"100 less what the parts take. Null below {MIN_RECIPIENTS} recipients."
    )
    level: HealthLevel | None = Field(description="From 90 on `healthy`, 75 `warning`, 50 `danger`, else `critical`.")
    recipients: int = Field(ge=0, description="Mailed in that time.")
    delivered: int = Field(ge=0)
    bounced: int = Field(ge=0, description="Hard: there is no such mailbox, or it never takes your mail.")
    failed: int = Field(ge=0, description="Ended without arriving for other reasons.")
    complaints: int = Field(ge=0)
    delivery: SendingHealthPart = Field(description="Delivered, of all that has ended.")
    bounce: SendingHealthPart = Field(description="Bounced, of the recipients mailed.")
    complaint: SendingHealthPart = Field(description="Complaints, of what was delivered.")
    engagement: SendingHealthPart = Field(description="Opened or clicked, of what was delivered.")

    @classmethod
    def of(cls, health: Health) -> SendingScore:
        """Its answer."""
        counts = health.counts
        return cls(
            score=health.score,
            level=health.level,
            recipients=counts.recipients,
            delivered=counts.delivered,
            bounced=counts.bounced,
            failed=counts.failed,
            complaints=counts.complaints,
            delivery=SendingHealthPart.of(health.delivery),
            bounce=SendingHealthPart.of(health.bounce),
            complaint=SendingHealthPart.of(health.complaint),
            engagement=SendingHealthPart.of(health.engagement),
        )


class SendingHealthOfPlace(BaseModel):
    """How an account or a domain sends."""

    paused: SendingPause | None = Field(description="Null while mail goes out.")
    last_day: SendingScore = Field(description="The last 24 hours, in whole hours of the clock.")
    last_week: SendingScore = Field(description="The last 7 days.")


class SendingHealthOfDomain(SendingHealthOfPlace):
    """How a sending domain sends."""

    sending_domain_id: SendingDomainId
    domain: str = Field(json_schema_extra={"example": "example.com"})


class SendingHealth(BaseModel):
    """How an account and each of its domains send."""

    account: SendingHealthOfPlace
    domains: list[SendingHealthOfDomain]

    @classmethod
    def of(cls, found: list[PlaceHealth]) -> SendingHealth:
        """The answer for an account and its domains, in this order."""
        return cls(
            account=SendingHealthOfPlace(**_place(found[0])),
            domains=[
                SendingHealthOfDomain(
                    sending_domain_id=entry.sending_domain_id or "", domain=entry.domain or "", **_place(entry)
                )
                for entry in found[1:]
            ],
        )


class AccountSendingSettings(BaseModel):
    """How an account sends. What a message says goes before its domain's settings, and those before these."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    track_opens: Choice = Field(default=None, description="Whether HTML mails get an open pixel.")
    track_clicks: Choice = Field(default=None, description="Whether links in HTML are tracked.")
    track_text_clicks: Choice = Field(default=None, description="Whether links in plain text are tracked.")
    unsubscribe: Choice = Field(default=None, description="Whether mails get a List-Unsubscribe header (RFC 8058).")
    hourly_limit: Limit = Field(default=None, description="Mails an hour; more wait. Not above the gateway's own.")
    daily_limit: Limit = Field(default=None, description="Mails a day; more wait. Not above the gateway's own.")
    ramp: Choice = Field(default=None, description="Whether new domains begin with few mails a day, which double.")
    source_ip: Text | None = Field(
        default=None,
        max_length=MAX_SOURCE_LENGTH,
        description="The address of the gateway's that mail leaves from.",
        json_schema_extra={"example": "192.0.2.1"},
    )

    @classmethod
    def of(cls, settings: SendSettings) -> AccountSendingSettings:
        """Its answer."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})

    def to_settings(self) -> SendSettings:
        """For the services."""
        return SendSettings(**self.model_dump())


class HeldSentMessage(BaseModel):
    """A message that waits for you, or for the end of a pause."""

    message_id: SentMessageId
    subject: str | None
    from_: str | None = Field(alias="from", description="The From header.")
    sending_domain_id: str | None
    priority: str
    recipients: list[str] = Field(description="Whose mail is held; the first hundred.")
    reason: str = Field(description="Why.", json_schema_extra={"example": "the spam check objects: 9.1 points"})
    is_spam: bool = Field(description="Whether the spam check holds it. If not, it goes when sending is resumed.")
    send_at: Timestamp | None = Field(description="When it was to be sent, if not at once.")
    created_at: Timestamp

    @classmethod
    def of(cls, held: HeldMessage) -> HeldSentMessage:
        """Its answer."""
        return cls(
            message_id=held.message_id,
            subject=held.subject,
            **{"from": held.header_from},
            sending_domain_id=held.sending_domain_id,
            priority=held.priority,
            recipients=list(held.recipients),
            reason=held.reason,
            is_spam=held.is_spam,
            send_at=None if held.send_at_ms is None else to_rfc3339(held.send_at_ms),
            created_at=to_rfc3339(held.received_ms),
        )


class HeldSentMessageList(RootModel[list[HeldSentMessage]]):
    """Held messages, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


class HeldOutcome(BaseModel):
    """What became of a held message."""

    message_id: SentMessageId
    recipients: list[str] = Field(description="Whose mail it was held for.")


def _place(entry: PlaceHealth) -> dict[str, Any]:
    return {
        "paused": None if entry.pause is None else SendingPause.of(entry.pause),
        "last_day": SendingScore.of(entry.day),
        "last_week": SendingScore.of(entry.week),
    }
