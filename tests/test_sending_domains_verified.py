"""Sending domains looked at, and the life of their keys, against a real DNS server, on both kinds of database."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from core.clock import DAY_MS, HOUR_MS
from core.errors import NotFound, NotPossibleNow
from core.sending.domain_judgement import LOST_AFTER_MISSES, LOST_AFTER_MS
from core.sending.domain_status import CheckState
from core.sending.key_rotation import OVERLAP_MS, KeyState
from core.sending.sending_domains import KeyAlgorithm, key_name
from core.services import sending_domain_keys
from core.services.accounts import NewAccount
from core.services.sending_domain_changes import delete_domain
from core.services.sending_domain_checks import inspect, record_inspection
from core.services.sending_domain_keys import (
    MAX_PUBLISHED_KEYS,
    MAX_RETIRED_KEYS,
    add_key,
    age_keys,
    withdraw_key,
)
from core.services.sending_domain_records import SendingDomainRecord
from core.services.sending_domains import find_sender, load_senders
from core.store.db import Database
from outbound.dkim import SigningKey, sign_with_all
from tests.authentication_support import MAIL, verify
from tests.authentication_zones import ZoneServer
from tests.conftest import NOW_MS
from tests.sending_domain_support import (
    RETURNS,
    Customer,
    gateway_settings,
    private_keys,
    publish_operator,
    states,
)

RSA, ED25519 = KeyAlgorithm
PENDING, ACTIVE, RETIRING, RETIRED = KeyState
VERIFIED, MISSING, WRONG, UNKNOWN = CheckState


@pytest.fixture
def customer(database: Database, account: NewAccount, zones: ZoneServer, tmp_path: Path) -> Customer:
    settings = gateway_settings(tmp_path, zones)
    publish_operator(zones, settings)
    return Customer(database, account, settings, zones)


def rotate(customer: Customer, domain_id: str, algorithm: KeyAlgorithm = RSA) -> str:
    """Ask for a new key; its selector."""
    before = set(customer.get(domain_id).public_records)
    record = add_key(customer.database, customer.account.account_id, domain_id, algorithm, customer.now_ms)
    (selector,) = set(record.public_records) - before
    return selector


def withdraw(customer: Customer, domain_id: str, selector: str) -> SendingDomainRecord:
    return withdraw_key(customer.database, customer.account.account_id, domain_id, selector, customer.now_ms)


# Verifying


def test_a_domain_whose_records_are_there_is_verified(customer: Customer) -> None:
    made = customer.create()
    before = customer.verify(made.domain_id)
    assert (before.state.dkim_verified, before.state.report.return_path.state) == (False, MISSING)  # type: ignore[union-attr]
    customer.publish_all(made)
    after = customer.verify(made.domain_id)
    state = after.state
    assert (state.dkim_verified, state.return_path_verified, state.spf_verified, state.dmarc_verified) == (True,) * 4
    assert states(after) == [(RSA, ACTIVE)]
    assert after.checked_ms == NOW_MS
    sender = find_sender(customer.database, customer.account.account_id, "example.com")
    assert sender is not None
    assert (sender.is_verified, sender.has_return_path, sender.signing_domain) == (True, True, "example.com")
    (key,) = sender.keys
    assert "PRIVATE KEY" in key.private_pem
    assert "PRIVATE" not in repr(sender)


def test_what_is_signed_with_the_keys_of_a_sender_is_believed(customer: Customer) -> None:
    customer.verified("signer.example", ED25519)
    sender = find_sender(customer.database, customer.account.account_id, "signer.example")
    assert sender is not None
    keys = [SigningKey("signer.example", key.selector, key.private_pem, key.algorithm) for key in sender.keys]
    signed = sign_with_all(MAIL, keys, NOW_MS) + MAIL
    found = verify(customer.zones, signed).signatures
    assert [(signature.result.value, signature.domain) for signature in found] == [("pass", "signer.example")] * 2


def test_a_key_at_the_parent_signs_for_the_parent(customer: Customer) -> None:
    made = customer.create("mail.example.com")
    (key,) = made.published
    customer.zones.add(key_name(key.selector, "example.com"), "TXT", key.public_record)
    customer.verify(made.domain_id)
    sender = find_sender(customer.database, customer.account.account_id, "mail.example.com")
    assert sender is not None
    assert (sender.is_verified, sender.signing_domain, len(sender.keys)) == (True, "example.com", 1)


def test_a_key_behind_an_alias_is_found(customer: Customer) -> None:
    made = customer.create()
    (key,) = made.published
    customer.zones.add(key_name(key.selector, "example.com"), "CNAME", "one.keys.example.net")
    customer.zones.add("one.keys.example.net", "TXT", key.public_record)
    assert customer.verify(made.domain_id).state.signing_domain == "example.com"


def test_a_dns_that_fails_takes_nothing_away(customer: Customer) -> None:
    record = customer.verified()
    name = key_name(record.principal.selector, "example.com")
    for where in (name, "mta.example.com", "_dmarc.example.com"):
        for kind in ("TXT", "CNAME"):
            customer.zones.remove(where, kind)
        customer.zones.make_fail(where)
    customer.now_ms += 10 * LOST_AFTER_MS
    for _ in range(LOST_AFTER_MISSES + 1):
        after = customer.verify(record.domain_id)
    assert after.state.report.keys[record.principal.selector].check.state is UNKNOWN
    assert after.state.report.return_path.state is UNKNOWN  # type: ignore[union-attr]
    state = after.state
    assert (state.dkim_verified, state.return_path_verified, state.spf_verified, state.dmarc_verified) == (True,) * 4
    assert state.report.dmarc_policy is record.state.report.dmarc_policy
    assert len(find_sender(customer.database, customer.account.account_id, "example.com").keys) == 1  # type: ignore[union-attr]


def test_a_key_that_is_gone_is_given_up_after_days_and_comes_back_at_once(customer: Customer) -> None:
    record = customer.verified()
    name = key_name(record.principal.selector, "example.com")
    customer.zones.remove(name, "TXT")
    verdicts = []
    for elapsed_ms in (DAY_MS, DAY_MS + HOUR_MS, DAY_MS + LOST_AFTER_MS - 1, DAY_MS + LOST_AFTER_MS):
        customer.now_ms = NOW_MS + elapsed_ms
        verdicts.append(customer.verify(record.domain_id).state.dkim_verified)
    assert verdicts == [True, True, True, False]
    sender = find_sender(customer.database, customer.account.account_id, "example.com")
    assert sender is not None
    assert (sender.is_verified, sender.signing_domain, sender.keys) == (False, None, ())
    customer.zones.add(name, "TXT", record.public_records[record.principal.selector])
    back = customer.verify(record.domain_id)
    assert (back.state.dkim_verified, back.state.signing_domain) == (True, "example.com")
    assert back.state.report.keys[record.principal.selector].misses == 0


def test_few_looks_over_a_long_time_do_not_give_a_key_up(customer: Customer) -> None:
    record = customer.verified()
    customer.zones.remove(key_name(record.principal.selector, "example.com"), "TXT")
    for number in range(1, LOST_AFTER_MISSES):
        customer.now_ms = NOW_MS + number * LOST_AFTER_MS
        assert customer.verify(record.domain_id).state.dkim_verified
    customer.now_ms += 1
    assert not customer.verify(record.domain_id).state.dkim_verified


def test_a_return_path_that_is_gone_is_not_used_any_more(customer: Customer) -> None:
    record = customer.verified()
    customer.zones.remove("mta.example.com", "CNAME")
    after = customer.verify(record.domain_id)
    assert (after.state.dkim_verified, after.state.return_path_verified) == (True, False)
    assert not find_sender(customer.database, customer.account.account_id, "example.com").has_return_path  # type: ignore[union-attr]


def test_an_older_look_does_not_overwrite_a_newer_one(customer: Customer) -> None:
    made = customer.create()
    older = inspect(customer.inspector, made, customer.clock)  # finds nothing
    customer.publish_all(made)
    customer.now_ms += 1
    customer.verify(made.domain_id)
    assert record_inspection(customer.database, older, customer.now_ms) is None
    assert customer.get(made.domain_id).state.dkim_verified


def test_a_look_at_a_domain_that_was_deleted_meanwhile_is_of_no_use(customer: Customer) -> None:
    made = customer.create()
    customer.publish_all(made)
    look = inspect(customer.inspector, made, customer.clock)
    delete_domain(customer.database, customer.account.account_id, made.domain_id, customer.now_ms)
    assert record_inspection(customer.database, look, customer.now_ms) is None
    with customer.database.reading():
        assert not load_senders(customer.database, [made.domain_id])[made.domain_id].is_verified


def test_a_key_that_was_withdrawn_meanwhile_stays_so(customer: Customer) -> None:
    made = customer.create()
    customer.publish_all(made)
    look = inspect(customer.inspector, made, customer.clock)
    withdraw(customer, made.domain_id, made.principal.selector)
    record_inspection(customer.database, look, customer.now_ms)
    after = customer.get(made.domain_id)
    assert (states(after), after.state.dkim_verified) == ([(RSA, RETIRED)], False)


def test_the_gateways_own_domain_is_verified_by_the_operators_records(customer: Customer) -> None:
    customer.settings = gateway_settings(customer.settings.data, customer.zones, return_host="mta.gateway.example")
    publish_operator(customer.zones, customer.settings)
    made = customer.create("gateway.example")
    (key,) = made.published
    customer.zones.add(key_name(key.selector, "gateway.example"), "TXT", key.public_record)
    state = customer.verify(made.domain_id).state
    assert (state.dkim_verified, state.return_path_verified, state.spf_verified) == (True, True, True)
    assert RETURNS != "mta.gateway.example"


# Keys


def test_the_whole_life_of_two_keys(customer: Customer) -> None:
    first = customer.verified()
    domain_id, old = first.domain_id, first.principal.selector
    customer.now_ms += HOUR_MS
    new = rotate(customer, domain_id)
    with pytest.raises(NotPossibleNow, match="still waits for its record"):
        rotate(customer, domain_id)
    waiting = customer.verify(domain_id)  # not published yet: nothing changes
    assert states(waiting) == [(RSA, ACTIVE), (RSA, PENDING)]
    assert waiting.principal.selector == old
    customer.publish_all(waiting)
    moved = customer.verify(domain_id)
    assert {key.selector: key.state for key in moved.state.keys} == {old: RETIRING, new: ACTIVE}
    assert moved.principal.selector == new
    assert [key.selector for key in moved.published] == [new, old]
    sender = find_sender(customer.database, customer.account.account_id, "example.com")
    assert [key.selector for key in sender.keys] == [new]  # type: ignore[union-attr]
    assert all(private_keys(customer).values())
    assert age_keys(customer.database, customer.now_ms + OVERLAP_MS - 1, 10) == 0
    assert age_keys(customer.database, customer.now_ms + OVERLAP_MS, 10) == 1
    grown = customer.get(domain_id)
    assert {key.selector: key.state for key in grown.state.keys} == {old: RETIRED, new: ACTIVE}
    assert {selector: bool(pem) for selector, pem in private_keys(customer).items()} == {old: False, new: True}
    assert [key.selector for key in grown.published] == [new]
    assert set(grown.state.report.keys) == {new}
    assert grown.state.dkim_verified


def test_both_kinds_of_keys_sign_side_by_side(customer: Customer) -> None:
    domain_id = customer.verified("example.com", ED25519).domain_id
    sender = find_sender(customer.database, customer.account.account_id, "example.com")
    assert [key.algorithm for key in sender.keys] == [RSA, ED25519]  # type: ignore[union-attr]
    rotate(customer, domain_id, ED25519)
    customer.publish_all(customer.get(domain_id))
    after = customer.verify(domain_id)
    assert sorted(states(after)) == [(ED25519, ACTIVE), (ED25519, RETIRING), (RSA, ACTIVE)]


def test_keys_that_lie_at_different_domains_do_not_sign_together(customer: Customer) -> None:
    made = customer.create("mail.example.com", ED25519)
    rsa, ed25519 = made.published
    customer.zones.add(key_name(rsa.selector, "mail.example.com"), "TXT", rsa.public_record)
    customer.zones.add(key_name(ed25519.selector, "example.com"), "TXT", ed25519.public_record)
    customer.verify(made.domain_id)
    sender = find_sender(customer.database, customer.account.account_id, "mail.example.com")
    assert sender is not None
    assert (sender.signing_domain, [key.selector for key in sender.keys]) == ("mail.example.com", [rsa.selector])
    customer.zones.add(key_name(ed25519.selector, "mail.example.com"), "TXT", ed25519.public_record)
    customer.verify(made.domain_id)
    sender = find_sender(customer.database, customer.account.account_id, "mail.example.com")
    assert [key.selector for key in sender.keys] == [rsa.selector, ed25519.selector]  # type: ignore[union-attr]


def test_ed25519_alone_does_not_make_a_domain_verified(customer: Customer) -> None:
    made = customer.create("example.com", ED25519)
    key = made.published[1]
    customer.zones.add(key_name(key.selector, "example.com"), "TXT", key.public_record)
    after = customer.verify(made.domain_id)
    assert (after.state.dkim_verified, after.state.signing_domain) == (False, None)
    assert sorted(states(after)) == [(ED25519, ACTIVE), (RSA, PENDING)]


def test_an_ed25519_key_that_is_gone_does_not_hurt_the_rsa_key(customer: Customer) -> None:
    record = customer.verified("example.com", ED25519)
    gone = next(key.selector for key in record.state.keys if key.algorithm is ED25519)
    customer.zones.remove(key_name(gone, "example.com"), "TXT")
    for elapsed_ms in (0, LOST_AFTER_MS // 2, LOST_AFTER_MS):
        customer.now_ms = NOW_MS + elapsed_ms
        after = customer.verify(record.domain_id)
    assert after.state.dkim_verified
    sender = find_sender(customer.database, customer.account.account_id, "example.com")
    assert [key.algorithm for key in sender.keys] == [RSA]  # type: ignore[union-attr]


def test_a_stolen_key_is_withdrawn_at_once(customer: Customer) -> None:
    record = customer.verified()
    after = withdraw(customer, record.domain_id, record.principal.selector)
    assert (states(after), after.state.dkim_verified, after.published) == ([(RSA, RETIRED)], False, ())
    assert set(private_keys(customer).values()) == {""}
    assert withdraw(customer, record.domain_id, record.principal.selector) == after
    assert not customer.verify(record.domain_id).state.dkim_verified  # whose record is still there
    rotate(customer, record.domain_id)
    customer.publish_all(customer.get(record.domain_id))
    again = customer.verify(record.domain_id)
    assert again.state.dkim_verified
    assert again.principal.state is ACTIVE


def test_a_pending_and_a_retiring_key_can_be_withdrawn(customer: Customer) -> None:
    record = customer.verified()
    new = rotate(customer, record.domain_id)
    customer.publish_all(customer.get(record.domain_id))
    customer.verify(record.domain_id)
    waiting = rotate(customer, record.domain_id)
    withdraw(customer, record.domain_id, waiting)
    after = withdraw(customer, record.domain_id, record.principal.selector)
    assert {key.selector: key.state for key in after.state.keys} == {
        record.principal.selector: RETIRED,
        new: ACTIVE,
        waiting: RETIRED,
    }
    assert after.state.dkim_verified
    with pytest.raises(NotFound, match="no key with the selector"):
        withdraw(customer, record.domain_id, "s1")


def test_of_rotations_at_once_one_wins(customer: Customer) -> None:
    domain_id = customer.verified().domain_id
    outcomes: list[str] = []

    def run() -> None:
        try:
            rotate_once()
            outcomes.append("made")
        except NotPossibleNow:
            outcomes.append("refused")
        customer.database.close()

    def rotate_once() -> None:
        add_key(customer.database, customer.account.account_id, domain_id, RSA, customer.now_ms)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made", "refused", "refused"]


def test_keys_do_not_pile_up(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    record = customer.verified()
    for _ in range(MAX_PUBLISHED_KEYS - 1):
        rotate(customer, record.domain_id, ED25519)
        customer.publish_all(customer.get(record.domain_id))
        customer.verify(record.domain_id)
    with pytest.raises(NotPossibleNow, match="the most"):
        rotate(customer, record.domain_id, ED25519)
    monkeypatch.setattr(sending_domain_keys, "MAX_RETIRED_KEYS", 3)
    assert MAX_RETIRED_KEYS > 3
    for key in customer.get(record.domain_id).state.keys:
        if key.algorithm is ED25519:
            withdraw(customer, record.domain_id, key.selector)
    rotate(customer, record.domain_id, ED25519)
    after = [state for _, state in states(customer.get(record.domain_id))]
    assert (after.count(RETIRED), after.count(PENDING), after.count(ACTIVE)) == (2, 1, 1)
