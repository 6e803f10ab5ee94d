"""Standard Webhooks signatures (https://www.standardwebhooks.com, "Signature scheme", symmetric).

Written here, not taken from the `standardwebhooks` package, because that signs text only and a multipart payload
holds arbitrary bytes; the package verifies ours in the tests.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from core.errors import InvalidField
from core.ids import SIGNING_SECRET_PREFIX


def decode_secret(secret: str) -> bytes:
    """The key behind a `whsec_…` secret. Raises `InvalidField` when it is not one."""
    try:
        return base64.b64decode(secret.removeprefix(SIGNING_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidField("secret", "must be `whsec_` followed by base64") from error


def signature_headers(
    secret: str, delivery_id: str, timestamp_s: int, body: bytes, previous_secret: str | None = None
) -> dict[str, str]:
    """The three headers a receiver verifies: id (stable over retries and replays), time, signature.

    While a secret is being replaced there are two signatures: receivers that know either are content.
    """
    signed = b".".join((delivery_id.encode(), str(timestamp_s).encode(), body))
    signatures = [_signature(secret, signed)]
    if previous_secret is not None:
        signatures.append(_signature(previous_secret, signed))
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(signatures),
    }


def _signature(secret: str, signed: bytes) -> str:
    digest = hmac.new(decode_secret(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
