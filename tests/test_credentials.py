"""Keys and logins: what opens what, how they are kept, and when their use is noted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from core.clock import HOUR_MS
from core.errors import InvalidField, NotFound
from core.ids import secret_digest
from core.services.accounts import CredentialKind, NewAccount, create_account, list_accounts
from core.services.credential_records import (
    MAX_CREDENTIALS,
    CredentialChange,
    CredentialDraft,
    change_credential,
    create_credential,
    delete_credential,
    get_credential,
    list_credentials,
)
from core.services.credential_use import CredentialUse
from core.services.credentials import Credential, Scope, find_active, find_credential
from core.services.gateway_account import GATEWAY_ACCOUNT_ID, ensure_gateway_account
from core.services.paging import PageRequest
from core.store.db import Database
from tests.conftest import NOW_MS

API, SMTP = CredentialKind.API, CredentialKind.SMTP
DOMAIN_ID = "aaaa111122223333"


def make(database: Database, account: NewAccount, kind: CredentialKind = API, **fields: object) -> tuple[str, str]:
    """A new credential: its name and secret."""
    record, secret = create_credential(database, account.account_id, CredentialDraft(kind, **fields), NOW_MS)  # type: ignore[arg-type]
    return record.username, secret


def add_domain(database: Database, account: NewAccount, domain_id: str = DOMAIN_ID) -> str:
    """A sending domain of an account; gives its id."""
    with database.transaction():
        database.execute(
            "INSERT INTO sending_domain (id, account_id, domain, next_check_ms, created_ms) VALUES (?, ?, ?, 0, 0)",
            (domain_id, account.account_id, f"{domain_id}.example"),
        )
    return domain_id


def may(found: Credential | None) -> set[str]:
    return set() if found is None else {scope.value for scope in found.scopes}


# --- what opens what --------------------------------------------------------------------------------------------------


def test_the_first_key_and_login_of_an_account_open_what_they_are_for(database: Database, account: NewAccount) -> None:
    key = find_credential(database, account.account_id, account.api_key)
    login = find_credential(database, account.smtp_username, account.smtp_password)

    assert key is not None
    assert (key.account_id, key.username, key.kind) == (account.account_id, account.account_id, API)
    assert may(key) == {"send", "read", "manage"}
    assert login is not None
    assert (login.account_id, login.username, login.kind) == (account.account_id, account.smtp_username, SMTP)
    assert may(login) == {"send", "read"}
    assert (login.sending_domain_id, login.last_used_ms) == (None, None)


def test_a_secret_opens_nothing_under_another_name(database: Database, account: NewAccount) -> None:
    other = create_account(database, "other", NOW_MS)
    tries = [
        (account.account_id, account.smtp_password), (account.smtp_username, account.api_key),
        (account.account_id, other.api_key), (other.account_id, account.api_key),
        (account.smtp_username, other.smtp_password), ("nobody", account.smtp_password),
        (account.smtp_username, ""), ("", ""), ("", account.smtp_password),
        (account.smtp_username, secret_digest(account.smtp_password)), (account.smtp_username, "x" * 10_000),
        ("x" * 10_000, account.smtp_password), (f"{account.smtp_username}\0", account.smtp_password),
        (account.smtp_username.upper() + "x", account.smtp_password), ("%", account.smtp_password),
    ]  # fmt: skip
    assert [(name, secret) for name, secret in tries if find_credential(database, name, secret) is not None] == []


def test_a_further_key_opens_the_account_and_answers_to_its_own_name(database: Database, account: NewAccount) -> None:
    username, secret = make(database, account, scopes=frozenset({Scope.SEND}))

    by_account = find_credential(database, account.account_id, secret)
    by_name = find_credential(database, username, secret)

    assert by_account == by_name
    assert by_account is not None
    assert (by_account.username, may(by_account)) == (username, {"send"})


def test_a_login_does_not_answer_to_its_account(database: Database, account: NewAccount) -> None:
    username, secret = make(database, account, SMTP)

    assert find_credential(database, account.account_id, secret) is None
    assert find_credential(database, username, secret) is not None


def test_scopes_of_a_newer_version_are_not_known_and_open_nothing(database: Database, account: NewAccount) -> None:
    with database.transaction():
        database.execute("UPDATE credential SET scopes = ?", ('["send","telepathy"]',))
    assert may(find_credential(database, account.account_id, account.api_key)) == {"send"}
    with database.transaction():
        database.execute("UPDATE credential SET scopes = ?", ('["telepathy"]',))
    assert find_credential(database, account.account_id, account.api_key) is not None
    assert may(find_credential(database, account.account_id, account.api_key)) == set()


def test_secrets_are_stored_as_digests_only(database: Database, account: NewAccount) -> None:
    username, secret = make(database, account, SMTP)
    with database.reading():
        rows = database.execute("SELECT * FROM credential WHERE username = ?", (username,))
    assert secret not in repr(rows)
    assert secret_digest(secret) in repr(rows)


# --- keeping them -----------------------------------------------------------------------------------------------------


def test_a_login_switched_off_opens_nothing_until_it_is_on_again(database: Database, account: NewAccount) -> None:
    username, secret = make(database, account, SMTP)

    assert not change_credential(database, account.account_id, username, CredentialChange(is_active=False)).is_active
    assert find_credential(database, username, secret) is None
    assert find_active(database, username) is None
    change_credential(database, account.account_id, username, CredentialChange(is_active=True))
    assert find_credential(database, username, secret) == find_active(database, username) is not None


def test_a_deleted_key_is_gone(database: Database, account: NewAccount) -> None:
    username, secret = make(database, account)
    assert delete_credential(database, account.account_id, username).username == username

    assert find_credential(database, username, secret) is None
    with pytest.raises(NotFound, match=username):
        get_credential(database, account.account_id, username)
    with pytest.raises(NotFound, match=username):
        delete_credential(database, account.account_id, username)


def test_renaming_leaves_everything_else(database: Database, account: NewAccount) -> None:
    username, _ = make(database, account, SMTP, name="shop", scopes=frozenset({Scope.SEND}))
    before = get_credential(database, account.account_id, username)
    after = change_credential(database, account.account_id, username, CredentialChange(name=" the shop "))

    assert after == get_credential(database, account.account_id, username)
    assert (before.name, after.name) == ("shop", "the shop")
    assert (after.scopes, after.is_active, after.created_ms) == (before.scopes, True, NOW_MS)


def test_a_key_without_scopes_of_its_own_stays_so_when_it_is_renamed(database: Database, account: NewAccount) -> None:
    change_credential(database, account.account_id, account.account_id, CredentialChange(name="first"))
    with database.reading():
        rows = database.execute("SELECT name, scopes FROM credential WHERE username = ?", (account.account_id,))
    assert rows == [("first", "[]")]


def test_scopes_can_be_taken_away_and_given(database: Database, account: NewAccount) -> None:
    username, secret = make(database, account)
    for scopes in ({Scope.SEND}, {Scope.READ}, {Scope.SEND, Scope.MANAGE}):
        change_credential(database, account.account_id, username, CredentialChange(scopes=frozenset(scopes)))
        assert may(find_credential(database, username, secret)) == {scope.value for scope in scopes}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"kind": SMTP, "scopes": frozenset({Scope.MANAGE})}, "scopes: of an smtp credential may be read, send"),
        ({"kind": API, "scopes": frozenset()}, "scopes: of an api credential may be manage, read, send"),
        ({"kind": API, "name": "x" * 101}, "name: must be printable, of at most 100 characters"),
        ({"kind": API, "name": "a\nb"}, "name: must be printable"),
        ({"kind": SMTP, "sending_domain_id": "ffffffffffffffff"}, "sending_domain_id: is no sending domain of this"),
    ],
)
def test_what_cannot_be_is_refused_with_the_cure(
    database: Database, account: NewAccount, fields: dict[str, object], error: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        create_credential(database, account.account_id, CredentialDraft(**fields), NOW_MS)  # type: ignore[arg-type]
    assert str(refused.value).startswith(error)
    assert len(list_credentials(database, account.account_id, PageRequest()).entries) == 2


def test_a_credential_of_one_domain_may_send_from_it_and_never_manage(database: Database, account: NewAccount) -> None:
    domain_id = add_domain(database, account)
    username, secret = make(database, account, API, sending_domain_id=domain_id)

    found = find_credential(database, username, secret)
    assert found is not None
    assert (found.sending_domain_id, may(found)) == (domain_id, {"send", "read"})
    record = get_credential(database, account.account_id, username)
    assert (record.sending_domain_id, record.sending_domain) == (domain_id, f"{domain_id}.example")
    with pytest.raises(InvalidField, match="of an api credential bound to a domain may be read, send"):
        make(database, account, API, sending_domain_id=domain_id, scopes=frozenset({Scope.MANAGE}))
    change = CredentialChange(scopes=frozenset({Scope.SEND, Scope.MANAGE}))
    with pytest.raises(InvalidField, match="bound to a domain"):
        change_credential(database, account.account_id, username, change)


def test_domains_of_others_and_deleted_ones_cannot_be_bound_to(database: Database, account: NewAccount) -> None:
    other = create_account(database, "other", NOW_MS)
    domain_id = add_domain(database, other)
    with pytest.raises(InvalidField, match="sending_domain_id"):
        make(database, account, SMTP, sending_domain_id=domain_id)
    with database.transaction():
        database.execute("UPDATE sending_domain SET deleted_ms = 1")
    with pytest.raises(InvalidField, match="sending_domain_id"):
        make(database, other, SMTP, sending_domain_id=domain_id)


def test_nobody_touches_the_credentials_of_another_account(database: Database, account: NewAccount) -> None:
    other = create_account(database, "other", NOW_MS)
    for attempt in (
        lambda: get_credential(database, other.account_id, account.smtp_username),
        lambda: delete_credential(database, other.account_id, account.smtp_username),
        lambda: change_credential(database, other.account_id, account.smtp_username, CredentialChange(name="x")),
    ):
        with pytest.raises(NotFound):
            attempt()
    names = [entry.username for entry in list_credentials(database, other.account_id, PageRequest()).entries]
    assert account.smtp_username not in names


def test_the_last_managing_key_stays(database: Database, account: NewAccount) -> None:
    lost = CredentialChange(scopes=frozenset({Scope.SEND, Scope.READ}))
    make(database, account, API, scopes=frozenset({Scope.SEND}))  # manages nothing, so it does not count
    for attempt in (
        lambda: delete_credential(database, account.account_id, account.account_id),
        lambda: change_credential(database, account.account_id, account.account_id, CredentialChange(is_active=False)),
        lambda: change_credential(database, account.account_id, account.account_id, lost),
    ):
        with pytest.raises(InvalidField, match="the last key that may manage this account"):
            attempt()
    second, _ = make(database, account)
    delete_credential(database, account.account_id, account.account_id)
    with pytest.raises(InvalidField, match="the last key"):
        delete_credential(database, account.account_id, second)


def test_two_who_delete_the_last_two_keys_at_once_leave_one(database: Database, account: NewAccount) -> None:
    for _ in range(5):
        page = list_credentials(database, account.account_id, PageRequest(), API)
        names = [entry.username for entry in page.entries]
        names += [make(database, account)[0] for _ in range(2 - len(names))]
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda name: deletes(database, account, name), names))
        assert sorted(outcomes) == [False, True]


def deletes(database: Database, account: NewAccount, username: str) -> bool:
    try:
        delete_credential(database, account.account_id, username)
    except InvalidField:
        return False
    finally:
        database.close()
    return True


def test_an_account_has_so_many_credentials_and_no_more(database: Database, account: NewAccount) -> None:
    rows = [(account.account_id, f"{number:016x}", f"{number:064x}") for number in range(MAX_CREDENTIALS - 2)]
    insert = (
        "INSERT INTO credential (account_id, username, secret_sha256, kind, created_ms) VALUES (?, ?, ?, 'smtp', 0)"
    )
    with database.transaction():
        database.execute_many(insert, rows)
    with pytest.raises(InvalidField, match=f"there are {MAX_CREDENTIALS} already"):
        make(database, account)


def test_the_gateways_own_account_gets_no_key_and_is_not_listed(database: Database, account: NewAccount) -> None:
    ensure_gateway_account(database, lambda: NOW_MS)
    for account_id in (GATEWAY_ACCOUNT_ID, "no such account"):
        with pytest.raises(NotFound, match="there is no account"):
            create_credential(database, account_id, CredentialDraft(API), NOW_MS)
    assert [entry.account_id for entry in list_accounts(database)] == [account.account_id]


def test_lists_are_newest_first_and_continue(database: Database, account: NewAccount) -> None:
    made = [
        create_credential(database, account.account_id, CredentialDraft(SMTP, name=str(n)), NOW_MS + n // 2)[0].username
        for n in range(5)
    ]
    seen, request = [], PageRequest(size=2)
    while True:
        page = list_credentials(database, account.account_id, request, SMTP)
        seen += [entry.username for entry in page.entries]
        if page.next_cursor is None:
            break
        request = PageRequest(size=2, cursor=page.next_cursor)
    assert sorted(seen) == sorted([*made, account.smtp_username])
    assert seen[0] == made[4]
    assert len(list_credentials(database, account.account_id, PageRequest(), API).entries) == 1


# --- last used --------------------------------------------------------------------------------------------------------


class Clock:
    """Hands out the time a test says."""

    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def last_used(database: Database, username: str) -> int | None:
    with database.reading():
        rows = database.execute("SELECT last_used_ms FROM credential WHERE username = ?", (username,))
    value: int | None = rows[0][0]
    return value


def test_a_use_is_noted_at_most_once_an_hour(database: Database, account: NewAccount) -> None:
    clock = Clock()
    noted = []
    for clock.now_ms in (NOW_MS, NOW_MS + 1, NOW_MS + HOUR_MS - 1, NOW_MS + HOUR_MS, NOW_MS + HOUR_MS + 1):
        found = find_credential(database, account.smtp_username, account.smtp_password)
        assert found is not None
        use = CredentialUse(database, clock)  # as after a restart: it has only the database to go by
        use.note(found)
        use.stop()
        noted.append(last_used(database, account.smtp_username))
    assert noted == [NOW_MS, NOW_MS, NOW_MS, NOW_MS + HOUR_MS, NOW_MS + HOUR_MS]
    assert last_used(database, account.account_id) is None


def test_one_process_notes_a_burst_once(database: Database, account: NewAccount) -> None:
    found = find_credential(database, account.smtp_username, account.smtp_password)
    assert found is not None
    clock = Clock()
    use = CredentialUse(database, clock)
    use.note(found)
    clock.now_ms += 1_000
    for _ in range(100):
        use.note(found)  # still as it was found, before anything was noted
    use.stop()
    assert last_used(database, account.smtp_username) == NOW_MS


def test_noting_waits_for_nobody_who_holds_the_database(database: Database, account: NewAccount) -> None:
    found = find_credential(database, account.smtp_username, account.smtp_password)
    assert found is not None
    use = CredentialUse(database, Clock())
    with database.transaction():
        database.execute("UPDATE credential SET name = 'held' WHERE username = ?", (account.smtp_username,))
        use.note(found)  # returns, though its row is locked
        assert last_used(database, account.smtp_username) is None
    use.stop()
    assert last_used(database, account.smtp_username) == NOW_MS
