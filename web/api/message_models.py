"""What a request to send holds, and its answer."""

from __future__ import annotations

import binascii
import json
from datetime import datetime
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from core.clock import DAY_MS, MINUTE_MS, to_ms, to_rfc3339
from core.errors import InvalidField
from core.sending.priority import Priority
from core.sending.send_settings import SendOptions
from core.services.idempotency import MAX_KEY_LENGTH
from core.services.sends import DEFAULT_STREAM
from outbound.accepting import SendWishes
from outbound.composing.attachment_rules import DEFAULT_CONTENT_TYPE, MAX_FILE_NAME_LENGTH, DraftAttachment
from outbound.composing.control_headers import MAX_LAYOUT_LENGTH, MAX_TAGS, check_tags
from outbound.composing.drafts import MessageDraft
from outbound.composing.header_writing import check_line
from outbound.composing.mailboxes import MAX_ENTRY_LENGTH
from outbound.framing import FrameWish
from web.api.fields import AccountPath, DescribedOnce, Text, Timestamp, as_optional_parameter, drop_null_defaults
from web.api.message_examples import MESSAGE_EXAMPLES

IDEMPOTENCY_HEADER = "Idempotency-Key"
MAX_ENTRIES = 1_000
"""Of an address field, before it is known how many addresses they hold."""
MAX_METADATA = 20
MAX_METADATA_KEY_LENGTH = 64
MAX_METADATA_LENGTH = 500
"""Postmark takes 10 of 80 characters, with keys of 20."""
MAX_STREAM_LENGTH = 64
MAX_VARIABLES = 200
MAX_VARIABLE_LENGTH = 100_000
MAX_SCHEDULE_DAYS = 30
SCHEDULE_TOLERANCE_MS = MINUTE_MS
"""A moment that has just passed, by a clock that is not ours, means now."""
EXAMPLE_ID = "0198d4a2-7c11-4f6e-9a53-2f1d8a3e7b90"


def _must_be_text(value: Any) -> Any:
    """Pydantic would take numbers for seconds since 1970."""
    if not isinstance(value, str):
        raise ValueError("must be a time in RFC 3339, like 2026-08-24T14:15:22Z")
    return value


def _must_be_aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("must say how far it is from UTC, like 2026-08-24T14:15:22Z")
    return moment


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("must be a text, or a list of texts")
    return value


_TEXT_SCHEMA = {"type": "string", "pattern": r"^[^\u0000]*$"}
Moment = Annotated[datetime, BeforeValidator(_must_be_text), AfterValidator(_must_be_aware)]
Entry = Annotated[Text, Field(max_length=MAX_ENTRY_LENGTH)]
Listed = Annotated[
    list[Text],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA}]}),
]
"""One text, or several in a list."""
ADDRESSES_EXAMPLE: tuple[str, ...] = ("Recipient <recipient@example.com>", "another@example.com")


class SenderPath(AccountPath):
    """Who sends."""

    account_id: str = Field(
        description="Your SMTP username (the key is its password then), or the id of your account.",
        json_schema_extra={"pattern": "^[0-9a-f]{16}$", "example": "5f0c9ad2b1e84d37"},
    )


class SendHeaders(DescribedOnce):
    """What may stand in the headers of the request."""

    idempotency_key: str | None = Field(
        default=None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        description="Any text of yours. A request that comes again with the same key within a day sends nothing: it "
        "gets the first answer, with `Idempotency-Replayed: true`.",
        json_schema_extra=as_optional_parameter,
    )

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """Made once for the framework, which asks for it at every request: that took a sixth of the request's time."""
        return super().model_json_schema(*args, **options) if args or options else cls._plain_schema()

    @classmethod
    @cache
    def _plain_schema(cls) -> dict[str, Any]:
        return super().model_json_schema()


