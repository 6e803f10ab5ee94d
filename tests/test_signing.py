"""Signatures: the vectors of the specification, its own package as verifier, and arbitrary bytes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from core.errors import InvalidField
from core.ids import new_signing_secret
from core.signing import decode_secret, signature_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def now_s() -> int:
    return int(datetime.now(UTC).timestamp())


def test_the_published_example_gives_the_published_signature() -> None:
    headers = signature_headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_the_package_of_the_specification_verifies_what_we_sign(text: str) -> None:
    secret = new_signing_secret()
    body = json.dumps({"text": text}).encode()
    assert Webhook(secret).verify(body, signature_headers(secret, "id", now_s(), body))


@given(st.binary(max_size=500))
def test_any_bytes_can_be_signed(body: bytes) -> None:
    headers = signature_headers(SECRET, "id", 1_790_000_000, body)
    expected = hmac.new(decode_secret(SECRET), b"id.1790000000." + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()


def test_while_a_secret_is_replaced_receivers_that_know_either_are_content() -> None:
    old, new, other = (new_signing_secret() for _ in range(3))
    headers = signature_headers(new, "id-1", now_s(), b"{}", old)
    assert Webhook(new).verify(b"{}", headers) == Webhook(old).verify(b"{}", headers) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(b"{}", headers)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body", "secret"])
def test_a_change_of_anything_signed_is_noticed(changed: str) -> None:
    body = b'{"a": 1}'
    headers = signature_headers(SECRET, "id", now_s(), body)
    if changed == "body":
        body = b'{"a": 2}'
    elif changed != "secret":
        headers[changed] = str(now_s() + 1)
    secret = new_signing_secret() if changed == "secret" else SECRET
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)


def test_an_old_signature_is_refused_by_the_receiver() -> None:
    old = int((datetime.now(UTC) - timedelta(minutes=6)).timestamp())
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(SECRET).verify(b"{}", signature_headers(SECRET, "id", old, b"{}"))


@pytest.mark.parametrize("secret", ["whsec_not base64!", "whsec_YWJj=YWJj", "whsec_ü"])
def test_a_secret_that_is_none_names_its_field(secret: str) -> None:
    with pytest.raises(InvalidField, match=r"secret: must be `whsec_`"):
        decode_secret(secret)
