"""When a sending domain is looked at again without anybody asking.

A domain that waits for its records is looked at often at first, when somebody is just adding them, then ever more
rarely: a quarter of the time it has waited already, until the next look. One that may send has its turn each day.
"""

from __future__ import annotations

import hashlib

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from core.sending.domain_judgement import DomainState
from core.sending.domain_status import CheckResult, CheckState
from core.sending.key_rotation import KeyState, signing_keys

FIRST_CHECK_MS = 5 * MINUTE_MS
"""Records take some minutes to be seen."""
AGE_PART = 4
"""A look after each quarter of the time waited is some 25 looks in the first day, and ten in the next three weeks."""
DAILY_MS = DAY_MS
ABANDONED_AFTER_MS = 30 * DAY_MS
ABANDONED_MS = 7 * DAY_MS
DOUBT_MS = 4 * HOUR_MS
"""After a DNS that failed, or a key that was there and is not: soon, but not before somebody had time to mend it."""
SPREAD = 0.2
"""Domains that were made at once are not looked at all at once for ever: intervals differ by so much of them."""


def next_check_ms(domain_id: str, state: DomainState, waiting_since_ms: int, now_ms: int) -> int:
    """The moment of the next look. `waiting_since_ms`: when the customer last had reason to change the DNS."""
    interval_ms = DAILY_MS
    if is_waiting(state):
        interval_ms = _while_waiting(now_ms - waiting_since_ms)
    if state.dkim_verified:
        interval_ms = min(interval_ms, DAILY_MS)
    if is_doubtful(state):
        interval_ms = min(interval_ms, DOUBT_MS)
    return now_ms + int(interval_ms * (1 - SPREAD / 2 + SPREAD * _fraction(domain_id)))


def is_waiting(state: DomainState) -> bool:
    """Whether something that the customer is to publish has not been seen, or is gone."""
    wanted = (state.dkim_verified, state.return_path_verified, state.spf_verified)
    is_tracking_wanted = state.report.tracking is not None and not state.tracking_verified
    return not all(wanted) or is_tracking_wanted or any(key.state is KeyState.PENDING for key in state.keys)


def is_doubtful(state: DomainState) -> bool:
    """Whether what is verified may not be so: the DNS did not answer, or a key that signs was not found."""
    signing = [state.report.keys.get(key.selector) for key in signing_keys(state.keys)]
    if any(report is not None and report.seen_at is not None and not report.check.verified for report in signing):
        return True
    checks = (state.report.return_path, state.report.spf, state.report.tracking)
    return state.dkim_verified and any(_is_unknown(check) for check in checks)


def _is_unknown(check: CheckResult | None) -> bool:
    return check is not None and check.state is CheckState.UNKNOWN


def _while_waiting(waited_ms: int) -> int:
    if waited_ms >= ABANDONED_AFTER_MS:
        return ABANDONED_MS
    return min(max(FIRST_CHECK_MS, waited_ms // AGE_PART), DAILY_MS)


def _fraction(domain_id: str) -> float:
    """The same number from 0 to 1 for a domain each time."""
    return hashlib.sha256(domain_id.encode()).digest()[0] / 255
