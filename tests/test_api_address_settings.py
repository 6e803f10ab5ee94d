"""The settings of an address over the API: defaults, changes, what belongs together, and what the receiver gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from core.address_settings import AddressSettings, AuthorizationCallback, CallbackFormat, DeliveryMode, FailAction
from core.services.accounts import NewAccount
from core.services.routing_book import StoredAddressBook
from core.store.db import Database
from core.store_settings import StoreKind
from tests.api_support import TARGET, Api, api_settings
from tests.object_servers import S3Server, running_s3
from web.api.address_fields import STORES, SettingsAnswer, SettingsBody

SERVER_LIMIT = 1_000_000
DEFAULTS = {
    "mode": "queued",
    "inline_deadline_s": 25,
    "inline_on_deadline": "defer",
    "duplicate_window_s": None,
    "bounce_rejected": False,
    "on_spf_fail": "flag",
    "on_dkim_fail": "flag",
    "on_dmarc_fail": "flag",
    "on_spam": "flag",
    "spam_threshold": None,
    "on_virus": "quarantine",
    "on_scanner_failure": "deliver",
    "max_message_size": None,
    "oversize_text": None,
    "authorization": None,
    "error_callback": None,
    "attachments": {},
    "attachment_threshold": 0,
    "message_store": {},
    "message_store_format": "eml",
    "raw_in_payload": False,
}
CHANGED: dict[str, Any] = {
    "mode": "inline",
    "inline_deadline_s": 120,
    "inline_on_deadline": "queue",
    "duplicate_window_s": 0,
    "bounce_rejected": True,
    "on_spf_fail": "reject",
    "on_dkim_fail": "quarantine",
    "on_dmarc_fail": "reject",
    "on_spam": "quarantine",
    "spam_threshold": 5.5,
    "on_virus": "reject",
    "on_scanner_failure": "hold",
    "max_message_size": SERVER_LIMIT,
    "oversize_text": "Please send a link",
    "authorization": {"url": "https://example.com/ask", "format": "json"},
    "error_callback": "https://example.com/failed.json",
    "attachments": {"kind": "built_in"},
    "attachment_threshold": 1_000,
    "message_store": {"kind": "built_in"},
    "message_store_format": "json",
    "raw_in_payload": True,
}


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    settings = api_settings(tmp_path, max_message_size=SERVER_LIMIT, allow_private_targets="loopback")
    return Api(database, account, settings)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def shown_settings(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in DEFAULTS}


def put(api: Api, address_id: str, **changes: Any) -> Any:
    return api.put(f"/addresses/{address_id}", {"target": TARGET, "target_format": "json+n", **changes})


def kept(api: Api, database: Database, address_id: str) -> AddressSettings:
    """As the receiver reads them."""
    entry = StoredAddressBook(database).find_address(address_id)
    assert entry is not None
    return entry.settings


def test_every_setting_is_in_requests_answers_and_this_test() -> None:
    names = {
        next((shown for shown, kept in STORES.items() if kept == entry.name), entry.name)
        for entry in fields(AddressSettings)
    }
    assert set(DEFAULTS) == set(CHANGED) == set(SettingsBody.model_fields) == set(SettingsAnswer.model_fields) == names


def test_a_new_address_has_the_defaults(api: Api, database: Database) -> None:
    address_id = api.new_address()
    assert shown_settings(api.get(f"/addresses/{address_id}").json) == DEFAULTS
    assert kept(api, database, address_id) == AddressSettings()


def test_every_setting_is_stored_shown_and_read_by_the_receiver(api: Api, database: Database) -> None:
    address_id = api.new_address(**CHANGED)
    assert shown_settings(api.get(f"/addresses/{address_id}").json) == CHANGED
    stored = kept(api, database, address_id)
    assert stored.mode is DeliveryMode.INLINE
    assert stored.on_spf_fail is FailAction.REJECT
    assert stored.authorization == AuthorizationCallback("https://example.com/ask", CallbackFormat.JSON)
    assert stored.attachment_store is not None
    assert stored.attachment_store.kind is StoreKind.BUILT_IN
    assert not {name for name, value in asdict(stored).items() if value == asdict(AddressSettings())[name]}


@pytest.mark.parametrize("name", CHANGED)
def test_a_put_changes_one_setting_and_null_takes_it_back(api: Api, name: str) -> None:
    address_id = api.new_address()
    changed = put(api, address_id, **{name: CHANGED[name]})
    assert changed.status_code == 200, changed.text
    assert shown_settings(changed.json) == DEFAULTS | {name: CHANGED[name]}
    assert shown_settings(put(api, address_id).json) == DEFAULTS | {name: CHANGED[name]}, "left out, it stays"
    assert shown_settings(put(api, address_id, **{name: None}).json) == DEFAULTS


def test_an_empty_object_is_no_store_as_the_vendor_has_it(api: Api) -> None:
    address_id = api.new_address(attachments={"kind": "built_in"})
    assert put(api, address_id, attachments={}).json["attachments"] == {}


def test_what_get_gives_can_be_put_back(api: Api) -> None:
    address_id = api.new_address(**CHANGED)
    before = api.get(f"/addresses/{address_id}").json
    assert api.put(f"/addresses/{address_id}", before).json == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mode": "direct"}, "mode: must be 'queued' or 'inline'"),
        ({"inline_deadline_s": 0}, "inline_deadline_s: must be greater"),
        ({"inline_deadline_s": 121}, "inline_deadline_s: must be less"),
        ({"inline_deadline_s": 2.5}, "inline_deadline_s: must be a valid integer"),
        ({"inline_deadline_s": "25"}, "inline_deadline_s"),
        ({"inline_on_deadline": "drop"}, "inline_on_deadline"),
        ({"duplicate_window_s": -1}, "duplicate_window_s"),
        ({"duplicate_window_s": 30 * 86_400 + 1}, "duplicate_window_s"),
        ({"bounce_rejected": "yes"}, "bounce_rejected"),
        ({"on_spf_fail": "drop"}, "on_spf_fail: must be 'flag', 'quarantine' or 'reject'"),
        ({"on_virus": "deliver"}, "on_virus"),
        ({"on_scanner_failure": "reject"}, "on_scanner_failure"),
        ({"spam_threshold": 1_001}, "spam_threshold"),
        ({"spam_threshold": "5"}, "spam_threshold"),
        ({"max_message_size": 0}, "max_message_size"),
        ({"max_message_size": SERVER_LIMIT + 1}, "max_message_size: must be between 1 and 1,000,000"),
        ({"oversize_text": "zu groß"}, "oversize_text: must be one line"),
        ({"oversize_text": "a\r\n250 ok"}, "oversize_text: must be one line"),
        ({"oversize_text": ""}, "oversize_text"),
        ({"oversize_text": "x" * 201}, "oversize_text"),
        ({"authorization": {}}, "authorization.url: is required"),
        ({"authorization": {"url": "ftp://x.example/"}}, "authorization.url: must begin with http"),
        ({"authorization": {"url": TARGET, "format": "yaml"}}, "authorization.format"),
        ({"authorization": {"url": TARGET, "secret": "x"}}, "authorization.secret: is not a field"),
        ({"error_callback": "mailto:a@b.example"}, "error_callback: must begin with http"),
        ({"attachment_threshold": -1}, "attachment_threshold"),
        ({"attachments": {"kind": "ftp"}}, "attachments.kind"),
        ({"attachments": {"bucket": "x"}}, "attachments.kind: is required"),
        ({"attachments": {"kind": "s3", "bucket": "mine"}}, "attachments.access_key_id: is required"),
        ({"message_store": {"kind": "built_in", "bucket": "mine"}}, "message_store.bucket: is not used"),
        ({"message_store": {"kind": "azure", "bucket": "mine", "sas": "***"}}, "message_store.sas: is ***"),
        ({"message_store_format": "pdf"}, "message_store_format"),
        ({"raw_in_payload": 1}, "raw_in_payload"),
        ({"attachment_store": {}}, "attachment_store: is not a field"),
        ({"target": "mailto:x@y.example", "mode": "inline"}, "mode: inline needs a target that answers at once"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_changes(api: Api, changes: dict[str, Any], named: str) -> None:
    address_id = api.new_address()
    answer = put(api, address_id, **changes)
    assert answer.status_code == 422
    assert answer.json["error"].startswith(named)
    assert shown_settings(api.get(f"/addresses/{address_id}").json) == DEFAULTS
    created = api.post("/addresses", {"target": TARGET, "target_format": "json+n", **changes})
    assert (created.status_code, created.json["error"]) == (422, answer.json["error"])


def test_settings_are_checked_against_what_stays(api: Api) -> None:
    address_id = api.new_address(mode="inline")
    answer = put(api, address_id, target="mailto:x@y.example")
    assert answer.json["error"].startswith("mode: inline needs")
    assert put(api, address_id, target="mailto:x@y.example", mode="queued").status_code == 200
    assert put(api, address_id, target="mailto:x@y.example", mode="inline").status_code == 422


def test_a_server_limit_that_was_lowered_since_is_no_fault_of_another_change(api: Api, database: Database) -> None:
    address_id = api.new_address(max_message_size=SERVER_LIMIT)
    with database.transaction():
        database.execute("UPDATE address SET settings = ?", (AddressSettings(max_message_size=1 << 40).to_json(),))
    assert put(api, address_id, nickname="x").status_code == 200
    assert put(api, address_id, max_message_size=1 << 40).status_code == 422


@pytest.mark.parametrize(
    "target", ["mailto:user@example.com", "MAILTO:user+tag@bücher.example", "mailto:a%25b@example.com"]
)
def test_a_target_may_be_a_mailbox(api: Api, database: Database, target: str) -> None:
    address_id = api.new_address(target)
    assert api.get(f"/addresses/{address_id}").json["target"] == target


@pytest.mark.parametrize(
    "target",
    [
        "mailto:",
        "mailto:user",
        "mailto:a@b.example,c@d.example",
        "mailto:a@b.example?subject=x",
        "mailto:user@localhost",
        "mailto:a b@c.example",
    ],
)
def test_a_target_that_is_no_mailbox_is_named(api: Api, target: str) -> None:
    answer = api.post("/addresses", {"target": target, "target_format": "raw"})
    assert answer.status_code == 422
    assert answer.json["error"].startswith("target: must ")


def test_waiting_mail_follows_to_a_mailbox(api: Api, database: Database) -> None:
    address_id = api.new_address()
    api.receive(address_id)
    assert put(api, address_id, target="mailto:user@Example.COM").status_code == 200
    with database.reading():
        assert database.execute("SELECT target_host FROM delivery") == [("mailto://example.com",)]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_store_is_tried_out_when_it_is_configured_and_its_secret_is_never_shown(
    api: Api, database: Database, s3: S3Server
) -> None:
    given = s3_fields(s3)
    address_id = api.new_address(attachments=given)
    shown = api.get(f"/addresses/{address_id}").json["attachments"]
    assert shown == given | {"secret_access_key": "***"}
    again = put(api, address_id, attachments=shown | {"prefix": "other"})
    assert again.json["attachments"] == shown | {"prefix": "other"}
    stored = kept(api, database, address_id).attachment_store
    assert stored is not None
    assert (stored.prefix, stored.secret_access_key) == ("other", given["secret_access_key"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("field", ["attachments", "message_store"])
def test_a_store_that_refuses_is_an_error_and_changes_nothing(api: Api, s3: S3Server, field: str) -> None:
    address_id = api.new_address()
    answer = put(api, address_id, **{field: s3_fields(s3) | {"bucket": s3.forbidden_bucket}})
    assert answer.status_code == 422
    assert answer.json["error"].startswith(f"{field}.access_key_id: may not write there")
    assert api.get(f"/addresses/{address_id}").json[field] == {}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_store_that_stays_is_not_tried_again(
    api: Api, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running_s3(tmp_path_factory.mktemp("short-lived")) as short_lived:
        address_id = api.new_address(attachments=s3_fields(short_lived))
    before = api.get(f"/addresses/{address_id}").json
    assert api.put(f"/addresses/{address_id}", before | {"nickname": "x"}).status_code == 200
    changed = api.put(f"/addresses/{address_id}", before | {"attachments": before["attachments"] | {"prefix": "y"}})
    assert changed.json["error"].startswith("attachments.endpoint: the store could not be reached")


def s3_fields(server: S3Server) -> dict[str, Any]:
    """The store as a customer writes it."""
    settings = asdict(server.settings())
    return {name: value for name, value in settings.items() if value not in ("", None)}
