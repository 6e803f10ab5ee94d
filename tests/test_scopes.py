"""What each kind of key opens: every call of the OpenAPI document, asked with every kind of credential."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.services.accounts import CredentialKind, NewAccount
from core.services.credential_records import CredentialChange, change_credential
from core.services.credentials import Scope
from core.store.db import Database
from tests.api_support import api_settings
from tests.send_api_support import RECIPIENT, SENDER, SendApi, add_domain

PREFIX = "/api/v0.1/{account_id}"
SCOPES = {"messages": Scope.SEND, "outbound_messages": Scope.READ}
"""Of the first word of a path; whoever calls anything else manages the account."""
UNKNOWN = "0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90"
REFUSED, MAY_NOT = 401, 403
BODY = {"from": SENDER, "to": RECIPIENT, "subject": "hello", "plain": "Hi."}
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass(frozen=True, slots=True)
class Key:
    """A kind of credential, and what it may do."""

    name: str
    kind: CredentialKind
    scopes: frozenset[Scope] | None
    may: frozenset[Scope]
    is_bound: bool = False
    is_active: bool = True


KEYS = [
    Key("all", CredentialKind.API, None, frozenset(Scope)),
    *(Key(f"api {scope}", CredentialKind.API, frozenset({scope}), frozenset({scope})) for scope in Scope),
    Key("bound api", CredentialKind.API, None, frozenset({Scope.SEND, Scope.READ}), is_bound=True),
    Key("inactive", CredentialKind.API, None, frozenset(), is_active=False),
    Key("smtp", CredentialKind.SMTP, None, frozenset({Scope.SEND, Scope.READ})),
    Key("smtp send", CredentialKind.SMTP, frozenset({Scope.SEND}), frozenset({Scope.SEND})),
    Key("smtp read", CredentialKind.SMTP, frozenset({Scope.READ}), frozenset({Scope.READ})),
    Key("bound smtp", CredentialKind.SMTP, None, frozenset({Scope.SEND, Scope.READ}), is_bound=True),
    Key("inactive smtp", CredentialKind.SMTP, None, frozenset(), is_active=False),
]


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> SendApi:
    return SendApi(database, account, api_settings(tmp_path))


def calls(api: SendApi) -> Iterator[tuple[str, str, bool]]:
    """Method, path behind the account, and whether there is a body."""
    for path, operations in api.client.get("/openapi.json").json["paths"].items():
        if path.startswith(PREFIX):
            for method, operation in operations.items():
                yield method.upper(), path.removeprefix(PREFIX), "requestBody" in operation


def filled(path: str) -> str:
    """A path with ids that nothing has."""
    named = {"message_id": UNKNOWN, "delivery_id": UNKNOWN, "status_id": UNKNOWN, "suppression": UNKNOWN}
    for part in path.split("{")[1:]:
        name = part.partition("}")[0]
        path = path.replace(f"{{{name}}}", named.get(name, "0" * 16))
    return path


def holder(api: SendApi, key: Key) -> SendApi:
    domain_id = add_domain(api.database, api.account.account_id, "example.com") if key.is_bound else None
    made = api.with_credential(key.kind, key.scopes, domain_id)
    if not key.is_active:
        change = CredentialChange(is_active=False)
        change_credential(api.database, api.account.account_id, made.account.account_id, change)
    return made


def expected(key: Key, path: str, is_account_path: bool) -> int | None:
    """The refusal; None where the call is to be let in."""
    needed = SCOPES.get(path.split("/")[1], Scope.MANAGE)
    is_login = key.kind is CredentialKind.SMTP
    if not key.is_active or (is_login and is_account_path):
        return REFUSED
    if needed is Scope.MANAGE and not is_account_path:
        return REFUSED
    return None if needed in key.may else MAY_NOT


@only_sqlite
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
@pytest.mark.parametrize("is_account_path", [True, False], ids=["account's path", "own path"])
def test_a_key_opens_what_it_is_for_and_nothing_else(api: SendApi, key: Key, is_account_path: bool) -> None:
    made = holder(api, key)
    name = api.account.account_id if is_account_path else made.account.account_id
    asker = made.with_login(name, made.account.api_key)
    others = 0
    for method, path, has_body in calls(api):
        answer = asker.call(method, filled(path), **({"json": BODY if path == "/messages" else {}} if has_body else {}))
        refusal = expected(key, path, is_account_path)
        if refusal is None:
            others += 1
            assert answer.status_code not in (REFUSED, MAY_NOT, 500), f"{method} {path}: {answer.text}"
        else:
            assert answer.status_code == refusal, f"{method} {path}: {answer.status_code} {answer.text}"
    assert (
        others
        or not key.is_active
        or (key.kind is CredentialKind.SMTP and is_account_path)
        or not key.may - {Scope.MANAGE}
    )


def test_a_login_sees_and_takes_back_its_own_mail_only(api: SendApi) -> None:
    login = api.with_credential(CredentialKind.SMTP)
    mine = login.sent(send_at="2026-09-22T00:00:00Z")
    others = api.sent(send_at="2026-09-22T00:00:00Z")
    assert [entry["id"] for entry in login.get("/outbound_messages").json] == [mine]
    assert login.found("*") == [mine]
    for path in (f"/outbound_messages/{others}", f"/outbound_messages/{others}/raw"):
        assert login.get(path).status_code == 404
    assert login.delete(f"/messages/{others}").status_code == 404
    assert api.shown(others)["recipients"][0]["state"] == "pending"
    assert login.delete(f"/messages/{mine}").status_code == 202
    assert api.delete(f"/messages/{others}").status_code == 202


def test_a_key_that_may_only_send_learns_nothing_of_other_mail(api: SendApi) -> None:
    others = api.sent(send_at="2026-09-22T00:00:00Z", bcc="secret@example.net")
    sender = api.with_credential(CredentialKind.API, frozenset({Scope.SEND}))
    answer = sender.delete(f"/messages/{others}")
    assert (answer.status_code, "secret@example.net" in answer.text) == (404, False)
    mine = sender.sent(send_at="2026-09-22T00:00:00Z")
    assert sender.delete(f"/messages/{mine}").status_code == 202


def test_a_bound_key_touches_no_other_domain(api: SendApi) -> None:
    domain_id = add_domain(api.database, api.account.account_id, "example.org")
    others = api.sent(send_at="2026-09-22T00:00:00Z")
    for kind in CredentialKind:
        bound = api.with_credential(kind, domain_id=domain_id)
        for sender in ("a@example.com", "a@sub.example.org", "a@xexample.org", "a@example.org.evil.example"):
            answer = bound.send(from_=sender)
            assert answer.status_code == 422, sender
        raw = "From: a@example.com\r\nTo: bob@example.net\r\nSubject: s\r\n\r\nhi\r\n"
        assert bound.send(from_="a@example.org", raw=raw, plain=None).status_code == 422
        assert bound.delete(f"/messages/{others}").status_code == 404
        assert bound.get(f"/outbound_messages/{others}").status_code == 404


def test_a_bound_key_cannot_become_more(api: SendApi) -> None:
    domain_id = add_domain(api.database, api.account.account_id, "example.org")
    made = api.post("/credentials", {"kind": "api", "sending_domain_id": domain_id}).json
    for scopes in (["manage"], ["send", "manage"]):
        body: dict[str, Any] = {"scopes": scopes}
        assert api.call("PATCH", f"/credentials/{made['id']}", json=body).status_code == 422
        assert api.post("/credentials", {"kind": "api", "sending_domain_id": domain_id, **body}).status_code == 422
        assert api.post("/credentials", {"kind": "smtp", **body}).status_code == 422
    api.delete(f"/sending_domains/{domain_id}")
    again = add_domain(api.database, api.account.account_id, "example.org")
    bound = api.with_login(made["id"], made["secret"])
    assert again != domain_id
    assert bound.send(from_="a@example.org").status_code in (401, 422)


# --- without any key ---

OPEN = {
    *("/healthz", "/openapi.json", "/docs", "/docs/js/scalar.standalone.js", "/.well-known/mta-sts.txt"),
    *("/target/200", "/target/404", "/target/500", "/stored/<token>/<file_name>"),
    *("/o/<token>", "/c/<token>", "/u/<token>"),
}
"""All that needs no key: pages, test targets, and what has a token instead."""


@only_sqlite
def test_whatever_is_not_open_by_name_asks_for_a_key_first(api: SendApi) -> None:
    """By the routes themselves, in whatever document they stand: before path, query and body are even looked at."""
    rules = list(api.app.url_map.iter_rules())
    assert {rule.rule for rule in rules if not rule.rule.startswith("/api/")} == OPEN
    asked = 0
    for rule in rules:
        if rule.rule not in OPEN:
            ids = dict.fromkeys(rule.arguments, api.account.account_id)
            url = api.app.url_map.bind("").build(rule.endpoint, ids)
            for method in rule.methods or ():
                for key in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp4"}):
                    answer = api.client.open(f"{url}?nonsense=1", method=method, headers=key, data=b"{")
                    assert answer.status_code == REFUSED, f"{method} {rule.rule}: {answer.status_code}"
                    asked += 1
    assert asked > 300


@only_sqlite
def test_a_key_that_is_switched_off_or_deleted_opens_nothing_from_the_next_request_on(api: SendApi) -> None:
    other_process = SendApi(api.database, api.account, api.settings, api.now_ms)
    made = api.post("/credentials", {"kind": "api"}).json
    holders = [one.with_login(made["id"], made["secret"]) for one in (api, other_process)]

    def answers() -> list[int]:
        return [one.get("/outbound_messages").status_code for one in holders]

    path = f"/credentials/{made['id']}"
    assert answers() == [200, 200]
    assert api.call("PATCH", path, json={"scopes": ["send"]}).status_code == 200
    assert answers() == [MAY_NOT] * 2
    assert api.call("PATCH", path, json={"scopes": ["read"], "is_active": False}).status_code == 200
    assert answers() == [REFUSED] * 2
    assert api.call("PATCH", path, json={"is_active": True}).status_code == 200
    assert answers() == [200, 200]
    assert api.delete(path).status_code == 202
    assert answers() == [REFUSED] * 2


@only_sqlite
def test_secrets_are_shown_once(api: SendApi) -> None:
    made = api.post("/credentials", {"kind": "smtp"}).json
    secrets = (made["secret"], api.account.api_key, api.account.smtp_password)
    for path in ("/credentials", f"/credentials/{made['id']}", "/credentials?kind=smtp"):
        text = api.call("GET", path).text
        assert not any(secret in text for secret in secrets)
        assert "sha256" not in text
    changed = api.call("PATCH", f"/credentials/{made['id']}", json={"name": "x"})
    assert made["secret"] not in changed.text
    assert made["secret"] not in api.delete(f"/credentials/{made['id']}").text


@only_sqlite
def test_where_a_mail_came_from_behind_a_proxy(database: Database, account: NewAccount, tmp_path: Path) -> None:
    """As with hits on links: what a proxy that we believe has added, and no client's own claim."""
    settings = api_settings(tmp_path, proxy_networks="198.51.100.0/24")
    api = SendApi(database, account, settings)
    claim = "203.0.113.9, 192.0.2.44"

    def origin(peer: str, forwarded: str | None) -> str:
        headers = {"Authorization": f"Bearer {account.api_key}"}
        if forwarded is not None:
            headers["X-Forwarded-For"] = forwarded
        url = f"/api/v0.1/{account.account_id}/messages"
        answer = api.client.post(url, json=BODY, headers=headers, environ_base={"REMOTE_ADDR": peer})
        with database.reading():
            rows = database.execute("SELECT remote_ip FROM message WHERE id = ?", (answer.json["id"],))
        return str(rows[0][0])

    assert origin("127.0.0.1", claim) == "192.0.2.44"
    assert origin("198.51.100.7", claim) == "192.0.2.44"
    assert origin("198.51.100.7", f"{claim}, 198.51.100.8") == "192.0.2.44"
    assert origin("192.0.2.99", claim) == "192.0.2.99"
    assert origin("127.0.0.1", None) == "127.0.0.1"
