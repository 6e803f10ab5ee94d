"""Signatures: the vendors' published examples, and obstore's of the same request as a second opinion."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import obstore
import pytest
from obstore.store import GCSStore, S3Store

from core.store_signing import AwsKey, GoogleKey, host_header, read_rsa_key, signed_headers, signed_url
from tests.object_servers import service_account_key

EXAMPLE = AwsKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
EXAMPLE_DATE = datetime(2013, 5, 24, tzinfo=UTC)
"""Of AWS's "Examples: Signature Calculations"."""
HARD_NAMES = ["mail/20260101/00ff.pdf", "a b/ü+%/x~y/(1)!*'.txt", "日本/x=1&y"]


def test_the_example_of_a_signed_upload() -> None:
    url = "https://examplebucket.s3.amazonaws.com/test%24file.text"
    given = {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
    made = signed_headers(EXAMPLE, "PUT", url, given, b"Welcome to Amazon S3.", EXAMPLE_DATE)
    assert made["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class, "
        "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )


def test_the_example_of_a_signed_url() -> None:
    url = signed_url(EXAMPLE, "GET", "https://examplebucket.s3.amazonaws.com/test.txt", {}, 86400, EXAMPLE_DATE)
    assert url.endswith("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


@pytest.mark.parametrize("name", HARD_NAMES)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_obstore_signs_an_s3_url_alike(method: Any, name: str) -> None:
    endpoint = "http://127.0.0.1:9000"
    store = S3Store(
        "bucket", endpoint=endpoint, region="eu-central-1", access_key_id="AKIA", secret_access_key="se/cr+et",
        client_options={"allow_http": True},
    )  # fmt: skip
    theirs = urlsplit(obstore.sign(store, method, name, timedelta(seconds=600)))
    moment = _moment(theirs.query, "X-Amz-Date")
    bare = f"{endpoint}{theirs.path}"
    ours = urlsplit(signed_url(AwsKey("AKIA", "se/cr+et", "eu-central-1"), method, bare, {}, 600, moment))
    assert parse_qs(ours.query) == parse_qs(theirs.query)


def test_obstore_signs_a_google_url_alike(tmp_path: Path) -> None:
    account, _ = service_account_key()
    (tmp_path / "key.json").write_text(json.dumps(account))
    store = GCSStore("bucket", service_account=str(tmp_path / "key.json"))
    theirs = urlsplit(obstore.sign(store, "GET", HARD_NAMES[0], timedelta(seconds=600)))
    key = GoogleKey(account["client_email"], account["private_key"])
    bare = f"https://{theirs.netloc}{theirs.path}"
    ours = urlsplit(signed_url(key, "GET", bare, {}, 600, _moment(theirs.query, "X-Goog-Date")))
    assert parse_qs(ours.query) == parse_qs(theirs.query)


def _moment(query: str, name: str) -> datetime:
    return datetime.strptime(parse_qs(query)[name][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://h.example/x", "h.example"),
        ("https://h.example:443/x", "h.example"),
        ("http://h.example:443/x", "h.example:443"),
        ("http://[::1]:80/x", "[::1]"),
        ("http://[::1]:9000/x", "[::1]:9000"),
    ],
)
def test_the_host_is_signed_as_it_is_sent(url: str, host: str) -> None:
    assert host_header(url) == host


def test_what_is_no_rsa_key_is_refused_without_a_word_of_it() -> None:
    for text in ("", "secret", "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----"):
        with pytest.raises(ValueError, match="not a private key") as caught:
            read_rsa_key(text)
        assert "secret" not in str(caught.value)
