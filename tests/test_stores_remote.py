"""Customers' stores, spoken to: S3 (moto), Azure (Azurite), Google (a stand-in), and servers that misbehave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from core.address_settings import AddressSettings
from core.clock import system_clock
from core.config import Settings
from core.errors import InvalidField
from core.ids import new_time_ordered_id
from core.netguard import LOOPBACK, TargetPolicy
from core.object_stores import StoredObject, StoreFailed, object_name, open_store
from core.services.secrets import STORING_SECRET, shared_secret
from core.store.db import Database
from core.store_settings import StoreSettings
from inbound import store_client
from inbound.guarded_http import DeadlineWatch, guarded_session
from inbound.reading.parse import parse_message
from inbound.store_client import StoreClient
from inbound.storing import Storing
from tests.object_servers import (
    AzureServer,
    GoogleServer,
    S3Server,
    account_sas,
    running_azurite,
    running_google,
    running_s3,
    service_account_key,
)
from tests.raw_server import read_request, running_raw_server

PREFIX = "mail/a b ü+%~"
ITEM = StoredObject("20260101/00ff.pdf", b"%PDF" * 1000, "application/pdf", 'Ä "b".pdf')
DISPOSITION = "attachment; filename=\"_ _b_.pdf\"; filename*=UTF-8''%C3%84%20%22b%22.pdf"
SECRETS = ("wrongsecret", "d3Jvbmc=", "sig=", "PRIVATE KEY")
MESSAGE = (
    b"Subject: two\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
    b"--b\r\nContent-Type: application/pdf; name=big.pdf\r\nContent-Disposition: attachment\r\n\r\n"
    + b"x" * 5000
    + b"\r\n--b\r\nContent-Type: text/csv; name=../../small.csv\r\nContent-Disposition: attachment\r\n\r\n1,2"
    + b"\r\n--b--\r\n"
)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with running_azurite(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(scope="module")
def google() -> Iterator[GoogleServer]:
    with running_google() as server:
        yield server


@pytest.fixture(scope="module")
def client() -> StoreClient:
    return make_client(TargetPolicy(LOOPBACK))


def make_client(policy: TargetPolicy) -> StoreClient:
    return StoreClient(guarded_session(policy, 8, None), DeadlineWatch())


def put(client: StoreClient, settings: StoreSettings, item: StoredObject = ITEM, seconds: float = 20) -> None:
    client.put(settings, item, time.monotonic() + seconds)


def fetch(settings: StoreSettings, item: StoredObject = ITEM) -> requests.Response:
    """What whoever has the URL gets."""
    return requests.get(open_store(settings).url(item.name, datetime.now(UTC)), timeout=20)


# --- S3 ---


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_s3_keeps_an_object_with_type_and_name(client: StoreClient, s3: S3Server, prefix: str) -> None:
    settings = s3.settings(prefix=prefix)
    put(client, settings)
    with s3.unverified():  # that signed URLs are right, test_stores_signing.py shows
        answer = fetch(replace(settings, url_lifetime_s=600))
    assert answer.status_code == 200, answer.text
    assert answer.content == ITEM.content
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Disposition"] == DISPOSITION
    assert fetch(settings).status_code == 403  # a plain URL of a private object


def test_s3_sets_the_canned_acl(client: StoreClient, s3: S3Server) -> None:
    settings = s3.settings(acl="public-read", prefix="open")
    put(client, settings)
    with s3.unverified():
        assert fetch(settings).content == ITEM.content
        assert fetch(s3.settings(prefix="open"), replace(ITEM, name="20260101/none")).status_code in (403, 404)


def test_what_arrives_changed_is_refused(s3: S3Server) -> None:
    """Headers are under the signature, the canned ACL above all: one added on the way breaks it."""
    request = open_store(s3.settings(acl="private")).put(ITEM, datetime.now(UTC))
    headers = {**request.headers, "x-amz-acl": "public-read"}
    answer = requests.put(request.url, data=request.body, headers=headers, timeout=20)
    assert answer.status_code == 403
    assert "SignatureDoesNotMatch" in answer.text


@pytest.mark.parametrize(("changes", "field", "problem"), [
    ({"secret_access_key": "wrongsecret"}, "secret_access_key", "does not belong to the access key"),
    ({"access_key_id": "AKIAWRONG"}, "access_key_id", "does not know this key"),
    ({"bucket": "missing"}, "bucket", "no such bucket"),
    ({"bucket": "forbidden"}, "access_key_id", "may not write"),
])  # fmt: skip
def test_s3_refusals_at_configuration(
    client: StoreClient, s3: S3Server, changes: dict[str, str], field: str, problem: str
) -> None:
    expect_refusal(client, s3.settings(**changes), field, problem)


def test_a_probe_leaves_nothing_behind(client: StoreClient, s3: S3Server) -> None:
    client.probe(s3.settings(prefix="probed"))
    scope = "Credential=x/20260101/eu-central-1/s3/aws4_request"
    headers = {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}
    with s3.unverified():
        listing = requests.get(f"{s3.url}/{s3.bucket}?list-type=2&prefix=probed", headers=headers, timeout=20)
    assert "<KeyCount>0</KeyCount>" in listing.text


# --- Azure ---


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_azure_keeps_an_object_with_type_and_name(client: StoreClient, azure: AzureServer, prefix: str) -> None:
    settings = azure.settings(prefix=prefix, url_lifetime_s=600)
    put(client, settings)
    answer = fetch(settings)
    assert answer.content == ITEM.content
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Disposition"] == DISPOSITION
    assert fetch(replace(settings, url_lifetime_s=None)).status_code in (403, 404)


def test_a_signed_url_of_azure_can_only_read(azure: AzureServer, client: StoreClient) -> None:
    settings = azure.settings(url_lifetime_s=600)
    put(client, settings)
    url = open_store(settings).url(ITEM.name, datetime.now(UTC))
    assert requests.put(url, data=b"x", headers={"x-ms-blob-type": "BlockBlob"}, timeout=20).status_code == 403
    assert requests.delete(url, timeout=20).status_code == 403


def test_azure_by_a_sas_token_and_a_public_container(client: StoreClient, azure: AzureServer) -> None:
    settings = azure.settings(bucket=azure.public_container, account_key="", sas=account_sas("cw"))
    client.probe(settings)  # it may not delete, and need not
    put(client, settings)
    assert fetch(settings).content == ITEM.content


@pytest.mark.parametrize(("changes", "field", "problem"), [
    ({"bucket": "missing"}, "bucket", "no such container"),
    ({"account_key": "d3Jvbmc="}, "account_key", "is not valid"),
    ({"account_key": "", "sas": account_sas("r")}, "sas", "does not allow to create and write"),
    ({"account_key": "", "sas": account_sas("cw", expiry="2020-01-01T00:00:00Z")}, "sas", "is not valid"),
    ({"account_key": "", "sas": account_sas("cw", types="c")}, "sas", "does not allow to write blobs"),
    ({"account_key": "", "sas": "sv=2021-08-06&sig=x"}, "sas", "is not valid"),
])  # fmt: skip
def test_azure_refusals_at_configuration(
    client: StoreClient, azure: AzureServer, changes: dict[str, str], field: str, problem: str
) -> None:
    expect_refusal(client, azure.settings(**changes), field, problem)


# --- Google ---


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_google_gets_what_was_signed(client: StoreClient, google: GoogleServer, prefix: str) -> None:
    settings = google.settings(prefix=prefix, acl="public-read", url_lifetime_s=600)
    put(client, settings)
    ((headers, content),) = google.objects.values()
    assert content == ITEM.content
    assert headers["Content-Type"] == "application/pdf"
    assert headers["Content-Disposition"] == DISPOSITION
    assert headers["x-goog-acl"] == "public-read"
    assert fetch(settings).content == ITEM.content
    google.objects.clear()


def test_a_probe_of_google_leaves_nothing_behind(client: StoreClient, google: GoogleServer) -> None:
    client.probe(google.settings())
    assert google.objects == {}


@pytest.mark.parametrize(("email", "field", "problem"), [
    ("gateway@project.example", "service_account", "its key is not that of the account"),
    ("someone@else.example", "service_account", "does not know this account"),
])  # fmt: skip
def test_google_refuses_another_key(
    client: StoreClient, google: GoogleServer, email: str, field: str, problem: str
) -> None:
    account, _ = service_account_key(email)
    expect_refusal(client, google.settings(service_account=json.dumps(account)), field, problem)


def test_google_refuses_another_bucket(client: StoreClient, google: GoogleServer) -> None:
    expect_refusal(client, google.settings(bucket="missing"), "bucket", "no such bucket")


def expect_refusal(client: StoreClient, settings: StoreSettings, field: str, problem: str) -> None:
    """At configuration it names the field; later it is an outage, in the same words. Neither tells a secret."""
    with pytest.raises(InvalidField, match=problem) as caught:
        client.probe(settings)
    assert caught.value.field == f"attachment_store.{field}"
    with pytest.raises(StoreFailed, match=problem) as failed:
        put(client, settings)
    for text in (str(caught.value), str(failed.value)):
        assert not any(secret in text for secret in SECRETS), text


# --- stores that misbehave ---


def s3_at(port: int, **changes: Any) -> StoreSettings:
    return S3Server(f"http://127.0.0.1:{port}", "bucket", "", "AKIA", "wrongsecret").settings(**changes)


def test_a_store_that_hangs_holds_nobody_longer_than_told(client: StoreClient) -> None:
    with running_raw_server(lambda connection, number: connection.recv(1 << 20) and time.sleep(10)) as port:
        begun = time.monotonic()
        with pytest.raises(StoreFailed, match="no complete answer in time"):
            put(client, s3_at(port), seconds=0.5)
        assert time.monotonic() - begun < 2


def test_a_store_that_reads_nothing_holds_nobody_longer_than_told(client: StoreClient) -> None:
    item = replace(ITEM, content=b"x" * 30_000_000)
    with running_raw_server(lambda connection, number: time.sleep(10)) as port:
        begun = time.monotonic()
        with pytest.raises(StoreFailed, match="no complete answer in time"):
            put(client, s3_at(port), item, seconds=0.5)
        assert time.monotonic() - begun < 2


def test_a_store_that_trickles_its_answer_holds_nobody_longer_than_told(client: StoreClient) -> None:
    def trickle(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.1)

    with running_raw_server(trickle) as port:
        begun = time.monotonic()
        with pytest.raises(StoreFailed, match="no complete answer in time"):
            put(client, s3_at(port), seconds=0.5)
        assert time.monotonic() - begun < 2


def test_an_answer_that_was_cut_is_no_success(client: StoreClient) -> None:
    """Headers that end because we cut the connection look as if they were complete."""

    def begin(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: ")
        time.sleep(10)

    with running_raw_server(begin) as port, pytest.raises(StoreFailed, match="no complete answer in time"):
        put(client, s3_at(port), seconds=0.5)


@pytest.mark.parametrize("first", [b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n", b""])
def test_trouble_that_passes_is_met_with_a_second_try(client: StoreClient, first: bytes) -> None:
    requests_seen = []

    def answer(connection: socket.socket, number: int) -> None:
        requests_seen.append(read_request(connection))
        connection.sendall(first if number == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with running_raw_server(answer) as port:
        put(client, s3_at(port))
    assert len(requests_seen) == 2
    assert all(request.endswith(ITEM.content) for request in requests_seen)


def test_a_redirect_is_not_followed_and_tells_of_the_region(client: StoreClient) -> None:
    seen = []

    def answer(connection: socket.socket, number: int) -> None:
        seen.append(read_request(connection))
        where = f"http://127.0.0.1:{port}/elsewhere"
        connection.sendall(f"HTTP/1.1 307 X\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())

    with running_raw_server(answer) as port:
        expect_refusal(client, s3_at(port), "region", "is not the bucket's")
    assert not any(b"/elsewhere" in request for request in seen)


@pytest.mark.parametrize(("endpoint", "problem"), [
    ("http://127.0.0.1:{port}", "not a public address"),
    ("http://localhost:{port}", "not a public address"),
    ("http://2130706433:{port}", "not a public address"),
    ("http://[::ffff:127.0.0.1]:{port}", "not a public address"),
    ("http://169.254.169.254", "not a public address"),
])  # fmt: skip
def test_an_endpoint_in_our_own_network_is_not_called(endpoint: str, problem: str) -> None:
    seen = []
    with running_raw_server(lambda connection, number: seen.append(number)) as port:
        settings = replace(s3_at(port), endpoint=endpoint.format(port=port))
        guarded = make_client(TargetPolicy())
        with pytest.raises(InvalidField, match=problem) as caught:
            guarded.probe(settings)
        assert caught.value.field == "attachment_store.endpoint"
        with pytest.raises(StoreFailed, match=problem):
            put(guarded, settings)
    assert seen == []


@pytest.mark.parametrize(("endpoint", "problem"), [
    ("http://127.0.0.1:9", "connection was refused"),
    ("http://nowhere.invalid", "not in the DNS"),
])  # fmt: skip
def test_an_endpoint_that_is_not_there(client: StoreClient, endpoint: str, problem: str) -> None:
    expect_refusal(client, replace(s3_at(1), endpoint=endpoint), "endpoint", problem)


def test_our_own_credentials_are_never_lent(client: StoreClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's environment may hold keys for BLOB_URL; a customer's store has his own or none."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "OURS")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    seen = []

    def answer(connection: socket.socket, number: int) -> None:
        seen.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with running_raw_server(answer) as port:
        put(client, s3_at(port))
    assert b"Credential=AKIA/" in seen[0]
    assert b"OURS" not in seen[0]


# --- attachments of a mail ---


def make_storing(tmp_path: Path, database: Database, client: StoreClient) -> Storing:
    return Storing(Settings(data=tmp_path), database, client, system_clock)


def test_attachments_from_the_threshold_on_get_urls_that_stay(
    tmp_path: Path, database: Database, client: StoreClient, azure: AzureServer
) -> None:
    storing = make_storing(tmp_path, database, client)
    settings = azure.settings(bucket=azure.public_container, prefix="in")
    delivery_id, message = new_time_ordered_id(), parse_message(MESSAGE)
    big, small = message.attachments
    for threshold, stored in ((0, (True, True)), (3, (True, True)), (4, (True, False)), (5001, (False, False))):
        address = AddressSettings(attachment_store=settings, attachment_threshold=threshold)
        made = storing.attachments(message, delivery_id, address)
        assert tuple(attachment.url is not None for attachment in made.attachments) == stored
        assert [attachment.content for attachment in made.attachments] == [big.content, small.content]
    first, second = (
        storing.attachments(message, delivery_id, AddressSettings(attachment_store=settings)).attachments
        for _ in range(2)
    )
    assert [attachment.url for attachment in first] == [attachment.url for attachment in second]
    assert requests.get(str(first[0].url), timeout=20).content == big.content
    fetched = requests.get(str(first[1].url), timeout=20)
    assert fetched.headers["Content-Disposition"] == 'attachment; filename="small.csv"'
    secret = shared_secret(database, STORING_SECRET)
    assert str(first[1].url).endswith("/in/" + object_name(secret, delivery_id, "1", "small.csv"))


def test_without_a_store_a_message_stays_as_it_is(tmp_path: Path, database: Database, client: StoreClient) -> None:
    message = parse_message(MESSAGE)
    assert make_storing(tmp_path, database, client).attachments(message, "", AddressSettings()) is message


def test_a_whole_message(tmp_path: Path, database: Database, client: StoreClient, azure: AzureServer) -> None:
    storing = make_storing(tmp_path, database, client)
    settings = azure.settings(bucket=azure.public_container)
    url = storing.message(MESSAGE, "message/rfc822", "eml", new_time_ordered_id(), settings)
    assert url.endswith(".eml")
    fetched = requests.get(url, timeout=20)
    assert fetched.content == MESSAGE
    assert fetched.headers["Content-Type"] == "message/rfc822"


def test_many_attachments_on_a_hanging_store_wait_once_and_all_or_nothing(
    tmp_path: Path, database: Database, client: StoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inbound.storing.STORE_PATIENCE_S", 0.5)
    message = parse_message(MESSAGE)
    message = replace(message, attachments=message.attachments * 50)
    with running_raw_server(lambda connection, number: time.sleep(10)) as port:
        begun = time.monotonic()
        address = AddressSettings(attachment_store=s3_at(port))
        with pytest.raises(StoreFailed, match="in time"):
            make_storing(tmp_path, database, client).attachments(message, new_time_ordered_id(), address)
        assert time.monotonic() - begun < 2


def test_a_store_that_refuses_one_of_many_is_not_asked_for_all(
    tmp_path: Path, database: Database, client: StoreClient
) -> None:
    seen = []

    def refuse(connection: socket.socket, number: int) -> None:
        seen.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    message = parse_message(MESSAGE)
    message = replace(message, attachments=message.attachments * 200)
    storing = make_storing(tmp_path, database, client)
    with running_raw_server(refuse) as port:
        address = AddressSettings(attachment_store=s3_at(port))
        with pytest.raises(StoreFailed, match="not let in"):
            storing.attachments(message, new_time_ordered_id(), address)
    assert len(seen) < 200


def test_patience_fits_into_what_a_worker_may_lose() -> None:
    assert store_client.STORE_PATIENCE_S <= 20
