"""What every call of the API has in common: keys, errors, headers; and the test targets."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from core.services.accounts import NewAccount, create_account
from core.store.db import Database
from tests.api_support import TARGET, Api, api_settings
from tests.conftest import NOW_MS

ADDRESS = b'{"target":"https://example.com/","target_format":"raw"}'


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return Api(database, account, api_settings(tmp_path))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer " + "x" * 5000,
        "Bearer \xff\xfe",
        "Basic dXNlcjpwYXNz",
        "Basic %%%",
        "Digest username=x",
        "Bearer a=b, c=d",
        "\t",
    ],
)
def test_without_a_valid_key_nobody_gets_in(api: Api, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = api.client.get(f"/api/v0.1/{api.account.account_id}/addresses", headers=headers)
    assert answer.status_code == 401
    assert answer.json["status"] == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_key_opens_only_its_own_account(api: Api, database: Database) -> None:
    other = create_account(database, "other", NOW_MS)
    headers = {"Authorization": f"Bearer {api.account.api_key}"}
    for account_id in (other.account_id, "0" * 16, "x", "%00", "a" * 500, api.account.account_id.upper() + "x"):
        assert api.client.get(f"/api/v0.1/{account_id}/addresses", headers=headers).status_code == 401


def test_the_smtp_password_is_no_api_key(api: Api) -> None:
    headers = {"Authorization": f"Bearer {api.account.smtp_password}"}
    assert api.client.get(f"/api/v0.1/{api.account.account_id}/addresses", headers=headers).status_code == 401
    told = api.client.get(f"/api/v0.1/{api.account.smtp_username}/webhooks", headers=headers)
    assert told.status_code == 401
    assert told.get_json()["error"].startswith("this is an SMTP login, which sends and reads what it has sent")


def test_the_key_is_asked_for_before_anything_is_read(api: Api) -> None:
    url = f"/api/v0.1/{api.account.account_id}/addresses/zzz"
    assert api.client.put(url, data=b"{").status_code == 401


@pytest.mark.parametrize(
    ("data", "content_type", "status", "text"),
    [
        (b"{", "application/json", 422, "body: is not valid JSON at line 1, column 2"),
        (b"", "application/json", 422, "body: is not valid JSON"),
        (b"\xff\xfe", "application/json", 422, "body: is not valid JSON"),
        (b'{"target":"\\ud800"}', "application/json", 422, "body: is not valid JSON"),
        (b'{"target":NaN}', "application/json", 422, "body: is not valid JSON"),
        (b"[" * 100_000, "application/json", 422, "body: is not valid JSON"),
        (b'{"a":' * 100_000, "application/json", 422, "body: is not valid JSON"),
        (b"[]", "application/json", 422, "body: must be a JSON object"),
        (b'"{}"', "application/json", 422, "body: must be a JSON object"),
        (b"null", "application/json", 422, "body: must be a JSON object"),
        (b'{"target":' + b"9" * 5000 + b"}", "application/json", 422, "body: is not valid JSON"),
        (b"target=x", "application/x-www-form-urlencoded", 415, "the body must be JSON"),
        (ADDRESS, None, 415, "the body must be JSON"),
        (ADDRESS, "text/plain", 415, "the body must be JSON"),
        (ADDRESS + b" " * 2_000_000, "application/json", 413, "the body is too large"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(
    api: Api, data: bytes, content_type: str | None, status: int, text: str
) -> None:
    answer = api.call("POST", "/addresses", data=data, content_type=content_type)
    assert answer.status_code == status
    assert answer.json["status"] == status
    assert answer.json["error"].startswith(text)


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/x+json"])
def test_json_by_any_of_its_names_is_read(api: Api, content_type: str) -> None:
    assert api.call("POST", "/addresses", data=ADDRESS, content_type=content_type).status_code == 201


def test_many_wrong_fields_are_told_in_part(api: Api) -> None:
    answer = api.post("/addresses", {f"field{number}": 1 for number in range(1000)})
    assert answer.status_code == 422
    assert answer.json["error"].count(": is ") == 5


def test_a_huge_name_is_told_in_part(api: Api) -> None:
    assert len(api.post("/addresses", {"x" * 100_000: 1}).json["error"]) < 500
    assert len(api.get("/addresses", **{"x" * 100_000: "1"}).json["error"]) < 500


@pytest.mark.parametrize("path", ["/", "/nope", "/api", "/api/v0.1", "/api/v9/x/addresses", "/target/418", "/docs/x"])
def test_an_unknown_path_is_json_too(api: Api, path: str) -> None:
    answer = api.client.get(path)
    assert answer.status_code == 404
    assert answer.json["status"] == 404


def test_a_wrong_method_says_which_are_right(api: Api) -> None:
    answer = api.call("PATCH", "/addresses")
    assert answer.status_code == 405
    assert answer.json["error"] == "PATCH is not possible here; this path takes GET, HEAD, OPTIONS, POST"
    assert "POST" in answer.headers["Allow"]
    assert api.client.get("/target/200").status_code == 405


def test_head_and_options_work(api: Api) -> None:
    head = api.call("HEAD", "/addresses")
    assert (head.status_code, head.data) == (200, b"")
    assert "GET" in api.call("OPTIONS", "/addresses").headers["Allow"]


def test_an_accident_shows_nothing_of_itself(api: Api) -> None:
    def divide() -> str:
        return str(1 // 0)

    api.app.add_url_rule("/accident", view_func=divide)
    answer = api.client.get("/accident")
    assert answer.status_code == 500
    assert answer.json["status"] == 500
    assert "division" not in answer.text
    assert "ZeroDivision" not in answer.text


def test_a_database_that_is_away_is_503(account: NewAccount, tmp_path: Path) -> None:
    away = Database(f"postgresql://postgres@/postgres?host={tmp_path}")
    answer = Api(away, account, api_settings(tmp_path)).get("/addresses")
    assert answer.status_code == 503
    assert answer.json["error"] == "the database cannot be used now"
    assert answer.headers["Retry-After"] == "5"


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_restarted_database_goes_unnoticed(api: Api, postgres_url: str) -> None:
    address_id = api.new_address()
    with psycopg.connect(postgres_url) as control:
        control.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert api.get(f"/addresses/{address_id}").status_code == 200


@pytest.mark.parametrize("path", ["/nope", "/openapi.json", "/docs", "/healthz", "/target/200"])
def test_every_answer_is_guarded(api: Api, path: str) -> None:
    headers = api.client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "Set-Cookie" not in headers
    assert "Access-Control-Allow-Origin" not in headers


def test_answers_with_secrets_are_not_kept_by_caches(api: Api) -> None:
    assert api.get("/addresses").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("status", [200, 404, 500])
@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x", "", "nonsense"])
def test_targets_answer_what_their_path_says(api: Api, status: int, content_type: str) -> None:
    answer = api.client.post(f"/target/{status}", data=b"{" * 3_000_000, content_type=content_type)
    assert answer.status_code == status
    assert answer.mimetype == "text/plain"
    assert "test target" in answer.text


def test_targets_have_a_limit_too(database: Database, account: NewAccount, tmp_path: Path) -> None:
    api = Api(database, account, api_settings(tmp_path, max_message_size=1000))
    assert api.client.post("/target/200", data=b"x" * 3000).status_code == 200
    assert api.client.post("/target/200", data=b"x" * 3001).status_code == 413


def test_credentials_in_a_target_are_taken_and_not_repeated_in_statuses(api: Api) -> None:
    address_id = api.new_address("https://user:secret@example.com/in")
    status_id = api.receive(address_id, target="https://user:secret@example.com/in")
    assert "secret" not in api.get(f"/incoming_statuses/{status_id}").text
    assert api.get(f"/addresses/{address_id}").json["target"] == TARGET.replace("//", "//user:secret@")
