"""Whether an address's target and settings make sense together, before they are stored."""

from __future__ import annotations

import math
import re

from core.address_settings import MAX_INLINE_DEADLINE_S, AddressSettings, DeliveryMode
from core.clock import DAY_MS, SECOND_MS
from core.errors import InvalidField
from core.mailto import parse_mailto
from core.netguard import check_url, is_mailbox

MAX_DUPLICATE_WINDOW_S = 30 * DAY_MS // SECOND_MS
MAX_SPAM_THRESHOLD = 1_000.0
MAX_ATTACHMENT_THRESHOLD = 1 << 40
MAX_OVERSIZE_TEXT_LENGTH = 200
_REPLY_TEXT = re.compile(r"[\x20-\x7e]+")  # RFC 5321 section 4.2, textstring


def check_target(field: str, target: str) -> str:
    """Check the form of a target, a URL or a mailbox, and give it back. Raises `InvalidField`."""
    if not is_mailbox(target):
        return check_url(field, target)
    parse_mailto(field, target)
    return target


def check_settings(settings: AddressSettings, target: str, max_message_size: int) -> None:
    """Raises `InvalidField`, which names the setting.

    `max_message_size` is the server's. The stores are checked by `core.store_checks`, which knows their kinds.
    """
    if settings.mode is DeliveryMode.INLINE and is_mailbox(target):
        raise InvalidField(
            "mode", "inline needs a target that answers at once, http:// or https://; use queued for a mailbox"
        )
    _within("inline_deadline_s", settings.inline_deadline_s, 1, MAX_INLINE_DEADLINE_S)
    _within("duplicate_window_s", settings.duplicate_window_s, 0, MAX_DUPLICATE_WINDOW_S)
    _within("spam_threshold", settings.spam_threshold, -MAX_SPAM_THRESHOLD, MAX_SPAM_THRESHOLD)
    _within("max_message_size", settings.max_message_size, 1, max_message_size)
    _within("attachment_threshold", settings.attachment_threshold, 0, MAX_ATTACHMENT_THRESHOLD)
    if settings.oversize_text is not None:
        _check_reply_text("oversize_text", settings.oversize_text)
    if settings.authorization is not None:
        check_url("authorization.url", settings.authorization.url)
    if settings.error_callback is not None:
        check_url("error_callback", settings.error_callback)


def _within(field: str, value: float | None, lowest: float, highest: float) -> None:
    if value is not None and not (math.isfinite(value) and lowest <= value <= highest):
        raise InvalidField(field, f"must be between {lowest:,} and {highest:,}")


def _check_reply_text(field: str, text: str) -> None:
    if len(text) > MAX_OVERSIZE_TEXT_LENGTH or not _REPLY_TEXT.fullmatch(text):
        raise InvalidField(
            field, f"must be one line of 1 to {MAX_OVERSIZE_TEXT_LENGTH} printable ASCII characters, as SMTP has them"
        )