class MessageAttachment(BaseModel):
    """A file that goes with a message."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    file_name: Text = Field(max_length=MAX_FILE_NAME_LENGTH, json_schema_extra={"example": "pixel.png"})
    content: str = Field(description="In base64.", json_schema_extra={"example": "iVBORw0KGgo="})
    content_type: Text | None = Field(default=None, json_schema_extra={"example": "image/png"})
    content_id: Text | None = Field(
        default=None,
        description="Makes it inline: the HTML shows it as `cid:` and this.",
        json_schema_extra={"example": "pixel"},
    )

    def to_draft(self, place: str) -> DraftAttachment:
        """Decoded. Raises `InvalidField`."""
        try:
            content = binascii.a2b_base64("".join(self.content.split()), strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidField(f"{place}.content", "is no base64; encode the bytes of the file so") from error
        return DraftAttachment(self.file_name, content, self.content_type or DEFAULT_CONTENT_TYPE, self.content_id)


class MessageBody(BaseModel):
    """A message to be sent: from its parts, or whole as `raw`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra=drop_null_defaults,
        openapi_extra={"examples": MESSAGE_EXAMPLES},  # type: ignore[typeddict-unknown-key] # flask_openapi3 reads it
    )

    from_: Entry = Field(
        alias="from",
        description="One address of a domain that you may send from.",
        json_schema_extra={"example": "Sender Name <sender@example.com>"},
    )
    to: Listed = Field(description="One or more recipients.", json_schema_extra={"example": [*ADDRESSES_EXAMPLE]})
    cc: Listed | None = None
    bcc: Listed | None = Field(default=None, description="Recipients that nobody sees. Ours.")
    reply_to: Listed | None = Field(default=None, description="Where answers go. Ours.")
    subject: Text | None = Field(
        default=None,
        description="Wins over a Subject among the headers or in `raw`.",
        json_schema_extra={"example": "Hello from Pillarbox 😃"},
    )
    plain: Text | None = Field(default=None, description="The plain text.", json_schema_extra={"example": "Hello"})
    html: Text | None = Field(default=None, json_schema_extra={"example": "<h1>Hello</h1>"})
    markdown: Text | None = Field(
        default=None,
        description="Becomes whichever of `plain` and `html` is missing.",
        json_schema_extra={"example": "# Hello\n\nThis is **bold**.\n"},
    )
    raw: Text | None = Field(
        default=None,
        description="A whole message (RFC 5322) in the place of bodies, headers and attachments. Its From, To and Cc "
        "must name whom `from`, `to` and `cc` name.",
    )
    headers: dict[str, Listed] | None = Field(
        default=None,
        description="Further headers; a list where one is to stand several times.",
        json_schema_extra={"example": {"x-order": "1234"}},
    )
    attachments: list[MessageAttachment] | None = None
    tags: Listed | None = Field(
        default=None,
        description=f"At most {MAX_TAGS}, in a list or with commas between them.",
        json_schema_extra={"example": ["newsletter"]},
    )
    priority: Priority | None = Field(
        default=None,
        description="`priority` goes ahead of all others, `digest` is spread out. Default: `standard`.",
    )
    test_mode: bool = Field(default=False, description="Check and keep the message, with its events, but send nothing.")
    metadata: dict[str, Text] | None = Field(
        default=None,
        description=f"Up to {MAX_METADATA} texts of your own, given back with the message. Ours.",
        json_schema_extra={"example": {"order_id": "1234"}},
    )
    stream: str | None = Field(
        default=None,
        pattern="^[a-z0-9][a-z0-9_-]*$",
        max_length=MAX_STREAM_LENGTH,
        description=f"What kind of mail it is, to tell apart in lists and webhooks. Default: `{DEFAULT_STREAM}`. Ours.",
        json_schema_extra={"example": "receipts"},
    )
    send_at: Moment | None = Field(
        default=None,
        description=f"When to send it, within {MAX_SCHEDULE_DAYS} days. Ours.",
        json_schema_extra={"example": "2026-08-24T14:15:22Z"},
    )
    layout: Text | None = Field(
        default=None,
        max_length=MAX_LAYOUT_LENGTH,
        description="The name of a layout around the HTML, or `none`; as the header `x-cloudmta-layout`. Ours.",
    )
    variables: dict[str, Text] | None = Field(
        default=None, description="Values of the layout's variables. Ours.", json_schema_extra={"example": {"a": "b"}}
    )
    inline_css: bool = Field(default=False, description="Write the CSS of style elements into the elements. Ours.")
    track_opens: bool | None = Field(default=None, description="Default: as the domain, or the account, says. Ours.")
    track_clicks: bool | None = Field(default=None, description="Of links in HTML. Ours.")
    track_text_clicks: bool | None = Field(default=None, description="Of links in plain text. Ours.")
    unsubscribe: bool | None = Field(
        default=None, description="Whether to add List-Unsubscribe with one click (RFC 8058). Ours."
    )

    @model_validator(mode="before")
    @classmethod
    def _as_clients_write_it(cls, given: Any) -> Any:
        """CloudMailin's Go client says `priorty`, and sends the `id` of the answer when a message is sent once more;
        clients with types write null for whatever is not given."""
        if not isinstance(given, dict):
            return given
        said = {name: value for name, value in given.items() if value is not None and name != "id"}
        misspelt = said.pop("priorty", None)
        return said if misspelt is None else {"priority": misspelt, **said}

    def to_draft(self) -> MessageDraft:
        """What is in the message. Raises `InvalidField`."""
        found = enumerate(self.attachments or ())
        return MessageDraft(
            from_=self.from_,
            to=_entries("to", self.to),
            cc=_entries("cc", self.cc),
            bcc=_entries("bcc", self.bcc),
            reply_to=_entries("reply_to", self.reply_to),
            subject=self.subject,
            plain=self.plain,
            html=self.html,
            markdown=self.markdown,
            headers=tuple((name, one) for name, value in (self.headers or {}).items() for one in value),
            attachments=tuple(one.to_draft(f"attachments[{index}]") for index, one in found),
            raw=self.raw.encode() if self.raw else None,
        )

    def to_wishes(self, now_ms: int) -> SendWishes:
        """How to send it. Raises `InvalidField`."""
        options = SendOptions(self.track_opens, self.track_clicks, self.track_text_clicks, self.unsubscribe)
        return SendWishes(
            priority=self.priority,
            tags=check_tags("tags", [tag for one in self.tags or () for tag in one.split(",")]),
            metadata=_checked_metadata(self.metadata or {}),
            stream=self.stream or DEFAULT_STREAM,
            is_test=self.test_mode,
            send_at_ms=_checked_moment(self.send_at, now_ms),
            options=options,
        )

    def to_frame(self) -> FrameWish:
        """What to put around its HTML. Raises `InvalidField`."""
        variables = self.variables or {}
        if len(variables) > MAX_VARIABLES:
            raise InvalidField("variables", f"are {len(variables)}, {MAX_VARIABLES} are allowed")
        for name, value in variables.items():
            if len(value) > MAX_VARIABLE_LENGTH:
                raise InvalidField(f"variables.{name[:MAX_LAYOUT_LENGTH]}", f"is over {MAX_VARIABLE_LENGTH} characters")
        return FrameWish(self.layout or None, variables, self.inline_css)


