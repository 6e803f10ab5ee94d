"""Mail that customers send: one attempt for one recipient."""

from __future__ import annotations

from dataclasses import replace

import structlog

from core.clock import SECOND_MS, Clock
from core.config import Settings
from core.delivery import OUR_ERROR, SEND_KINDS, DeliveryKind, Outcome, Verdict, our_fault
from core.errors import StorageUnavailable
from core.sending.holding import held_by_pause
from core.sending.send_settings import SendSettings, combined
from core.sending.tracking_choice import TrackingChoice, tracking_choice
from core.sending.tracking_tokens import SECRET_NAME as TRACKING_SECRET
from core.sending.tracking_tokens import TrackingTokens
from core.sending.verp import SECRET_NAME as RETURN_SECRET
from core.sending.verp import ReturnPaths
from core.services.secrets import shared_secret
from core.services.send_claims import ClaimedSend, FinishedSend, load_sends
from core.services.send_outcomes import SendFollow
from core.store.blobs import BlobStore
from core.store.db import Database
from outbound.dkim import UnsignableMessage
from outbound.finishing import Finish, FinishedMail, Finisher
from outbound.mail import NO_ANSWER, OutgoingMail, Urgency
from outbound.mx import MxTransport
from outbound.policy import SEND_POLICIES
from outbound.timing import Timeouts
from workers.engine import Line
from workers.transport import Transport, mails_at_once

URGENCIES = {
    DeliveryKind.SEND_PRIORITY: Urgency.PRIORITY,
    DeliveryKind.SEND: Urgency.STANDARD,
    DeliveryKind.SEND_DIGEST: Urgency.DIGEST,
}
LEAST_PRIORITY_THREADS = 4
LEAST_DIGEST_THREADS = 2
NOT_SENT = "test mode: the mail was composed and signed, and not sent"
UNSENDABLE_STATUS = "5.6.0"
"""RFC 3463: something is wrong with the content."""

log = structlog.get_logger("sending")


