"""The settings of a store: each mistake names its field, no secret is repeated, refusals are put in words."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from core.clock import to_datetime
from core.errors import InvalidField
from core.object_stores import StoredObject, clean_content_type, content_disposition, object_name, open_store
from core.store_checks import validate_store
from core.store_refusals import Refusal, explain, read_refusal
from core.store_settings import StoreKind, StoreSettings
from tests.conftest import NOW_MS
from tests.object_servers import service_account_key

ACCOUNT, _KEY = service_account_key()
S3 = StoreSettings(
    StoreKind.S3, bucket="my-bucket", region="eu-central-1", access_key_id="AKIA", secret_access_key="SECRET"
)
AZURE = StoreSettings(StoreKind.AZURE, bucket="mail", account="myaccount", sas="sv=1&sig=SECRET")
AZURE_KEY = replace(AZURE, sas="", account_key="U0VDUkVU")
GCS = StoreSettings(StoreKind.GCS, bucket="my-bucket", service_account=json.dumps(ACCOUNT))
BUILT_IN = StoreSettings(StoreKind.BUILT_IN)
NOW = to_datetime(NOW_MS)
DELIVERY = "0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90"
"""Made on 2025-08-23."""


@pytest.mark.parametrize("settings", [
    S3, AZURE, AZURE_KEY, GCS, BUILT_IN,
    replace(S3, region="", endpoint="https://minio.example.com:9000/base/"),
    replace(S3, prefix="mail/in 日本", acl="bucket-owner-full-control", url_lifetime_s=604800),
    replace(AZURE, bucket="$root"), replace(AZURE, account="", endpoint="http://127.0.0.1:10000/devstoreaccount1"),
    replace(AZURE_KEY, url_lifetime_s=60), replace(GCS, acl="project-private"),
])  # fmt: skip
def test_good_settings_pass(settings: StoreSettings) -> None:
    validate_store(settings)


@pytest.mark.parametrize(("settings", "field", "problem"), [
    (replace(S3, bucket=""), "bucket", "is required"),
    (replace(S3, bucket="a/../b"), "bucket", "is not a bucket's name"),
    (replace(S3, bucket="x" * 300), "bucket", "is not a bucket's name"),
    (replace(S3, region=""), "region", "is required"),
    (replace(S3, region="evil.example/"), "region", "is not a region"),
    (replace(S3, access_key_id=""), "access_key_id", "is required"),
    (replace(S3, access_key_id="A\r\nX-Evil: 1"), "access_key_id", "is not an access key"),
    (replace(S3, secret_access_key="SEC\nRET"), "secret_access_key", "is not a secret"),
    (replace(S3, acl="everyone"), "acl", "is none of"),
    (replace(S3, prefix="/a"), "prefix", "single slashes"),
    (replace(S3, prefix="a/../../b"), "prefix", "neither"),
    (replace(S3, prefix="a\nb"), "prefix", "control"),
    (replace(S3, prefix="a\u202eb"), "prefix", "invisible"),
    (replace(S3, prefix="日" * 100), "prefix", "longer than 200 bytes"),
    (replace(S3, endpoint="ftp://x"), "endpoint", "http://"),
    (replace(S3, endpoint="https://user:SECRET@x.example"), "endpoint", "scheme, host, port"),
    (replace(S3, endpoint="https://x.example/?a=1"), "endpoint", "scheme, host, port"),
    (replace(S3, endpoint="https://x.example/a/../b"), "endpoint", "dotted"),
    (replace(S3, url_lifetime_s=604801), "url_lifetime_s", "60 to 604800"),
    (replace(S3, url_lifetime_s=0), "url_lifetime_s", "60 to 604800"),
    (replace(S3, sas="sig=SECRET"), "sas", "is not used by a store of kind s3"),
    (replace(AZURE, bucket="UPPER"), "bucket", "is not a container's name"),
    (replace(AZURE, account=""), "account", "is required"),
    (replace(AZURE, account="evil.example/x"), "account", "is not a storage account"),
    (replace(AZURE, sas=""), "sas", "is required"),
    (replace(AZURE, sas="SECRET"), "sas", "has no `sig=`"),
    (replace(AZURE, account_key="U0VDUkVU"), "sas", "one of the two"),
    (replace(AZURE_KEY, account_key="not base64 SECRET"), "account_key", "base64"),
    (replace(AZURE, url_lifetime_s=600), "url_lifetime_s", "needs account_key"),
    (replace(AZURE, acl="private"), "acl", "is not used"),
    (replace(GCS, service_account="SECRET"), "service_account", "is not the JSON key"),
    (replace(GCS, service_account='["client_email"]'), "service_account", "is not the JSON key"),
    (replace(GCS, service_account='{"client_email":"a@b","private_key":"SECRET"}'), "service_account", "PEM form"),
    (replace(GCS, service_account='{"client_email":"a@b","private_key":7}'), "service_account", "PEM form"),
    (replace(GCS, service_account='{"client_email":"a b","private_key":"SECRET"}'), "service_account", "mail address"),
    (replace(GCS, service_account="x" * 20_000), "service_account", "longer than"),
    (replace(GCS, acl="bucket-owner-full"), "acl", "is none of"),
    (replace(BUILT_IN, bucket="x"), "bucket", "is not used by a store of kind built_in"),
    (replace(BUILT_IN, url_lifetime_s=600), "url_lifetime_s", "is not used"),
])  # fmt: skip
def test_a_mistake_names_its_field_and_repeats_no_secret(settings: StoreSettings, field: str, problem: str) -> None:
    with pytest.raises(InvalidField, match=re.escape(problem)) as caught:
        validate_store(settings, "message_store")
    assert caught.value.field == f"message_store.{field}"
    assert "SECRET" not in str(caught.value)
    assert "U0VDUkVU" not in str(caught.value)


@pytest.mark.parametrize(("settings", "url"), [
    (S3, "https://my-bucket.s3.eu-central-1.amazonaws.com/d/n"),
    (replace(S3, bucket="my.bucket"), "https://s3.eu-central-1.amazonaws.com/my.bucket/d/n"),
    (replace(S3, region="cn-north-1"), "https://my-bucket.s3.cn-north-1.amazonaws.com.cn/d/n"),
    (replace(S3, endpoint="https://m.example:9000/"), "https://m.example:9000/my-bucket/d/n"),
    (replace(S3, prefix="a b/ü+~"), "https://my-bucket.s3.eu-central-1.amazonaws.com/a%20b/%C3%BC%2B~/d/n"),
    (AZURE, "https://myaccount.blob.core.windows.net/mail/d/n"),
    (replace(AZURE, bucket="$web"), "https://myaccount.blob.core.windows.net/$web/d/n"),
    (GCS, "https://storage.googleapis.com/my-bucket/d/n"),
])  # fmt: skip
def test_plain_urls(settings: StoreSettings, url: str) -> None:
    assert open_store(settings).url("d/n", NOW) == url


def test_names_are_stable_secret_and_sorted_by_the_day_of_the_delivery() -> None:
    name = object_name(b"secret", DELIVERY, "0", "report.PDF")
    assert re.fullmatch(r"20250823/[0-9a-f]{32}\.pdf", name)
    assert name == object_name(b"secret", DELIVERY, "0", "report.PDF")
    others = [
        object_name(b"secret", DELIVERY, "1", "report.PDF"),
        object_name(b"other", DELIVERY, "0", "report.PDF"),
        object_name(b"secret", DELIVERY.replace("b90", "b91"), "0", "report.PDF"),
    ]
    assert len({name, *others}) == 4


@pytest.mark.parametrize("file_name", [
    "../../etc/passwd", "a.p/df", "x.ü", "x." + "a" * 11, "noextension", "x.", "x. pdf", "x.%2e", "\x00.\x00",
])  # fmt: skip
def test_a_hostile_file_name_gives_no_more_than_digits(file_name: str) -> None:
    assert re.fullmatch(r"20250823/[0-9a-f]{32}", object_name(b"secret", DELIVERY, "0", file_name))


@pytest.mark.parametrize(("file_name", "header"), [
    ("report.pdf", 'attachment; filename="report.pdf"'),
    ("Ä.pdf", "attachment; filename=\"_.pdf\"; filename*=UTF-8''%C3%84.pdf"),
    ('a"\r\nX: y.pdf', "attachment; filename=\"a___X_ y.pdf\"; filename*=UTF-8''a%22%0D%0AX%3A%20y.pdf"),
    ("\udcff;=%.txt", "attachment; filename=\"____.txt\"; filename*=UTF-8''%3F%3B%3D%25.txt"),
])  # fmt: skip
def test_a_download_keeps_its_name_and_no_header_is_injected(file_name: str, header: str) -> None:
    assert content_disposition(file_name) == header
    assert header.isascii()


@pytest.mark.parametrize(("declared", "stored"), [
    ("application/pdf", "application/pdf"),
    ("text/calendar; method=REQUEST", "text/calendar; method=REQUEST"),
    ("application/vnd.openxmlformats-officedocument.wordprocessingml.document",) * 2,
    ("text/html\r\nX-Evil: 1", "application/octet-stream"),
    ("text/ht\nml", "application/octet-stream"),
    ("", "application/octet-stream"),
    ("x" * 500 + "/y", "application/octet-stream"),
])  # fmt: skip
def test_a_type_that_is_none_is_octets(declared: str, stored: str) -> None:
    assert clean_content_type(declared) == stored
    assert StoredObject("n", b"", declared, "n").headers["Content-Type"] == stored


def test_the_customers_sas_token_is_in_no_url_that_is_given_out() -> None:
    assert "sig" not in open_store(AZURE).url("n", NOW)


@pytest.mark.parametrize(("settings", "refusal", "field", "problem"), [
    (S3, Refusal(404, "NoSuchBucket"), "bucket", "no such bucket"),
    (S3, Refusal(403, "AccessDenied"), "access_key_id", "s3:PutObject"),
    (S3, Refusal(400, "AuthorizationHeaderMalformed", "us-west-2"), "region", "that is us-west-2"),
    (replace(S3, region="", endpoint="https://x.example"), Refusal(301, "PermanentRedirect"), "endpoint", "elsewhere"),
    (S3, Refusal(400, "AccessControlListNotSupported"), "acl", "takes no ACLs"),
    (S3, Refusal(403, "RequestTimeTooSkewed"), "", "clock"),
    (S3, Refusal(307), "region", "is not the bucket's"),
    (S3, Refusal(503, "SlowDown"), "", "try again later"),
    (S3, Refusal(403), "access_key_id", "not let in"),
    (S3, Refusal(418), "", "did not take"),
    (AZURE, Refusal(403, "AuthenticationFailed"), "sas", "expired"),
    (AZURE_KEY, Refusal(403, "AuthenticationFailed"), "account_key", "not valid"),
    (AZURE, Refusal(404), "bucket", "nothing of that name"),
    (GCS, Refusal(403, "SignatureDoesNotMatch"), "service_account", "its key"),
    (GCS, Refusal(302), "endpoint", "leads elsewhere"),
])  # fmt: skip
def test_a_refusal_in_words(settings: StoreSettings, refusal: Refusal, field: str, problem: str) -> None:
    found, text = explain(settings, refusal)
    assert (found, problem in text) == (field, True), text
    assert f"answered {refusal.status}" in text


def test_of_an_answer_only_what_looks_like_a_code_is_shown() -> None:
    body = b"<Error><Code>NoSuchBucket</Code><Message>root:x:0:0</Message><Region>eu-west-1</Region></Error>"
    assert read_refusal(404, None, body) == Refusal(404, "NoSuchBucket", "eu-west-1")
    assert read_refusal(403, "AuthenticationFailed", b"") == Refusal(403, "AuthenticationFailed")
    assert read_refusal(403, "a secret of\tours", b"<Code>no code & all</Code>") == Refusal(403)
