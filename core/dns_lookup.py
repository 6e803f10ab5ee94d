"""A DNS client for many threads: answers are remembered, equal questions are asked once, and time is bounded.

A name that does not exist and one without such records are answers; a server that fails or is silent is
`LookupFailed`, which says nothing of the name and is to be tried again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitTimeout
from dataclasses import dataclass
from enum import Enum
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype
import dns.resolver

from core.clock import SECOND_MS, Clock, system_clock
from core.config import Settings
from core.errors import PillarboxError
from core.mx_check import make_resolver

QUERY_TIMEOUT_S = 4.0
"""How long one question may take, all servers and repetitions together."""
MAX_ENTRIES = 20_000
MAX_TTL_S = 3600.0
"""However long a record may be kept, we look again after this: keys get rotated."""
MAX_NEGATIVE_TTL_S = 300.0
"""A record that was missing is usually about to be added (RFC 2308 section 5 allows hours)."""
UNSTATED_NEGATIVE_TTL_S = 5.0
"""Without a SOA record a negative answer should not be kept (RFC 2308 section 5); this much spares bursts."""
FAILURE_TTL_S = 2.0
"""Failures are kept too, or each mail would wait for a dead server again (RFC 9520 asks for at least a second)."""
MAX_QUESTIONS = 250
"""For one message. SPF alone may need 110 (RFC 7208 section 4.6.4: ten `mx`, ten hosts each)."""
EDNS_PAYLOAD_BYTES = 1232
"""The largest answer that needs no fragments (DNS flag day 2020)."""

MonotonicClock = Callable[[], float]
"""Gives seconds that never run backwards; tests pass their own."""


class LookupFailed(PillarboxError):
    """The DNS gave no answer, or there was no time left to ask: to be tried again."""


class RecordType(Enum):
    """What can be asked for."""

    A = dns.rdatatype.A
    AAAA = dns.rdatatype.AAAA
    CNAME = dns.rdatatype.CNAME
    MX = dns.rdatatype.MX
    PTR = dns.rdatatype.PTR
    TXT = dns.rdatatype.TXT


@dataclass(frozen=True, slots=True)
class Answer:
    """What the DNS says of a name; aliases have been followed."""

    exists: bool
    """Whether there is such a name at all; without records of the type asked for it may still exist."""
    records: tuple[Any, ...] = ()
    """dnspython's records, in the order they came; the properties read them, each for its own type."""

    @property
    def texts(self) -> tuple[bytes, ...]:
        """TXT records; the strings of one are joined without anything between (RFC 7208 section 3.3)."""
        return tuple(b"".join(record.strings) for record in self.records)

    @property
    def addresses(self) -> tuple[str, ...]:
        """A and AAAA records."""
        return tuple(record.address for record in self.records)

    @property
    def exchanges(self) -> tuple[tuple[int, str], ...]:
        """MX records: preference and host, the best first; a null MX has the empty host (RFC 7505)."""
        found = [(record.preference, _host(record.exchange)) for record in self.records]
        return tuple(sorted(found, key=lambda exchange: exchange[0]))

    @property
    def names(self) -> tuple[str, ...]:
        """PTR and CNAME records, lower-case and without the final dot."""
        return tuple(_host(record.target) for record in self.records)


_NO_SUCH_NAME = Answer(exists=False)


