"""Deliver one message to the hosts of one domain: the transport behind every mail we send.

Each host is tried in turn until it has judged every recipient. What a host says within a transaction is final for this
attempt; where it cannot be talked with (no connection, a refusal at its greeting or EHLO, 421, a conversation that
breaks before the content was sent whole) the next one is tried. Such trouble is temporary even when said with 5xx,
as Postfix has it, because it is about us and not about the recipient; only if every host says 521, "no mail here", is
that believed (RFC 7504).

Where a host has as many connections of ours as it may have, its equals are tried, but none that are less preferred; if
that is all that happened, no attempt was made (`Verdict.BUSY`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import structlog

from core.addresses import Mailbox, parse_mailbox
from core.clock import Clock
from core.config import Settings
from core.delivery import Outcome, Verdict
from core.errors import TargetBlocked
from core.netguard import TargetPolicy
from outbound.dane import AUTO
from outbound.host_slots import HostBusy, HostSlots
from outbound.hosts import SMTP_PORT, HostAddress, NoRoute, Route
from outbound.machines import Machines
from outbound.mail import NO_ANSWER, Judgement, OutgoingMail, RecipientResult
from outbound.pool import ConnectionPool
from outbound.replies import NO_MAIL_HERE
from outbound.smtp_client import (
    ConnectionFailed,
    HostRefuses,
    LoginRefused,
    SmtpConnection,
    TlsFailed,
    TlsMissing,
)
from outbound.source_addresses import SourceAddresses
from outbound.timing import Deadline, Timeouts
from outbound.tls import WHATEVER_THERE_IS, TlsContexts, TlsDemand, TlsLevel
from outbound.tls_demands import HostUnfit, TlsDemands, route_and_demands
from outbound.transaction import Draft, Recipient, Transaction, path

MAX_PLACES = 6
"""Addresses tried in one attempt."""
log = structlog.get_logger("outbound")

_UNTRIED = Judgement(Verdict.TEMPORARY, NO_ANSWER, "4.4.7", "no host was tried before the time was over", True)


class MxTransport:
    """Delivers mail, from any thread."""

    def __init__(
        self,
        route: Route,
        guard: TargetPolicy,
        our_name: str,
        clock: Clock,
        pool: ConnectionPool,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (frozen)
        demands: TlsDemands | None = None,
        contexts: TlsContexts | None = None,
        slots: HostSlots | None = None,
        sources: SourceAddresses | None = None,
        machines: Machines | None = None,
    ) -> None:
        """Without `demands`, TLS is opportunistic everywhere; without `slots`, connections are not counted."""
        self._route = route
        self._guard = guard
        self._our_name = our_name
        self._clock = clock
        self._pool = pool
        self._timeouts = timeouts
        self._demands = demands or TlsDemands()
        self._contexts = contexts or TlsContexts()
        self._slots = slots or HostSlots(None)
        self._sources = sources or SourceAddresses()
        self.machines = machines or Machines()

    def deliver(self, mail: OutgoingMail) -> tuple[RecipientResult, ...]:
        """Try once; a result for each recipient, in their order. Never raises for what hosts and addresses do.

        Raises `ValueError` when the recipients are not all of one domain.
        """
        started_ms = self._clock()
        attempt = _Attempt(mail)
        if attempt.pending:
            self._go_round(attempt)
        duration_ms = max(0, self._clock() - started_ms - attempt.waited_ms)
        return attempt.results(started_ms, duration_ms)

    def _go_round(self, attempt: _Attempt) -> None:
        deadline = Deadline(self._timeouts.total_s)
        patience = Deadline(self._timeouts.wait_s)
        try:
            for place in islice(self._fit_places(attempt, deadline), MAX_PLACES):
                if attempt.busy_rank is not None and place.rank > attempt.busy_rank:
                    break
                self._visit_in_turn(place, attempt, patience.within(deadline.remaining), deadline)
                if not attempt.pending or deadline.is_over:
                    break
        except NoRoute as error:
            attempt.trouble(None, error.judgement)

    def _fit_places(self, attempt: _Attempt, deadline: Deadline) -> Iterator[HostAddress]:
        """The places mail may go to, each with what TLS is demanded there; of the others no connection is made."""
        demands = self._demands.of(attempt.domain, deadline)
        for place in self._route.places(attempt.domain, deadline):
            try:
                demand = demands.at(place, deadline)
            except HostUnfit as error:
                attempt.trouble(place.host, error.judgement)
                if deadline.is_over:
                    return
            else:
                attempt.note_first(place, self.machines)
                yield replace(place, tls=demand, source=self._source(place, attempt))

    def _source(self, place: HostAddress, attempt: _Attempt) -> str | None:
        """Where to come from; the way to a relay of our own is the system's business."""
        return self._sources.choose(attempt.domain, place.address, attempt.source_ip) if place.is_guarded else None

    def _visit_in_turn(self, place: HostAddress, attempt: _Attempt, patience: Deadline, deadline: Deadline) -> None:
        """Visit a host as soon as it has less than its share of our connections."""
        asked_ms = self._clock()
        try:
            with self._slots.place(place.machine, attempt.urgency, patience):
                attempt.waited_ms += max(0, self._clock() - asked_ms)
                self._visit(place, attempt, deadline)
        except HostBusy:
            attempt.waited_ms += max(0, self._clock() - asked_ms)
            attempt.found_busy(place)

    def _visit(self, place: HostAddress, attempt: _Attempt, deadline: Deadline) -> None:
        try:
            if place.is_guarded:
                self._guard.check(place.address)
            kept = self._pool.take(place)
            if kept is None or not self._goes_well(place, kept, attempt, deadline):
                self._pool.make_way(place, self._slots.room(place.machine))
                self._transact(place, self._open(place, deadline), attempt, deadline)
        except TargetBlocked as error:
            text = f"{place.host} must not be connected to: {error}"
            attempt.trouble(place.host, Judgement(Verdict.TEMPORARY, NO_ANSWER, "4.4.4", text))
        except ConnectionFailed as error:
            attempt.trouble(place.host, _failure(error))
        except LoginRefused as error:
            attempt.trouble(place.host, replace(error.reply.judge_as_temporary(), is_our_fault=True))
        except HostRefuses as error:
            judgement = replace(error.reply.judge_as_temporary(), is_our_fault=not place.is_guarded)
            attempt.trouble(place.host, judgement)

    def _goes_well(self, place: HostAddress, kept: SmtpConnection, attempt: _Attempt, deadline: Deadline) -> bool:
        """Use a connection that was kept. Where it turns out to be used up, a new one is no second try."""
        try:
            self._transact(place, kept, attempt, deadline)
        except (ConnectionFailed, HostRefuses):
            return False
        return True

    def _open(self, place: HostAddress, deadline: Deadline) -> SmtpConnection:
        """As secure as is demanded; where that is not required, with less, step by step."""
        try:
            return self._connect(place, place.tls, deadline)
        except TlsFailed as error:
            if place.tls.is_required:
                raise
            if place.tls.level is TlsLevel.OPPORTUNISTIC:
                return self._connect(place, None, deadline)
            shortfall = str(error)
        try:
            connection = self._connect(place, WHATEVER_THERE_IS, deadline)
        except TlsFailed:
            connection = self._connect(place, None, deadline)
        connection.tls_warning = shortfall
        return connection

    def _connect(self, place: HostAddress, demand: TlsDemand | None, deadline: Deadline) -> SmtpConnection:
        connection = SmtpConnection(place, self._timeouts)
        try:
            connection.open(self._our_name, demand, self._contexts, deadline)
        except (HostRefuses, TlsMissing):
            connection.quit()
            raise
        except BaseException:
            connection.close()
            raise
        return connection

    def _transact(self, place: HostAddress, connection: SmtpConnection, attempt: _Attempt, deadline: Deadline) -> None:
        transaction = Transaction(connection, attempt.draft, attempt.pending, self._timeouts)
        try:
            transaction.run(deadline)
        except BaseException:
            connection.close()
            raise
        finally:
            attempt.settle(transaction.judged, place, connection)
        self._pool.give(connection)


