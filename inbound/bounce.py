"""The DSN for mail that a target refuses for good after we had taken it, where its address wants that.

Composed while the message is at hand, and sent only when the delivery ends as rejected. It goes to nobody whose SPF or
DKIM did not pass: a forged sender has not written to us.
"""

from __future__ import annotations

from core.clock import Clock, to_ms
from core.config import Settings
from core.delivery import Outcome
from core.dsn import DsnReport, FailedRecipient, compose_dsn, may_bounce
from core.ids import new_time_ordered_id
from core.services.received import ClaimedDelivery
from inbound.reading.trace import is_automatic

SEARCHED_BYTES = 64 * 1024
"""Of a message, in which its headers are looked for."""
REFUSED_STATUS = "5.7.1"
"""RFC 3463: delivery not authorized, message refused. It is what an inline sender would have heard."""
REASON = "The recipient's system refuses the message."
"""Where it gives no text of its own for the sender. What a mailbox's host has said is not passed on: it may name the
mailbox, which the sender does not know."""


class Bouncer:
    """Composes DSNs, from any thread."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._host = settings.mx_hostname
        self._domain = settings.domain
        self._clock = clock

    def compose(self, delivery: ClaimedDelivery, raw: bytes, outcome: Outcome) -> bytes | None:
        """The DSN for a delivery that was refused for good; None when none may be sent."""
        settings, envelope = delivery.settings, delivery.envelope
        if not settings.bounce_rejected:
            return None
        sender = envelope.mail_from
        is_ours = sender.rpartition("@")[2].lower() == self._domain
        if not may_bounce(sender, envelope.verdicts, is_automatic=is_automatic(raw[:SEARCHED_BYTES]), is_ours=is_ours):
            return None
        return compose_dsn(
            DsnReport(
                sender=sender,
                failed=tuple(_failed(recipient, outcome) for recipient in envelope.recipients),
                original=raw,
                arrived_ms=to_ms(envelope.received_at),
                now_ms=self._clock(),
                reporting_host=self._host,
                from_domain=self._domain,
                identifier=new_time_ordered_id(),
            )
        )


def _failed(recipient: str, outcome: Outcome) -> FailedRecipient:
    said = outcome.refusal_text
    return FailedRecipient(recipient, REFUSED_STATUS, said or REASON, said, "x-http")
