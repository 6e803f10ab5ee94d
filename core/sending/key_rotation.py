"""The life of a signing key, so that another can take over while mail of both still verifies.

A new key is `pending` until its record is seen in the DNS; then it is `active` and signs. The one before it is
`retiring`: it signs nothing any more, but its record must stay while mail that it signed may still be on its way. After
that it is `retired`, and its record may go. RSA and Ed25519 keys sign side by side, each kind with its own succession.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from core.clock import DAY_MS
from core.errors import PillarboxError
from core.sending.sending_domains import KeyAlgorithm

OVERLAP_MS = 7 * DAY_MS
"""How long a key's record must stay after its last signature: retries go on for days, and mail that lies in a relay's
queue is verified when it comes out (RFC 5321 section 4.5.4.1 has four to five days)."""


class KeyState(StrEnum):
    """Where a key is in its life."""

    PENDING = "pending"
    """Made, and to be published by the customer."""
    ACTIVE = "active"
    """Signs."""
    RETIRING = "retiring"
    """Signs no more; its record must stay."""
    RETIRED = "retired"
    """Its record may be removed, and the private key forgotten."""


class KeyEvent(StrEnum):
    """What happens to a key."""

    PROVEN = "proven"
    """Its record was seen in the DNS."""
    REPLACED = "replaced"
    """Another one of its kind has become active."""
    OVERLAP_OVER = "overlap_over"
    """No mail that it signed is on its way any more."""
    WITHDRAWN = "withdrawn"
    """It must not be used from now on: given up before its time, or stolen."""


TRANSITIONS: dict[tuple[KeyState, KeyEvent], KeyState] = {
    (KeyState.PENDING, KeyEvent.PROVEN): KeyState.ACTIVE,
    (KeyState.PENDING, KeyEvent.WITHDRAWN): KeyState.RETIRED,
    (KeyState.ACTIVE, KeyEvent.REPLACED): KeyState.RETIRING,
    (KeyState.ACTIVE, KeyEvent.WITHDRAWN): KeyState.RETIRED,
    (KeyState.RETIRING, KeyEvent.OVERLAP_OVER): KeyState.RETIRED,
    (KeyState.RETIRING, KeyEvent.WITHDRAWN): KeyState.RETIRED,
}
"""Every other pair changes nothing: a record is seen again at each verification, and clocks tick for all."""


class KeyPending(PillarboxError):
    """A new key was asked for while another still waits for its record."""


@dataclass(frozen=True, slots=True)
class DomainKey:
    """One key of a domain; where it is kept is not its business."""

    selector: str
    algorithm: KeyAlgorithm
    state: KeyState
    since_ms: int
    """When it came into this state."""


def after(key: DomainKey, event: KeyEvent, now_ms: int) -> DomainKey:
    """The key after an event."""
    state = TRANSITIONS.get((key.state, event), key.state)
    return key if state is key.state else replace(key, state=state, since_ms=now_ms)


def with_new(keys: Sequence[DomainKey], selector: str, algorithm: KeyAlgorithm, now_ms: int) -> tuple[DomainKey, ...]:
    """The keys of a domain and a pending one. Raises `KeyPending`."""
    for key in keys:
        if key.algorithm is algorithm and key.state is KeyState.PENDING:
            raise KeyPending(f"the key {key.selector} still waits for its record; publish that one, or withdraw it")
    return (*keys, DomainKey(selector, algorithm, KeyState.PENDING, now_ms))


def when_proven(keys: Sequence[DomainKey], selector: str, now_ms: int) -> tuple[DomainKey, ...]:
    """The keys after the record of one was seen: if it was pending it takes over from the active one of its kind."""
    proven = next((key for key in keys if key.selector == selector and key.state is KeyState.PENDING), None)
    if proven is None:
        return tuple(keys)
    return tuple(
        after(key, KeyEvent.PROVEN, now_ms)
        if key is proven
        else (after(key, KeyEvent.REPLACED, now_ms) if key.algorithm is proven.algorithm else key)
        for key in keys
    )


def as_time_passes(keys: Sequence[DomainKey], now_ms: int) -> tuple[DomainKey, ...]:
    """The keys after those whose overlap is over have retired."""
    return tuple(
        after(key, KeyEvent.OVERLAP_OVER, now_ms) if now_ms - key.since_ms >= OVERLAP_MS else key for key in keys
    )


def withdrawn(keys: Sequence[DomainKey], selector: str, now_ms: int) -> tuple[DomainKey, ...]:
    """The keys after one has been given up."""
    return tuple(after(key, KeyEvent.WITHDRAWN, now_ms) if key.selector == selector else key for key in keys)


def signing_keys(keys: Sequence[DomainKey]) -> tuple[DomainKey, ...]:
    """Those that sign, RSA first: one of each kind at most; none before the first record was seen."""
    active = [key for key in keys if key.state is KeyState.ACTIVE]
    return tuple(sorted(active, key=lambda key: key.algorithm is not KeyAlgorithm.RSA))


def published_keys(keys: Sequence[DomainKey]) -> tuple[DomainKey, ...]:
    """Those whose records the customer must have in the DNS."""
    return tuple(key for key in keys if key.state is not KeyState.RETIRED)