class LookupBudget:
    """How much the checks of one message may ask of the DNS, all together."""

    def __init__(
        self, seconds: float, questions: int = MAX_QUESTIONS, monotonic: MonotonicClock = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._deadline = monotonic() + seconds
        self._questions = questions

    @property
    def remaining_s(self) -> float:
        """Seconds that are left; never below 0."""
        return max(0.0, self._deadline - self._monotonic())

    def take_question(self) -> None:
        """Count one question. Raises `LookupFailed` when there may be no more."""
        if self._questions <= 0:
            raise LookupFailed("one message needs too many DNS lookups")
        if self.remaining_s <= 0:
            raise LookupFailed("the time for DNS lookups is used up")
        self._questions -= 1


@dataclass(frozen=True, slots=True)
class _Failure:
    """A question without an answer."""

    reason: str
    is_hasty: bool
    """Whether the asker gave it less than the full time: then it says nothing to others."""


_Key = tuple[dns.name.Name, RecordType]
_Outcome = Answer | _Failure


class DnsLookup:
    """Asks, remembers and shares. One for a process; safe for threads."""

    def __init__(
        self,
        resolver: dns.resolver.Resolver,
        clock: Clock = system_clock,
        query_timeout_s: float = QUERY_TIMEOUT_S,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._query_timeout_s = query_timeout_s
        self._cache = _Cache(max_entries)
        self._flights: dict[_Key, Future[_Outcome]] = {}
        self._lock = threading.Lock()

    def anew(self) -> DnsLookup:
        """A client of the same servers that remembers nothing yet: for people who have just changed a record and want
        to know what the DNS says now. (The servers asked may remember, too; nothing can be done about that here.)"""
        return DnsLookup(self._resolver, self._clock, self._query_timeout_s)

    def find(self, name: str, kind: RecordType, budget: LookupBudget) -> Answer:
        """The records of one type. A text that cannot be a name in the DNS is a name that does not exist.

        Raises `LookupFailed`.
        """
        asked = _dns_name(name)
        if asked is None:
            return _NO_SUCH_NAME
        outcome: _Outcome | None = None
        while outcome is None:
            outcome = self._find_once((asked, kind), budget)
        if isinstance(outcome, _Failure):
            raise LookupFailed(outcome.reason)
        return outcome

    def _find_once(self, key: _Key, budget: LookupBudget) -> _Outcome | None:
        """None when somebody else's hasty question failed, so that it must be asked again."""
        with self._lock:
            kept = self._cache.get(key, self._clock())
            if kept is not None:
                return kept
            flight = self._flights.get(key)
            if flight is None:
                budget.take_question()
                ours: Future[_Outcome] = Future()
                self._flights[key] = ours
        return self._lead(key, ours, budget) if flight is None else _follow(flight, budget)

    def _lead(self, key: _Key, flight: Future[_Outcome], budget: LookupBudget) -> _Outcome:
        outcome: _Outcome = _Failure("the DNS lookup broke down", is_hasty=True)
        ttl_s = 0.0
        try:
            outcome, ttl_s = self._ask(key, min(self._query_timeout_s, budget.remaining_s))
        finally:
            with self._lock:
                if ttl_s > 0:
                    self._cache.put(key, outcome, self._clock() + int(ttl_s * SECOND_MS))
                del self._flights[key]
            flight.set_result(outcome)
        return outcome

    def _ask(self, key: _Key, timeout_s: float) -> tuple[_Outcome, float]:
        """The outcome, and for how many seconds to keep it."""
        name, kind = key
        try:
            found = self._resolver.resolve(
                name, kind.value, search=False, raise_on_no_answer=False, lifetime=max(timeout_s, 0.001)
            )
        except dns.resolver.NXDOMAIN as error:
            return _NO_SUCH_NAME, _negative_ttl(error.response(name))  # type: ignore[no-untyped-call]
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return self._failed(key, error, timeout_s)
        if found.rrset is None:
            return Answer(exists=True), _negative_ttl(found.response)
        return Answer(True, tuple(found.rrset)), min(float(found.chaining_result.minimum_ttl), MAX_TTL_S)

    def _failed(self, key: _Key, error: Exception, timeout_s: float) -> tuple[_Failure, float]:
        is_hasty = isinstance(error, dns.exception.Timeout) and timeout_s < self._query_timeout_s
        what = "no answer in time" if isinstance(error, dns.exception.Timeout) else "no usable answer"
        reason = f"the DNS gave {what} for {key[1].name} records of {_host(key[0])}"
        return _Failure(reason, is_hasty), 0.0 if is_hasty else FAILURE_TTL_S


class _Cache:
    """The most recently used outcomes; the caller holds the lock."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[_Key, tuple[int, _Outcome]] = OrderedDict()

    def get(self, key: _Key, now_ms: int) -> _Outcome | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= now_ms:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: _Key, outcome: _Outcome, until_ms: int) -> None:
        self._entries[key] = (until_ms, outcome)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)


def open_lookup(settings: Settings, clock: Clock = system_clock) -> DnsLookup:
    """A client that asks the servers in the settings. Raises `ConfigurationError`."""
    resolver = make_resolver(settings.resolver)
    resolver.use_edns(0, 0, EDNS_PAYLOAD_BYTES)
    return DnsLookup(resolver, clock)


def _follow(flight: Future[_Outcome], budget: LookupBudget) -> _Outcome | None:
    try:
        outcome = flight.result(budget.remaining_s)
    except WaitTimeout:
        return _Failure("the time for DNS lookups is used up", is_hasty=True)
    is_for_others = isinstance(outcome, Answer) or not outcome.is_hasty
    return outcome if is_for_others else None


def _dns_name(text: str) -> dns.name.Name | None:
    """Labels as they stand: no escapes, no IDNA; lower-case, so that equal questions are equal."""
    labels = text.lower().removesuffix(".").encode("utf-8", "surrogatepass").split(b".")
    try:
        return dns.name.Name([*labels, b""])
    except dns.exception.DNSException:
        return None


def _host(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower().removesuffix(".")


def _negative_ttl(response: dns.message.Message) -> float:
    if not any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority):
        return UNSTATED_NEGATIVE_TTL_S
    assert isinstance(response, dns.message.QueryMessage)
    return min(float(response.resolve_chaining().minimum_ttl), MAX_NEGATIVE_TTL_S)
