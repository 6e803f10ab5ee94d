"""What a target sees of a message: our verdict header in place of forged ones, links in place of stored files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from core.address_settings import AddressSettings, StoredFormat
from core.config import Settings
from core.envelope import Envelope
from core.formats import TargetFormat
from core.services.received import ClaimedDelivery
from inbound.authentication import results_header, with_trace, without_forged
from inbound.inspection import Reader
from inbound.payloads import RenderOptions, render
from inbound.reading.parsed import ParsedMessage
from inbound.storing import Storing

RESULTS_HEADER = "Authentication-Results"
_MEDIA_TYPES = {StoredFormat.EML: "message/rfc822", StoredFormat.JSON: "application/json"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as one target sees it."""

    message: Reader
    envelope: Envelope


class Presentation:
    """Prepares messages for their targets, from any thread."""

    def __init__(self, settings: Settings, storing: Storing) -> None:
        self._authserv_id = settings.mx_hostname
        self._storing = storing

    def longest_s(self, settings: AddressSettings) -> int:
        """How long preparing may take, uploads included."""
        stores = (settings.attachment_store, settings.message_store)
        return self._storing.longest_s * sum(store is not None for store in stores)

    def present(self, delivery: ClaimedDelivery, raw: bytes, message: Reader) -> Shown:
        """The message and the envelope to render. Raises `StorageUnavailable` when a store takes nothing now."""
        settings = delivery.settings
        shown = lru_cache(maxsize=1)(lambda: self._with_own_results(message(), delivery.envelope))
        if settings.attachment_store is not None and delivery.target_format is not TargetFormat.RAW:
            stored = self._storing.attachments(shown(), delivery.delivery_id, settings)
            shown = lru_cache(maxsize=1)(lambda: stored)
        envelope = delivery.envelope
        if settings.message_store is not None:
            envelope = replace(envelope, store_url=self._store_whole(delivery, raw, shown))
        return Shown(shown, envelope)

    def traced(self, delivery: ClaimedDelivery, raw: bytes) -> bytes:
        """The raw message as it is handed on: our verdict on top, nothing forged in our name, all else as it came."""
        envelope = delivery.envelope
        return with_trace(raw, None, self._results(envelope), self._authserv_id)

    def _with_own_results(self, message: ParsedMessage, envelope: Envelope) -> ParsedMessage:
        headers = without_forged(message.headers, self._authserv_id)
        results = self._results(envelope)
        if results is not None:
            headers = [(RESULTS_HEADER, results), *headers]
        return replace(message, headers=tuple(headers))

    def _results(self, envelope: Envelope) -> str | None:
        """None when authentication was not checked."""
        if envelope.verdicts.spf is None:
            return None
        return results_header(envelope.verdicts, self._authserv_id)

    def _store_whole(self, delivery: ClaimedDelivery, raw: bytes, message: Reader) -> str:
        settings = delivery.settings
        assert settings.message_store is not None  # asked before
        form = settings.message_store_format
        content = raw
        if form is StoredFormat.JSON:
            options = RenderOptions(delivery.delivery_id, delivery.secret)
            content = render(TargetFormat.JSON_N, raw, message, delivery.envelope, options).body
        return self._storing.message(
            content, _MEDIA_TYPES[form], form.value, delivery.delivery_id, settings.message_store
        )