@dataclass(frozen=True, slots=True)
class _Settled:
    """What became of one recipient, and in what session."""

    judgement: Judgement
    host: str | None = None
    tls: TlsLevel = TlsLevel.NONE
    tls_version: str | None = None
    tls_warning: str | None = None


class _Attempt:
    """What has become of the recipients so far."""

    def __init__(self, mail: OutgoingMail) -> None:
        self._mail = mail
        self.urgency = mail.urgency
        self.source_ip = mail.source_ip
        self.waited_ms = 0
        """For our own connections to be free: no delay of the host's."""
        self.busy_rank: int | None = None
        """Of the best place that had no connection free; None while there was none."""
        self._has_place = False
        self._settled: dict[str, _Settled] = {}
        self._troubles: list[tuple[str | None, Judgement]] = []
        sender = parse_mailbox(mail.mail_from) if mail.mail_from else None
        if mail.mail_from and sender is None:
            self._refuse(mail.recipients, "5.1.7", "the sender is no mail address")
        mailboxes = {given: parse_mailbox(given) for given in mail.recipients}
        self._refuse([given for given, read in mailboxes.items() if read is None], "5.1.3", "this is no mail address")
        self.draft = Draft(sender, mail.content, mail.needs_smtputf8)
        self.pending = [
            Recipient(given, path(mailbox))
            for given, mailbox in mailboxes.items()
            if mailbox is not None and given not in self._settled
        ]
        self.domain = _common_domain([mailbox for mailbox in mailboxes.values() if mailbox is not None])

    def settle(self, judged: dict[str, Judgement], place: HostAddress, connection: SmtpConnection) -> None:
        """Take a host's judgements."""
        warning = place.tls.warning or connection.tls_warning
        if judged and warning:
            log.warning("MTA-STS policy in testing mode is not met", domain=self.domain, problem=warning)
        for given, judgement in judged.items():
            self._settled[given] = _Settled(judgement, place.host, connection.tls, connection.tls_version, warning)
        self.pending = [one for one in self.pending if one.given not in self._settled]

    def trouble(self, host: str | None, judgement: Judgement) -> None:
        """A host that could not be talked with."""
        self._troubles.append((host, judgement))

    def found_busy(self, place: HostAddress) -> None:
        """A host that could not be talked with because of our own limit."""
        self.busy_rank = place.rank
        self.trouble(place.host, _busy(place))

    def note_first(self, place: HostAddress, machines: Machines) -> None:
        """Where the mail goes if nothing comes between."""
        if not self._has_place:
            self._has_place = True
            machines.learn(self._mail.recipients[0], place)

    def results(self, started_ms: int, duration_ms: int) -> tuple[RecipientResult, ...]:
        """How it went for each."""
        results = []
        for given in self._mail.recipients:
            settled = self._settled.get(given) or self._remaining()
            judgement = settled.judgement
            outcome = Outcome(
                verdict=judgement.verdict,
                status=judgement.code,
                started_ms=started_ms,
                duration_ms=duration_ms,
                error=None if judgement.is_from_host else judgement.text,
                response=judgement.text
                if judgement.is_from_host and judgement.verdict is not Verdict.ACCEPTED
                else None,
                is_timeout=judgement.is_timeout,
                is_our_fault=judgement.is_our_fault,
            )
            reply = judgement.text if judgement.is_from_host else None
            results.append(
                RecipientResult(
                    given, outcome, judgement.enhanced, reply, settled.host,
                    settled.tls_version, settled.tls, settled.tls_warning, judgement.is_about_sender,
                )
            )  # fmt: skip
        return tuple(results)

    def _remaining(self) -> _Settled:
        """What holds for those no host has judged: the last trouble, one in the words of a host before others, and one
        of a host that was asked before one that was not."""
        if not self._troubles:
            return _Settled(_UNTRIED)
        troubles = [one for one in self._troubles if one[1].verdict is not Verdict.BUSY] or self._troubles
        is_nowhere = all(one.code == NO_MAIL_HERE and not one.is_our_fault for _, one in self._troubles)
        host, judgement = next((one for one in reversed(troubles) if one[1].is_from_host), troubles[-1])
        if is_nowhere:
            judgement = Judgement(Verdict.PERMANENT, NO_MAIL_HERE, f"5{judgement.enhanced[1:]}", judgement.text)
        return _Settled(judgement, host)

    def _refuse(self, recipients: tuple[str, ...] | list[str], enhanced: str, text: str) -> None:
        for given in recipients:
            self._settled[given] = _Settled(Judgement(Verdict.PERMANENT, NO_ANSWER, enhanced, text))