class AcceptedMessage(BaseModel):
    """A message that was accepted."""

    id: str = Field(json_schema_extra={"format": "uuid", "example": EXAMPLE_ID})
    sender: str = Field(serialization_alias="from", description="As given; so are the next three.")
    to: list[str]
    cc: list[str]
    subject: str | None
    tags: list[str]
    test_mode: bool
    stream: str = Field(json_schema_extra={"example": DEFAULT_STREAM})
    send_at: Timestamp | None


def accepted_answer(message_id: str, body: MessageBody, wishes: SendWishes) -> AcceptedMessage:
    """What the client is told, in CloudMailin's form."""
    return AcceptedMessage(
        id=message_id,
        sender=body.from_,
        to=list(_entries("to", body.to)),
        cc=list(_entries("cc", body.cc)),
        subject=body.subject,
        tags=list(wishes.tags),
        test_mode=body.test_mode,
        stream=wishes.stream,
        send_at=None if wishes.send_at_ms is None else to_rfc3339(wishes.send_at_ms),
    )


def _entries(name: str, value: list[str] | None) -> tuple[str, ...]:
    """Empty ones count as not given."""
    found = tuple(one for one in value or () if one)
    if len(found) > MAX_ENTRIES:
        raise InvalidField(name, f"has {len(found)} entries; send several messages")
    return found


def _checked_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > MAX_METADATA:
        raise InvalidField("metadata", f"has {len(metadata)} keys, {MAX_METADATA} are allowed")
    for key, value in metadata.items():
        shown = json.dumps(key[:MAX_METADATA_KEY_LENGTH])[1:-1]
        if not check_line(f"metadata.{shown}", key, MAX_METADATA_KEY_LENGTH).strip():
            raise InvalidField("metadata", "has a key without a name")
        if len(value) > MAX_METADATA_LENGTH:
            raise InvalidField(f"metadata.{shown}", f"is longer than {MAX_METADATA_LENGTH} characters")
    return metadata


def _checked_moment(moment: datetime | None, now_ms: int) -> int | None:
    if moment is None:
        return None
    moment_ms = to_ms(moment)
    if moment_ms < now_ms - SCHEDULE_TOLERANCE_MS:
        raise InvalidField("send_at", "is over already; leave it out to send now")
    if moment_ms > now_ms + MAX_SCHEDULE_DAYS * DAY_MS:
        raise InvalidField("send_at", f"is more than {MAX_SCHEDULE_DAYS} days away; come back later")
    return moment_ms
