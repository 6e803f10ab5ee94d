"""The life of a key: every pair of state and event, and what that means for the keys of a domain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.sending.key_rotation import (
    OVERLAP_MS,
    DomainKey,
    KeyEvent,
    KeyPending,
    KeyState,
    after,
    as_time_passes,
    published_keys,
    signing_keys,
    when_proven,
    with_new,
    withdrawn,
)
from core.sending.sending_domains import KeyAlgorithm

PENDING, ACTIVE, RETIRING, RETIRED = KeyState
PROVEN, REPLACED, OVERLAP_OVER, WITHDRAWN = KeyEvent
RSA, ED25519 = KeyAlgorithm
MADE, NOW = 1_000, 2_000

TABLE = [
    (PENDING, PROVEN, ACTIVE),
    (PENDING, REPLACED, PENDING),
    (PENDING, OVERLAP_OVER, PENDING),
    (PENDING, WITHDRAWN, RETIRED),
    (ACTIVE, PROVEN, ACTIVE),
    (ACTIVE, REPLACED, RETIRING),
    (ACTIVE, OVERLAP_OVER, ACTIVE),
    (ACTIVE, WITHDRAWN, RETIRED),
    (RETIRING, PROVEN, RETIRING),
    (RETIRING, REPLACED, RETIRING),
    (RETIRING, OVERLAP_OVER, RETIRED),
    (RETIRING, WITHDRAWN, RETIRED),
    (RETIRED, PROVEN, RETIRED),
    (RETIRED, REPLACED, RETIRED),
    (RETIRED, OVERLAP_OVER, RETIRED),
    (RETIRED, WITHDRAWN, RETIRED),
]


def key(selector: str = "a", state: KeyState = ACTIVE, algorithm: KeyAlgorithm = RSA, since: int = MADE) -> DomainKey:
    return DomainKey(selector, algorithm, state, since)


def states(keys: tuple[DomainKey, ...]) -> dict[str, KeyState]:
    return {found.selector: found.state for found in keys}


@pytest.mark.parametrize(("state", "event", "then"), TABLE)
def test_each_event_in_each_state(state: KeyState, event: KeyEvent, then: KeyState) -> None:
    assert after(key(state=state), event, NOW) == key(state=then, since=MADE if then is state else NOW)


def test_the_table_is_whole() -> None:
    assert {(state, event) for state, event, _ in TABLE} == {(state, event) for state in KeyState for event in KeyEvent}


def test_a_key_takes_over_when_its_record_is_seen_and_the_old_one_stays_for_a_while() -> None:
    keys = with_new((key("old"),), "new", RSA, NOW)
    assert [found.selector for found in signing_keys(keys)] == ["old"]
    keys = when_proven(keys, "new", NOW)
    assert states(keys) == {"old": RETIRING, "new": ACTIVE}
    assert [found.selector for found in signing_keys(keys)] == ["new"]
    assert [found.selector for found in published_keys(keys)] == ["old", "new"]
    assert as_time_passes(keys, NOW + OVERLAP_MS - 1) == keys
    keys = as_time_passes(keys, NOW + OVERLAP_MS)
    assert states(keys) == {"old": RETIRED, "new": ACTIVE}
    assert [found.selector for found in published_keys(keys)] == ["new"]


def test_only_one_key_of_a_kind_waits_for_its_record() -> None:
    keys = with_new((), "first", RSA, NOW)
    with pytest.raises(KeyPending, match="first"):
        with_new(keys, "second", RSA, NOW)
    assert states(with_new(keys, "other", ED25519, NOW)) == {"first": PENDING, "other": PENDING}
    assert states(with_new(withdrawn(keys, "first", NOW), "second", RSA, NOW)) == {"first": RETIRED, "second": PENDING}


def test_kinds_follow_one_another_each_for_itself_and_sign_together() -> None:
    keys = (key("e", ACTIVE, ED25519), key("r"), key("r2", PENDING))
    keys = when_proven(keys, "r2", NOW)
    assert states(keys) == {"e": ACTIVE, "r": RETIRING, "r2": ACTIVE}
    assert [found.selector for found in signing_keys(keys)] == ["r2", "e"]


@pytest.mark.parametrize("selector", ["a", "gone", "unheard of"])
def test_a_record_that_is_seen_again_changes_nothing(selector: str) -> None:
    keys = (key("a"), key("gone", RETIRED), key("b", PENDING))
    assert when_proven(keys, selector, NOW) == keys


STEPS = st.lists(
    st.tuples(st.sampled_from(["new", "prove", "wait", "withdraw"]), st.integers(0, 5), st.sampled_from(KeyAlgorithm)),
    max_size=30,
)


@given(STEPS)
def test_whatever_happens_at_most_one_key_of_a_kind_signs_and_no_key_leaves_the_dns_early(
    steps: list[tuple[str, int, KeyAlgorithm]],
) -> None:
    keys: tuple[DomainKey, ...] = ()
    last_signed: dict[str, int] = {}
    given_up: set[str] = set()
    now = 0
    for number, (step, which, algorithm) in enumerate(steps):
        now += OVERLAP_MS // 2
        for found in signing_keys(keys):
            last_signed[found.selector] = now
        if step == "new" and not any(old.state is PENDING and old.algorithm is algorithm for old in keys):
            keys = with_new(keys, str(number), algorithm, now)
        elif step == "prove" and keys:
            keys = when_proven(keys, keys[which % len(keys)].selector, now)
        elif step == "withdraw" and keys:
            given_up.add(keys[which % len(keys)].selector)
            keys = withdrawn(keys, keys[which % len(keys)].selector, now)
        keys = as_time_passes(keys, now)
        signing = signing_keys(keys)
        assert len({found.algorithm for found in signing}) == len(signing)
        published = {found.selector for found in published_keys(keys)}
        for selector, moment in last_signed.items():
            assert selector in published or selector in given_up or now - moment >= OVERLAP_MS