def _busy(place: HostAddress) -> Judgement:
    text = f"all connections that {place.host} may have of ours are in use; the mail waits its turn"
    return Judgement(Verdict.BUSY, NO_ANSWER, "4.4.5", text, is_our_fault=True)


def _failure(error: ConnectionFailed) -> Judgement:
    return Judgement(Verdict.TEMPORARY, NO_ANSWER, error.enhanced, str(error), error.is_timeout, error.is_our_fault)


def _common_domain(mailboxes: list[Mailbox]) -> str:
    domains = {mailbox.domain for mailbox in mailboxes}
    if len(domains) > 1:
        raise ValueError(f"recipients of {len(domains)} domains in one mail; each domain needs its own")
    return domains.pop() if domains else ""


def mx_transport_for(
    settings: Settings, clock: Clock, pool: ConnectionPool, port: int = SMTP_PORT, dnssec: str = AUTO
) -> MxTransport:
    """The transport as configured. Raises `ConfigurationError`."""
    contexts = TlsContexts(settings.ca_file or None)
    route, demands = route_and_demands(settings, clock, contexts, port, dnssec)
    return MxTransport(
        route, settings.target_policy, settings.mx_hostname, clock, pool, demands=demands, contexts=contexts,
        slots=HostSlots(settings.connections_per_host), sources=SourceAddresses(settings.source_addresses),
        machines=Machines("relay" if settings.smart_host else ""),
    )  # fmt: skip
