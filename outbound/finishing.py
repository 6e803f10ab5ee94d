"""From a stored message to the bytes that go to one recipient: tracked, marked with its return path, signed.

Message-ID, Date and everything else are as stored, at every attempt: whoever gets a mail twice can tell. What is ours
is put before the message; its body is copied only where a part of it changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import structlog

from core.clock import Clock
from core.errors import InvalidField
from core.sending.tracking_choice import TrackingChoice
from core.sending.tracking_tokens import TrackingTokens, unsubscribe_url
from core.sending.verp import RETURN_HEADER, ReturnPaths
from core.services.sending_domains import Sender
from outbound.composing.list_unsubscribe import list_unsubscribe_headers
from outbound.composing.raw_fields import join_message, split_message
from outbound.composing.recoding import rewrite_html, rewrite_plain
from outbound.dkim import MAX_HEADER_BYTES, SigningKey, sign_with_all
from outbound.tracking import Tracker, TrackingOptions

FEEDBACK_HEADER = "Feedback-ID"
"""Gmail's: what its spam reports are counted by. The last of its parts is the sender's mark, the same in all mail."""
FEEDBACK_MARK = "pillarbox"
SIGNED_TEXT = "-----BEGIN PGP SIGNED MESSAGE-----"
"""RFC 9580 section 7: a change within breaks the signature."""
_FEEDBACK_PART = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger("outbound")


@dataclass(frozen=True, slots=True)
class Finish:
    """What one recipient's copy is to get."""

    delivery_id: str
    sender: Sender | None
    """Whose keys sign; without one the mail goes unsigned."""
    choice: TrackingChoice
    stream: str


@dataclass(frozen=True, slots=True)
class FinishedMail:
    """A copy as it goes out."""

    mail_from: str
    content: bytes


class Finisher:
    """Finishes mail. Holds no state but the secrets; safe for threads."""

    def __init__(self, paths: ReturnPaths, tokens: TrackingTokens, gateway_domain: str, clock: Clock) -> None:
        """`gateway_domain` takes bounces of those domains whose own `mta.` does not lead here."""
        self._paths = paths
        self._tokens = tokens
        self._gateway_domain = gateway_domain
        self._clock = clock

    def finish(self, content: bytes, wanted: Finish) -> FinishedMail:
        """One copy. Raises `outbound.dkim.UnsignableMessage` and `outbound.dkim.UnusableKey`."""
        if wanted.choice.is_tracked:
            content = self._tracked(content, wanted)
        content = b"".join((self._marks(content, wanted), content))  # what was before may go: it may be large
        keys = _signing_keys(wanted.sender)
        if keys:
            content = b"".join((sign_with_all(content, keys, self._clock()), content))
        return FinishedMail(self._paths.make(wanted.delivery_id, self._return_domain(wanted.sender)), content)

    def _return_domain(self, sender: Sender | None) -> str:
        return f"mta.{sender.domain}" if sender is not None and sender.has_return_path else self._gateway_domain

    # --- headers of ours ---

    def _marks(self, content: bytes, wanted: Finish) -> bytes:
        """The fields that go before the message; those that it has itself stay, and ours is left out."""
        header = content[: content.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES) + 2]
        fields = [(RETURN_HEADER, self._paths.local_part(wanted.delivery_id))]
        if wanted.sender is not None and not _has(header, FEEDBACK_HEADER):
            parts = (wanted.stream, wanted.sender.domain, FEEDBACK_MARK)
            fields.append((FEEDBACK_HEADER, ":".join(part for part in parts if _FEEDBACK_PART.fullmatch(part))))
        if wanted.choice.unsubscribe and not _has(header, "List-Unsubscribe"):
            fields += self._unsubscribing(wanted)
        return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("ascii")

    def _unsubscribing(self, wanted: Finish) -> list[tuple[str, str]]:
        url = unsubscribe_url(wanted.choice.base_url, self._tokens, wanted.delivery_id)
        try:
            return list(list_unsubscribe_headers(url))
        except InvalidField as error:  # the operator's URL; mail must not wait for it
            log.warning("mail goes without List-Unsubscribe", reason=str(error))
            return []

    # --- tracking ---

    def _tracked(self, content: bytes, wanted: Finish) -> bytes:
        """With pixel and links. A mail that cannot be tracked goes as it is."""
        try:
            return self._rewritten(content, wanted)
        except InvalidField as error:
            log.warning("a mail is not tracked", delivery_id=wanted.delivery_id, reason=str(error))
        except Exception:
            log.exception("tracking failed; the mail goes without", delivery_id=wanted.delivery_id)
        return content

    def _rewritten(self, content: bytes, wanted: Finish) -> bytes:
        choice, delivery_id = wanted.choice, wanted.delivery_id
        tracker = Tracker(self._tokens, choice.base_url)
        options = TrackingOptions(choice.opens, choice.clicks, choice.text_clicks)
        fields, body = split_message(content)
        original: str | None = None

        def track_html(html: str) -> str:
            nonlocal original
            original = html
            return tracker.prepare(html, None, options).html_for(delivery_id) or html

        def track_text(text: str) -> str:
            """Its links are counted on from those of the HTML. A text that is signed in itself stays as it is."""
            if SIGNED_TEXT in text:
                return text
            return tracker.prepare(original, text, options).text_for(delivery_id) or text

        new_fields, new_body = rewrite_html(fields, body, track_html)
        if choice.text_clicks:
            new_fields, new_body = rewrite_plain(new_fields, new_body, track_text)
        if new_body == body and new_fields == fields:
            return content
        return join_message(new_fields, new_body)


def _has(header: bytes, name: str) -> bool:
    return re.search(rb"(?im)^%s[ \t]*:" % name.encode("ascii"), header) is not None


def _signing_keys(sender: Sender | None) -> list[SigningKey]:
    if sender is None or sender.signing_domain is None:
        return []
    return [SigningKey(sender.signing_domain, key.selector, key.private_pem, key.algorithm) for key in sender.keys]
