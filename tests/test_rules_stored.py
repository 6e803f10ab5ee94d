"""Rules in the database: order, scope, limits, and what those who judge get to see."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from core.errors import InvalidField, NotFound
from core.formats import TargetFormat
from core.rules import RuleAction
from core.services import rules as service
from core.services.accounts import NewAccount, create_account
from core.services.addresses import AddressDraft, create_address, delete_address
from core.services.paging import PageRequest
from core.services.rules import MAX_PATTERNS_OF_ACCOUNT, MAX_RULES, RuleDraft, create_rule, load_rules, rules_for
from core.store.db import Database
from tests.conftest import NOW_MS


def draft(note: str | None = None, **fields: Any) -> RuleDraft:
    conditions = fields.pop("conditions", {"ip": ["192.0.2.1"]})
    return RuleDraft(RuleAction.REJECT, conditions, note=note, **fields)


def new_address(database: Database, account: NewAccount) -> str:
    made = create_address(database, account.account_id, AddressDraft("https://x.example/", TargetFormat.RAW), NOW_MS)
    return made.address_id


def loaded(database: Database, account: NewAccount, address_id: str) -> list[str | None]:
    with database.reading():
        found = load_rules(database, [account.account_id])
    return [rule.note for rule in rules_for(found, account.account_id, address_id)]


def test_those_who_judge_get_the_rules_of_account_and_address_in_order(database: Database, account: NewAccount) -> None:
    one, other = new_address(database, account), new_address(database, account)
    stranger = create_account(database, "other", NOW_MS)
    for made in (draft("last", position=9), draft("one", address_id=one, position=5), draft("first", position=0)):
        create_rule(database, account.account_id, made, NOW_MS)
    create_rule(database, account.account_id, draft("other", address_id=other, position=1), NOW_MS)
    create_rule(database, stranger.account_id, draft("stranger"), NOW_MS)
    assert loaded(database, account, one) == ["first", "one", "last"]
    assert loaded(database, account, other) == ["first", "other", "last"]
    assert loaded(database, stranger, "0" * 20) == ["stranger"]


def test_many_accounts_are_loaded_at_once(database: Database, account: NewAccount) -> None:
    accounts = [account, *(create_account(database, "other", NOW_MS) for _ in range(3))]
    for number, owner in enumerate(accounts[:3]):
        create_rule(database, owner.account_id, draft(str(number)), NOW_MS)
    with database.reading():
        found = load_rules(database, [owner.account_id for owner in accounts])
        assert load_rules(database, []) == {}
    notes = {owner: [rule.note for rule in rules] for owner, rules in found.items()}
    assert notes == {owner.account_id: [str(number)] for number, owner in enumerate(accounts[:3])}
    assert rules_for(found, accounts[3].account_id, "0" * 20) == ()


def test_a_rule_without_a_position_goes_behind_all_others(database: Database, account: NewAccount) -> None:
    made = [
        create_rule(database, account.account_id, draft(position=position), NOW_MS).rule.position
        for position in (None, None, 40, None, 7, None)
    ]
    assert made == [1, 2, 40, 41, 7, 42]


def test_the_list_is_in_order_and_its_cursor_meets_each_rule_once(database: Database, account: NewAccount) -> None:
    for position in (3, 1, 1, 1, 2, 0):
        create_rule(database, account.account_id, draft(position=position), NOW_MS)
    seen: list[tuple[int, str]] = []
    cursor: str | None = None
    while True:
        page = service.list_rules(database, account.account_id, None, PageRequest(2, cursor))
        seen += [(entry.rule.position, entry.rule.rule_id) for entry in page.entries]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == sorted(seen)
    assert [position for position, _ in seen] == [0, 1, 1, 1, 2, 3]
    assert len({rule_id for _, rule_id in seen}) == 6
    with pytest.raises(InvalidField, match="cursor"):
        service.list_rules(database, account.account_id, None, PageRequest(2, "1-x"))


def test_rules_go_with_their_address(database: Database, account: NewAccount) -> None:
    address_id = new_address(database, account)
    bound = create_rule(database, account.account_id, draft("bound", address_id=address_id), NOW_MS).rule
    create_rule(database, account.account_id, draft("free"), NOW_MS)
    delete_address(database, account.account_id, address_id, NOW_MS)
    assert loaded(database, account, address_id) == ["free"]
    with pytest.raises(NotFound):
        service.get_rule(database, account.account_id, bound.rule_id)
    with pytest.raises(NotFound, match=address_id):
        create_rule(database, account.account_id, draft(address_id=address_id), NOW_MS)


def test_an_account_has_so_many_rules_and_no_more(database: Database, account: NewAccount) -> None:
    made = [create_rule(database, account.account_id, draft(), NOW_MS).rule for _ in range(MAX_RULES - 1)]
    outcomes: list[str] = []

    def add() -> None:
        try:
            create_rule(database, account.account_id, draft(), NOW_MS)
            outcomes.append("made")
        except InvalidField as error:
            outcomes.append(error.field)
        finally:
            database.close()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["made", "rules", "rules", "rules"]
    service.update_rule(database, account.account_id, made[0].rule_id, draft("still possible"), NOW_MS)
    service.delete_rule(database, account.account_id, made[0].rule_id)
    create_rule(database, account.account_id, draft(), NOW_MS)
    create_rule(database, create_account(database, "other", NOW_MS).account_id, draft(), NOW_MS)


def test_patterns_are_counted_over_all_rules(database: Database, account: NewAccount) -> None:
    ten = {"subject_pattern": [f"a{number}" for number in range(10)]}
    for _ in range(MAX_PATTERNS_OF_ACCOUNT // 10):
        last = create_rule(database, account.account_id, draft(conditions=ten), NOW_MS).rule
    with pytest.raises(InvalidField, match="patterns"):
        create_rule(database, account.account_id, draft(conditions={"sender_pattern": ["a"]}), NOW_MS)
    service.update_rule(database, account.account_id, last.rule_id, draft(conditions=ten), NOW_MS)
    create_rule(database, account.account_id, draft(), NOW_MS)
