"""The settings of an address, as requests and answers have them: each described and bounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, StrictBool, model_serializer

from core.address_checks import (
    MAX_ATTACHMENT_THRESHOLD,
    MAX_DUPLICATE_WINDOW_S,
    MAX_OVERSIZE_TEXT_LENGTH,
    MAX_SPAM_THRESHOLD,
)
from core.address_settings import (
    MAX_INLINE_DEADLINE_S,
    AddressSettings,
    AuthorizationCallback,
    CallbackFormat,
    DeliveryMode,
    FailAction,
    OnDeadline,
    OnScannerFailure,
    StoredFormat,
)
from core.store_settings import StoreKind, StoreSettings
from web.api.fields import Text, Url, drop_null_defaults
from web.api.store_models import StoreAnswer, StoreBody, StoreField, store_answer

EXAMPLE_CALLBACK = "https://example.com/may-this-come"
STORES = {"attachments": "attachment_store", "message_store": "message_store"}
"""Stores by the name the API has for them, which is the vendor's, and ours."""

Mode = Annotated[
    DeliveryMode,
    Field(
        description="`queued`: the sender gets 250 first, the POST follows and is retried. `inline`: the POST is made "
        "while the sender waits, and its answer is the sender's."
    ),
]
InlineDeadline = Annotated[
    int,
    Field(strict=True, ge=1, le=MAX_INLINE_DEADLINE_S, description="Seconds an inline target has to answer."),
]
InlineOnDeadline = Annotated[
    OnDeadline,
    Field(description="When it does not: `defer` asks the sender to come again, `queue` takes the mail and retries."),
]
DuplicateWindow = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=MAX_DUPLICATE_WINDOW_S,
        description="Seconds for which the same envelope and MD5 is the same mail, accepted and not delivered again. "
        "Null: a day for `inline`, 0 (never) for `queued`.",
    ),
]
BounceRejected = Annotated[
    StrictBool,
    Field(
        description="Whether senders whose SPF or DKIM passed get a bounce when the target rejects a queued mail. "
        "The others never do: their address may be forged."
    ),
]
OnSpfFail = Annotated[FailAction, Field(description="When SPF says `fail`; `softfail` only flags.")]
OnDkimFail = Annotated[
    FailAction, Field(description="When there are DKIM signatures and none passes, or may pass once the DNS answers.")
]
OnDmarcFail = Annotated[
    FailAction,
    Field(description="When DMARC fails for a domain whose own policy is `quarantine` or `reject`."),
]
OnSpam = Annotated[FailAction, Field(description="When the mail is spam.")]
SpamThreshold = Annotated[
    float,
    Field(
        strict=True,
        ge=-MAX_SPAM_THRESHOLD,
        le=MAX_SPAM_THRESHOLD,
        allow_inf_nan=False,
        description="The score at which mail is spam. Null: as the scanner judges.",
    ),
]
OnVirus = Annotated[FailAction, Field(description="When a virus is found in an attachment.")]
OnScannerFailureField = Annotated[
    OnScannerFailure,
    Field(description="When a scanner is down or too slow: `deliver` with that said, or `hold` in quarantine."),
]
MaxMessageSize = Annotated[
    int,
    Field(strict=True, ge=1, description="Bytes of a message; larger ones get 552. Null: the server's limit."),
]
OversizeText = Annotated[
    Text,
    Field(
        min_length=1,
        max_length=MAX_OVERSIZE_TEXT_LENGTH,
        description="The text of that 552: one line of printable ASCII. Null: ours.",
        json_schema_extra={"pattern": "^[ -~]+$", "example": "Please send us a link instead"},
    ),
]
ErrorCallback = Annotated[
    Url,
    Field(
        description="A URL that is told of the first failure and of the final one of each delivery; as JSON when its "
        "path ends in `.json`, else as a form.",
        json_schema_extra={"example": "https://example.com/failed.json"},
    ),
]
AttachmentThreshold = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=MAX_ATTACHMENT_THRESHOLD,
        description="With an attachment store: attachments of at least so many bytes are stored, smaller ones sent in "
        "the POST.",
    ),
]
MessageStoreFormat = Annotated[
    StoredFormat, Field(description="Whether whole messages are stored as they came or as JSON.")
]
RawInPayload = Annotated[StrictBool, Field(description="Whether the `postmark` format carries `RawEmail`.")]
_AUTHORIZATION = "A server of yours that is asked at RCPT whether a mail may come; null asks nobody."
_ATTACHMENTS = "Where attachments are stored, so that the POST has their URLs; an empty object sends them in it."
_MESSAGE_STORE = "Where whole messages are stored; the POST then has `envelope.store_url`."