class SendAttempt:
    """Makes attempts at deliveries of the three kinds of sent mail, from any thread."""

    def __init__(
        self, settings: Settings, database: Database, blobs: BlobStore, transport: MxTransport, clock: Clock
    ) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._transport = transport
        self._told_refusals: set[str] = set()
        self._clock = clock

    def __call__(self, claimed: ClaimedSend) -> FinishedSend:
        """Make the attempt; never raises."""
        started_ms = self._clock()
        kept_back = _kept_back(claimed, started_ms)
        if kept_back is not None:
            return FinishedSend(claimed, kept_back)
        try:
            return self._send(claimed, started_ms)
        except UnsignableMessage as error:
            return self._unsendable(claimed, started_ms, f"the message cannot be signed, and is not sent: {error}")
        except StorageUnavailable as error:
            problem = str(error)
        except Exception:
            log.exception("an attempt failed", delivery_id=claimed.delivery_id)
            problem = OUR_ERROR
        return FinishedSend(claimed, our_fault(started_ms, self._clock(), problem))

    def _send(self, claimed: ClaimedSend, started_ms: int) -> FinishedSend:
        missing = self._missing_signature(claimed)
        if missing is not None:
            log.warning("mail waits for a key", delivery_id=claimed.delivery_id, reason=missing)
            return FinishedSend(claimed, our_fault(started_ms, self._clock(), missing))
        finished = self._finish(claimed)
        if claimed.is_test:
            return FinishedSend(claimed, self._not_sent(started_ms))
        (result,) = self._transport.deliver(self._outgoing(claimed, finished))
        return FinishedSend(
            claimed,
            result.outcome,
            enhanced=result.enhanced,
            reply=result.reply,
            remote_host=result.host,
            tls=result.tls_version,
            ended_ms=self._clock(),
            is_about_sender=result.is_about_sender,
        )

    def _missing_signature(self, claimed: ClaimedSend) -> str | None:
        """Why the mail cannot be signed now although it must be; it waits until it can."""
        sender = claimed.sender
        if not self._settings.requires_verified or (sender is not None and sender.keys):
            return None
        whose = "the sending domain" if sender is None else sender.domain
        return f"{whose} has no active DKIM key; mail waits until one is verified"

    def _finish(self, claimed: ClaimedSend) -> FinishedMail:
        paths = ReturnPaths(shared_secret(self._database, RETURN_SECRET), self._clock)
        tokens = TrackingTokens(shared_secret(self._database, TRACKING_SECRET))
        finisher = Finisher(paths, tokens, self._settings.domain, self._clock)
        wanted = Finish(claimed.delivery_id, claimed.sender, self._choice(claimed), claimed.stream)
        return finisher.finish(self._content(claimed), wanted)

    def _choice(self, claimed: ClaimedSend) -> TrackingChoice:
        sender = claimed.sender
        of_domain = SendSettings() if sender is None else sender.settings
        is_verified = sender is not None and sender.tracking_verified
        choice = tracking_choice(self._settings, claimed.account_settings, of_domain, is_verified, claimed.options)
        for refusal in (choice.unsubscribe_refusal, choice.tracking_refusal):
            if refusal is not None and refusal not in self._told_refusals:
                self._told_refusals.add(refusal)  # once: it is about the gateway, not about the mail
                log.warning(refusal)
        return choice

    def _content(self, claimed: ClaimedSend) -> bytes:
        if claimed.body is not None:
            return claimed.body
        if claimed.blob_key is None:
            raise StorageUnavailable("the message has no content any more")
        return self._blobs.get(claimed.blob_key)

    def _outgoing(self, claimed: ClaimedSend, finished: FinishedMail) -> OutgoingMail:
        of_domain = SendSettings() if claimed.sender is None else claimed.sender.settings
        return OutgoingMail(
            mail_from=finished.mail_from,
            recipients=(claimed.recipient,),
            content=finished.content,
            needs_smtputf8=claimed.needs_smtputf8,
            source_ip=combined(of_domain, claimed.account_settings).source_ip,
            urgency=URGENCIES[claimed.kind],
        )

    def _not_sent(self, started_ms: int) -> Outcome:
        """Good, and no word on the host, which was never asked."""
        nothing = our_fault(started_ms, self._clock(), NOT_SENT)
        return replace(nothing, verdict=Verdict.ACCEPTED)

    def _unsendable(self, claimed: ClaimedSend, started_ms: int, reason: str) -> FinishedSend:
        log.error("a message cannot be sent", delivery_id=claimed.delivery_id, reason=reason)
        duration_ms = max(0, self._clock() - started_ms)
        outcome = Outcome(Verdict.PERMANENT, NO_ANSWER, started_ms, duration_ms, reason)
        return FinishedSend(claimed, outcome, enhanced=UNSENDABLE_STATUS, is_unsendable=True)


def _kept_back(claimed: ClaimedSend, now_ms: int) -> Outcome | None:
    """The outcome of an attempt that must not be made; None when it may."""
    if claimed.suppressed_because is not None:
        reason = f"the recipient is on the suppression list ({claimed.suppressed_because})"
        return Outcome(Verdict.SUPPRESSED, NO_ANSWER, now_ms, 0, reason)
    if claimed.paused_because is not None:
        return Outcome(Verdict.HELD, NO_ANSWER, now_ms, 0, held_by_pause(claimed.paused_because))
    return None


def send_transports(
    settings: Settings, database: Database, blobs: BlobStore, mail: MxTransport, clock: Clock
) -> dict[DeliveryKind, Transport]:
    """The transports of mail that customers send, one for each priority. Raises `ConfigurationError`."""
    attempt = SendAttempt(settings, database, blobs, mail, clock)
    follow = SendFollow(settings.soft_bounce_limit)
    limit_ms = int((Timeouts().total_s + blobs.longest_s) * SECOND_MS)
    return {
        kind: Transport(
            Line(attempt, SEND_POLICIES[kind], load_sends, follow, (DeliveryKind.EVENTS,), mail.machines.machine_of),
            send_threads(settings.send_threads)[kind],
            limit_ms,
            host_concurrency=mails_at_once(settings),
        )
        for kind in SEND_KINDS
    }


def send_threads(standard: int) -> dict[DeliveryKind, int]:
    """Mails on their way at once in each worker, by kind."""
    return {
        DeliveryKind.SEND_PRIORITY: max(LEAST_PRIORITY_THREADS, standard // 2),
        DeliveryKind.SEND: standard,
        DeliveryKind.SEND_DIGEST: max(LEAST_DIGEST_THREADS, standard // 4),
    }
