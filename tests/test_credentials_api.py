"""Keys and logins over HTTP: making and keeping them, and what each of them opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint
from werkzeug.test import TestResponse

from core.services.accounts import NewAccount, create_account
from core.services.credentials import Scope
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS
from web.auth import USE_EXTENSION, current_credential, require_sender
from web.context import account_id as current_account

PROBE = "/probe"


def probe() -> Blueprint:
    """Two endpoints where mail might be sent and seen, which say who asks."""
    made = Blueprint("probe", __name__)
    for scope in (Scope.SEND, Scope.READ):
        part = Blueprint(f"probe_{scope}", __name__)
        part.before_request(require_sender(scope))

        def answer(username: str) -> dict[str, Any]:
            found = current_credential()
            return {"username": found.username, "account": current_account(), "domain": found.sending_domain_id}

        part.add_url_rule(f"{PROBE}/<username>/{scope}", "answer", answer)
        made.register_blueprint(part)
    return made


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    made = Api(database, account, api_settings(tmp_path))
    made.app.register_blueprint(probe())
    return made


def call(api: Api, method: str, path: str, json: Any = None) -> Any:
    """Call as the account and expect success."""
    answer = api.call(method, path, **({} if json is None else {"json": json}))
    assert answer.status_code < 300, answer.text
    return answer.json


def bearer(api: Api, path: str, key: str | None) -> TestResponse:
    """GET with any key."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return api.client.get(path, headers=headers)


def sees(api: Api, username: str, key: str | None, scope: str = "send") -> int:
    return bearer(api, f"{PROBE}/{username}/{scope}", key).status_code


def test_a_login_is_made_shown_once_listed_and_revoked(api: Api) -> None:
    made = call(api, "POST", "/credentials", {"kind": "smtp", "name": "shop"})
    secret = made.pop("secret")
    assert made == {
        "id": made["username"], "kind": "smtp", "username": made["username"], "name": "shop",
        "scopes": ["read", "send"], "sending_domain_id": None, "sending_domain": None, "is_active": True,
        "last_used_at": None, "created_at": "2026-09-21T14:13:20.000Z",
    }  # fmt: skip
    assert call(api, "GET", f"/credentials/{made['id']}") == made
    listed = call(api, "GET", "/credentials?kind=smtp")
    assert made in listed
    assert {entry["kind"] for entry in listed} == {"smtp"}
    assert len(call(api, "GET", "/credentials")) == 3
    assert secret not in api.get("/credentials").text
    assert sees(api, made["username"], secret) == 200

    answer = api.delete(f"/credentials/{made['id']}")
    assert (answer.status_code, answer.json) == (202, {**made, "last_used_at": answer.json["last_used_at"]})
    assert sees(api, made["username"], secret) == 401
    assert api.get(f"/credentials/{made['id']}").status_code == 404


def test_a_key_can_be_renamed_limited_and_switched_off(api: Api) -> None:
    made = call(api, "POST", "/credentials", {"kind": "api"})
    path = f"/credentials/{made['id']}"
    assert call(api, "PATCH", path, {"name": "cron"})["name"] == "cron"
    assert call(api, "PATCH", path, {"scopes": ["read"], "name": None})["scopes"] == ["read"]
    assert sees(api, api.account.account_id, made["secret"]) == 403
    assert sees(api, api.account.account_id, made["secret"], "read") == 200
    assert call(api, "PATCH", path, {"is_active": False})["is_active"] is False
    assert sees(api, api.account.account_id, made["secret"], "read") == 401
    assert call(api, "PATCH", path, {"is_active": True})["name"] == "cron"
    assert sees(api, api.account.account_id, made["secret"], "read") == 200


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "kind: is required"),
        ({"kind": "pop3"}, "kind: must be 'api' or 'smtp'"),
        ({"kind": "smtp", "scopes": ["manage"]}, "scopes: of an smtp credential may be read, send"),
        ({"kind": "smtp", "scopes": []}, "scopes: "),
        ({"kind": "smtp", "scopes": ["fly"]}, "scopes"),
        ({"kind": "smtp", "secret": "mine"}, "secret: is not a field of this request; leave it out"),
        ({"kind": "smtp", "sending_domain_id": "f" * 16}, "sending_domain_id: is no sending domain of this account"),
        ({"kind": "api", "name": "x" * 101}, "name: "),
    ],
)
def test_a_wrong_body_is_told_by_field(api: Api, body: dict[str, Any], error: str) -> None:
    answer = api.post("/credentials", body)
    assert answer.status_code == 422
    assert answer.json["error"].startswith(error), answer.json


