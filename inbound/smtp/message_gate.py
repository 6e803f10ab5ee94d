"""What is refused after DATA: by size, rules and checks, for addresses that reject by what a message holds.

One reply answers for all recipients: a mail is refused only when every delivery of it is. Where only some would be,
those begin in quarantine. What need not be known for a refusal is found out by the worker, after the 250.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

from core.clock import to_datetime
from core.config import Settings
from core.envelope import NO_VERDICTS, Envelope
from core.rule_facts import Facts
from core.rules import Cause, JudgedAction, Judgement, may_still_reject
from core.services.acceptance import AcceptedMail, DeliveryKey, DeliveryPlan, NewDelivery, plan_deliveries
from inbound.attempt import COPIES, MEMORY_BUDGET, MemoryBudget
from inbound.clients import is_within
from inbound.inspection import Case, Inspector, Reader
from inbound.reading.parse import parse_message
from inbound.smtp.recipient_gate import size_limit
from inbound.smtp.replies import Reply, blocked, oversize
from inbound.smtp.spool import SpooledMessage

QUEUE_FACTOR = 8
"""Messages that wait for each thread, at most: beyond, senders come again. A message outlives its session, so the limit
of connections does not bound them."""
_CHECK_REFUSALS = {
    Cause.SPF: Reply.SPF_REFUSED,
    Cause.DKIM: Reply.DKIM_REFUSED,
    Cause.DMARC: Reply.DMARC_REFUSED,
    Cause.VIRUS: Reply.VIRUS_REFUSED,
    Cause.SPAM: Reply.SPAM_REFUSED,
}


@dataclass(frozen=True, slots=True)
class _Finding:
    """What the gate says of one delivery of a mail."""

    delivery: NewDelivery
    judgement: Judgement | None = None
    """None when it was not judged here."""
    is_too_large: bool = False

    @property
    def refusal(self) -> str | None:
        """The reply, were this the only delivery."""
        if self.is_too_large:
            return oversize(self.delivery.route.settings.oversize_text)
        judged = self.judgement
        if judged is None or judged.action is not JudgedAction.REJECT:
            return None
        known = _CHECK_REFUSALS.get(judged.cause) if judged.cause is not None else None
        return known or blocked(judged.sender_text)

    @property
    def plan(self) -> DeliveryPlan:
        """How the delivery begins when the mail is accepted all the same."""
        route = self.delivery.route
        window_ms = route.settings.duplicate_window_ms
        if self.is_too_large:
            held_because: str | None = f"larger than the {route.settings.max_message_size} bytes that the address takes"
        else:
            is_held = self.judgement is not None and self.judgement.action is not JudgedAction.ACCEPT
            held_because = self.judgement.reason if is_held and self.judgement is not None else None
        judgement = None if self.judgement is None else self.judgement.after_acceptance()
        return DeliveryPlan(judgement, held_because, window_ms)


class MessageGate:
    """Judges complete messages, a few at a time."""

    def __init__(self, settings: Settings, inspector: Inspector) -> None:
        self._server_limit = settings.max_message_size
        self._trusted = settings.trusted_forwarder_networks
        self._inspector = inspector
        self._pool = ThreadPoolExecutor(settings.inspection_threads, thread_name_prefix="inspection")
        self._budget = MemoryBudget(MEMORY_BUDGET)
        self._waiting = 0
        self._most_waiting = settings.inspection_threads * QUEUE_FACTOR

    async def examine(self, mail: AcceptedMail, message: SpooledMessage) -> AcceptedMail | str:
        """The mail with the plans of its deliveries, or the reply that refuses it."""
        if all(route.is_plain for _, route in mail.recipients):
            return mail
        deliveries = plan_deliveries(mail)
        if any(self._must_judge(delivery) for delivery in deliveries):
            if self._waiting >= self._most_waiting:
                return Reply.TRY_LATER
            self._waiting += 1
            try:
                mail, findings = await asyncio.get_running_loop().run_in_executor(
                    self._pool, self._judge, mail, deliveries, message
                )
            finally:
                self._waiting -= 1
        else:
            findings = [self._measure(delivery) for delivery in deliveries]
        refusals = [finding.refusal for finding in findings]
        if all(refusals):
            return refusals[0] or Reply.TRY_LATER
        return replace(mail, plans=_plans(findings))

    def stop(self) -> None:
        """Start no more inspections."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _must_judge(self, delivery: NewDelivery) -> bool:
        """Whether it may yet be refused, by something that could not be told at RCPT."""
        mail, route = delivery.mail, delivery.route
        is_hidden = is_within(mail.remote_ip, self._trusted)
        facts = Facts(
            remote_ip=None if is_hidden else mail.remote_ip,
            helo=None if is_hidden else mail.helo,
            mail_from=mail.mail_from,
            recipients=tuple(delivery.recipients),
            size=mail.size,
        )
        return may_still_reject(route.settings, route.rules, facts)

    def _judge(
        self, mail: AcceptedMail, deliveries: list[NewDelivery], message: SpooledMessage
    ) -> tuple[AcceptedMail, list[_Finding]]:
        with self._budget.hold(mail.size * COPIES if message.path is not None else 0):
            raw = message.read()
            read = lru_cache(maxsize=1)(lambda: parse_message(raw))
            envelope = _envelope(mail, tuple(recipient for recipient, _ in mail.recipients))
            verdicts = self._inspector.inspect(raw, read, envelope)
            mail = replace(mail, verdicts=verdicts)
            return mail, [self._judge_one(mail, delivery, read) for delivery in deliveries]

    def _judge_one(self, mail: AcceptedMail, delivery: NewDelivery, read: Reader) -> _Finding:
        route = delivery.route
        case = Case(_envelope(mail, tuple(delivery.recipients)), mail.size, read, route.rules, route.settings)
        return replace(self._measure(delivery), judgement=self._inspector.judge(case))

    def _measure(self, delivery: NewDelivery) -> _Finding:
        is_too_large = delivery.mail.size > size_limit(delivery.route, self._server_limit)
        return _Finding(delivery, is_too_large=is_too_large)


def _plans(findings: list[_Finding]) -> Mapping[DeliveryKey, DeliveryPlan]:
    return {finding.delivery.route.delivery_key: finding.plan for finding in findings}


def _envelope(mail: AcceptedMail, recipients: tuple[str, ...]) -> Envelope:
    return Envelope(
        mail_from=mail.mail_from,
        recipients=recipients,
        helo=mail.helo,
        remote_ip=mail.remote_ip,
        tls_version=mail.tls_version,
        tls_cipher=mail.tls_cipher,
        md5=mail.md5,
        received_at=to_datetime(mail.received_ms),
        verdicts=mail.verdicts or NO_VERDICTS,
    )