class AuthorizationBody(BaseModel):
    """The authorization callback."""

    model_config = ConfigDict(extra="forbid")

    url: Url = Field(
        description="2xx lets the mail come, 4xx refuses it for good, anything else puts it off.",
        json_schema_extra={"example": EXAMPLE_CALLBACK},
    )
    format: CallbackFormat = Field(default=CallbackFormat.FORM, description="How the question is written.")


class SettingsBody(BaseModel):
    """Everything but target, format and nickname. Left out of a PUT a field stays; null is the default again."""

    model_config = ConfigDict(json_schema_extra=drop_null_defaults)

    mode: Mode | None = None
    inline_deadline_s: InlineDeadline | None = None
    inline_on_deadline: InlineOnDeadline | None = None
    duplicate_window_s: DuplicateWindow | None = None
    bounce_rejected: BounceRejected | None = None
    on_spf_fail: OnSpfFail | None = None
    on_dkim_fail: OnDkimFail | None = None
    on_dmarc_fail: OnDmarcFail | None = None
    on_spam: OnSpam | None = None
    spam_threshold: SpamThreshold | None = None
    on_virus: OnVirus | None = None
    on_scanner_failure: OnScannerFailureField | None = None
    max_message_size: MaxMessageSize | None = None
    oversize_text: OversizeText | None = None
    authorization: AuthorizationBody | None = Field(default=None, description=_AUTHORIZATION)
    error_callback: ErrorCallback | None = None
    attachments: StoreField = Field(default=None, description=_ATTACHMENTS)
    attachment_threshold: AttachmentThreshold | None = None
    message_store: StoreField = Field(default=None, description=_MESSAGE_STORE)
    message_store_format: MessageStoreFormat | None = None
    raw_in_payload: RawInPayload | None = None

    def to_changes(self, before: AddressSettings, probe: Callable[[StoreSettings, str], None]) -> dict[str, Any]:
        """What changes of `before`, for the services; fields that are left out are not in it.

        `probe` is called with each store that is new or other than before. Raises `InvalidField`.
        """
        changes: dict[str, Any] = {}
        for name in SettingsBody.model_fields:
            if name not in self.model_fields_set:
                continue
            value = getattr(self, name)
            if isinstance(value, AuthorizationBody):
                value = AuthorizationCallback(value.url, value.format)
            if isinstance(value, StoreBody):
                value = _changed_store(value, getattr(before, STORES[name]), name, probe)
            changes[STORES.get(name, name)] = value
        return changes


class ShownStore(StoreAnswer):
    """A store as it is configured, without its secrets; empty when there is none."""

    kind: StoreKind | None = None  # type: ignore[assignment]  # an empty object has none

    @model_serializer(mode="wrap")
    def _show_what_is_set(self, write: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        """(Without a return type, or the reference would show that in place of the fields.)"""
        return {name: value for name, value in write(self).items() if value is not None}


class SettingsAnswer(BaseModel):
    """The settings as they stand."""

    mode: Mode
    inline_deadline_s: InlineDeadline
    inline_on_deadline: InlineOnDeadline
    duplicate_window_s: DuplicateWindow | None
    bounce_rejected: BounceRejected
    on_spf_fail: OnSpfFail
    on_dkim_fail: OnDkimFail
    on_dmarc_fail: OnDmarcFail
    on_spam: OnSpam
    spam_threshold: SpamThreshold | None
    on_virus: OnVirus
    on_scanner_failure: OnScannerFailureField
    max_message_size: MaxMessageSize | None
    oversize_text: OversizeText | None
    authorization: AuthorizationBody | None = Field(description=_AUTHORIZATION)
    error_callback: ErrorCallback | None
    attachments: ShownStore = Field(description=_ATTACHMENTS)
    attachment_threshold: AttachmentThreshold
    message_store: ShownStore = Field(description=_MESSAGE_STORE)
    message_store_format: MessageStoreFormat
    raw_in_payload: RawInPayload


def show_settings(settings: AddressSettings) -> dict[str, Any]:
    """The fields of a `SettingsAnswer`."""
    shown = {name: getattr(settings, STORES.get(name, name)) for name in SettingsAnswer.model_fields}
    asked = settings.authorization
    shown["authorization"] = None if asked is None else AuthorizationBody(url=asked.url, format=asked.format)
    for name in STORES:
        shown[name] = ShownStore(**store_answer(shown[name]))
    return shown


def _changed_store(
    body: StoreBody, before: StoreSettings | None, field: str, probe: Callable[[StoreSettings, str], None]
) -> StoreSettings:
    store = body.to_settings(before, field)
    if store != before:
        probe(store, field)
    return store