def test_the_key_that_is_asking_cannot_lock_its_account(api: Api) -> None:
    for answer in (
        api.delete(f"/credentials/{api.account.account_id}"),
        api.call("PATCH", f"/credentials/{api.account.account_id}", json={"is_active": False}),
    ):
        assert answer.status_code == 422
        assert "last key that may manage this account; make another before" in answer.json["error"]


def test_the_management_api_is_for_keys_that_may_manage(api: Api, account: NewAccount) -> None:
    url = f"/api/v0.1/{account.account_id}/credentials"
    sending = call(api, "POST", "/credentials", {"kind": "api", "scopes": ["send", "read"]})
    managing = call(api, "POST", "/credentials", {"kind": "api", "scopes": ["manage"]})

    assert bearer(api, url, account.api_key).status_code == 200
    assert bearer(api, url, managing["secret"]).status_code == 200
    refused = bearer(api, url, sending["secret"])
    assert refused.status_code == 403
    assert refused.json == {
        "status": 403,
        "error": "this key may not manage (it may: read, send); use one with the scope manage",
    }


def test_a_login_does_not_open_the_management_api(api: Api, account: NewAccount) -> None:
    for owner in (account.account_id, account.smtp_username):
        answer = bearer(api, f"/api/v0.1/{owner}/credentials", account.smtp_password)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].lower().startswith("bearer")


def test_a_key_opens_the_management_api_under_its_accounts_id_only(api: Api, account: NewAccount) -> None:
    made = call(api, "POST", "/credentials", {"kind": "api"})
    assert bearer(api, f"/api/v0.1/{account.account_id}/credentials", made["secret"]).status_code == 200
    assert bearer(api, f"/api/v0.1/{made['username']}/credentials", made["secret"]).status_code == 401


def test_mail_is_sent_under_the_account_or_under_the_logins_own_name(
    api: Api, account: NewAccount, database: Database
) -> None:
    other = create_account(database, "other", NOW_MS)
    by_login = bearer(api, f"{PROBE}/{account.smtp_username}/send", account.smtp_password)
    by_key = bearer(api, f"{PROBE}/{account.account_id}/send", account.api_key)

    assert by_login.json == {"username": account.smtp_username, "account": account.account_id, "domain": None}
    assert by_key.json == {"username": account.account_id, "account": account.account_id, "domain": None}
    wrong = [
        (account.smtp_username, account.api_key), (account.account_id, account.smtp_password),
        (other.smtp_username, account.smtp_password), (other.account_id, account.api_key),
        (account.smtp_username, None), (account.smtp_username, ""), (account.smtp_username, "x" * 5_000),
        ("nobody", account.smtp_password), ("f" * 16, account.smtp_password),
    ]  # fmt: skip
    assert [sees(api, name, key) for name, key in wrong] == [401] * len(wrong)


def test_a_key_that_may_only_see_may_not_send(api: Api) -> None:
    made = call(api, "POST", "/credentials", {"kind": "smtp", "scopes": ["read"]})
    refused = bearer(api, f"{PROBE}/{made['username']}/send", made["secret"])

    assert refused.status_code == 403
    assert refused.json["error"] == "this key may not send (it may: read); use one with the scope send"
    assert sees(api, made["username"], made["secret"], "read") == 200


def test_it_is_noted_when_a_key_was_used(api: Api, account: NewAccount) -> None:
    assert sees(api, account.smtp_username, account.smtp_password) == 200
    api.app.extensions[USE_EXTENSION].stop()

    assert call(api, "GET", f"/credentials/{account.smtp_username}")["last_used_at"] == "2026-09-21T14:13:20.000Z"
