"""How one address treats its mail: everything a customer can set beyond target and format.

Kept as JSON beside the address: no query ever looks inside, and the receiver has it in its cached routes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import orjson
from pydantic import TypeAdapter

from core.clock import DAY_MS, SECOND_MS
from core.store_settings import StoreSettings

DEFAULT_INLINE_DEADLINE_S = 25
MAX_INLINE_DEADLINE_S = 120
INLINE_DUPLICATE_WINDOW_S = DAY_MS // SECOND_MS
"""How long an inline address recognises a sender that comes again, unless it says otherwise."""


class DeliveryMode(StrEnum):
    """When the target hears of a mail."""

    QUEUED = "queued"
    """The sender gets 250 first; the POST follows, with retries."""
    INLINE = "inline"
    """The target's answer is the sender's answer."""


class OnDeadline(StrEnum):
    """What becomes of an inline mail whose target does not answer in time."""

    DEFER = "defer"
    """The sender gets 450 and comes again."""
    QUEUE = "queue"
    """The sender gets 250 and the mail is queued."""


class FailAction(StrEnum):
    """What follows when a check fails."""

    FLAG = "flag"
    """The payload says so."""
    QUARANTINE = "quarantine"
    REJECT = "reject"


class OnScannerFailure(StrEnum):
    """What follows when a scanner is down or too slow."""

    DELIVER = "deliver"
    HOLD = "hold"
    """It is quarantined."""


class CallbackFormat(StrEnum):
    """How the question of an authorization callback is written."""

    FORM = "form"
    JSON = "json"
    XML = "xml"


class StoredFormat(StrEnum):
    """In which form a whole message is stored."""

    EML = "eml"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class AuthorizationCallback:
    """A URL that is asked at RCPT whether a mail may come."""

    url: str
    format: CallbackFormat = CallbackFormat.FORM


@dataclass(frozen=True, slots=True)
class AddressSettings:
    """The settings of one address; the defaults are those of a new one."""

    mode: DeliveryMode = DeliveryMode.QUEUED
    inline_deadline_s: int = DEFAULT_INLINE_DEADLINE_S
    inline_on_deadline: OnDeadline = OnDeadline.DEFER
    duplicate_window_s: int | None = None
    """For how long the same envelope and MD5 is the same mail; None is a day for inline and 0 for queued."""
    bounce_rejected: bool = False
    """Send a DSN when the target rejects a queued mail, to senders whose SPF or DKIM passed."""
    on_spf_fail: FailAction = FailAction.FLAG
    on_dkim_fail: FailAction = FailAction.FLAG
    on_dmarc_fail: FailAction = FailAction.FLAG
    """`fail` of a domain whose own policy is `quarantine` or `reject`."""
    on_spam: FailAction = FailAction.FLAG
    spam_threshold: float | None = None
    """The score at which mail is spam; None goes by the scanner's own judgement."""
    on_virus: FailAction = FailAction.QUARANTINE
    on_scanner_failure: OnScannerFailure = OnScannerFailure.DELIVER
    max_message_size: int | None = None
    """Bytes; None is the server's limit, and more than that has no effect."""
    oversize_text: str | None = None
    """The text of the 552 for mail over the limit."""
    authorization: AuthorizationCallback | None = None
    error_callback: str | None = None
    attachment_store: StoreSettings | None = None
    attachment_threshold: int = 0
    """Attachments of at least so many bytes are stored, smaller ones are sent in the POST."""
    message_store: StoreSettings | None = None
    message_store_format: StoredFormat = StoredFormat.EML
    raw_in_payload: bool = False
    """Whether the `postmark` format carries `RawEmail`."""

    @property
    def duplicate_window_ms(self) -> int:
        """The window in force."""
        if self.duplicate_window_s is not None:
            return self.duplicate_window_s * SECOND_MS
        return INLINE_DUPLICATE_WINDOW_S * SECOND_MS if self.mode is DeliveryMode.INLINE else 0

    def to_json(self) -> str:
        """For the database."""
        return orjson.dumps(self).decode()


DEFAULT_ADDRESS_SETTINGS = AddressSettings()
_ADAPTER: TypeAdapter[AddressSettings] = TypeAdapter(AddressSettings)
_EMPTY = "{}"


@lru_cache(maxsize=4096)
def read_address_settings(text: str) -> AddressSettings:
    """What `to_json` wrote; what it does not name has its default."""
    return DEFAULT_ADDRESS_SETTINGS if text == _EMPTY else _ADAPTER.validate_json(text)
