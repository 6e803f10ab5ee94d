"""Signatures that object stores verify: version 4 of S3 and of Google's XML API, and Azure's service SAS.

obstore could sign the most of it, but not a canned ACL (S3 wants that header under the signature), it reads credentials
of ours from the environment where a customer's are not complete, and it resolves names after any check of ours. So
customers' stores are called by our guarded client, with what is signed here; the tests hold it against obstore's.

Sources: AWS "Authenticating Requests (AWS Signature Version 4)", Google "V4 signing process with your own program",
Microsoft "Create a service SAS" (version 2020-12-06 and later).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
DEFAULT_PORTS = {"http": 80, "https": 443}
AZURE_VERSION = "2021-08-06"
CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of Azure's clock ours may be: a SAS counts from so much earlier on."""
MAX_RSA_BITS = 8192
"""Google's keys have 2048; the time of a signature grows with the cube."""


class V4Key(Protocol):
    """Who signs, and how: the two dialects of version 4 differ in nothing else."""

    @property
    def algorithm(self) -> str:
        """First line of what is signed."""

    @property
    def header_prefix(self) -> str:
        """`X-Amz-` or `X-Goog-`."""

    @property
    def key_id(self) -> str:
        """Whose signature it is."""

    def scope(self, day: str) -> str:
        """What the signature is good for, on a day written `YYYYMMDD`."""

    def sign(self, day: str, text: bytes) -> str:
        """The signature, hex."""


@dataclass(frozen=True, slots=True)
class AwsKey:
    """An access key of S3 or of a service compatible with it."""

    key_id: str
    secret: str
    region: str
    algorithm: str = "AWS4-HMAC-SHA256"
    header_prefix: str = "X-Amz-"

    def scope(self, day: str) -> str:
        """Day, region and service."""
        return f"{day}/{self.region}/s3/aws4_request"

    def sign(self, day: str, text: bytes) -> str:
        """HMAC with a key derived for the scope."""
        key = f"AWS4{self.secret}".encode()
        for step in self.scope(day).split("/"):
            key = hmac.digest(key, step.encode(), hashlib.sha256)
        return hmac.digest(key, text, hashlib.sha256).hex()


@dataclass(frozen=True, slots=True)
class GoogleKey:
    """The private key of a Google service account."""

    key_id: str
    """Its mail address."""
    private_key: str
    """PEM."""
    algorithm: str = "GOOG4-RSA-SHA256"
    header_prefix: str = "X-Goog-"

    def scope(self, day: str) -> str:
        """Day and service; Google knows by itself where a bucket is."""
        return f"{day}/auto/storage/goog4_request"

    def sign(self, day: str, text: bytes) -> str:
        """RSA, PKCS #1 v1.5."""
        return read_rsa_key(self.private_key).sign(text, padding.PKCS1v15(), hashes.SHA256()).hex()


@lru_cache(maxsize=256)
def read_rsa_key(pem: str) -> rsa.RSAPrivateKey:
    """Read a private key. Raises `ValueError` when it is none, or of another kind."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except Exception as error:  # cryptography raises TypeError, ValueError and its own UnsupportedAlgorithm
        raise ValueError("not a private key in PEM form") from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size > MAX_RSA_BITS:
        raise ValueError("not an RSA key of usual size")
    return key


def host_header(url: str) -> str:
    """What an HTTP client sends as Host for a URL: the port only when it is not the scheme's own."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return host if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else f"{host}:{parts.port}"


def signed_headers(
    key: V4Key, method: str, url: str, headers: Mapping[str, str], body: bytes, now: datetime
) -> dict[str, str]:
    """These headers, and those that authorize the request; the body is under the signature too."""
    stamp = _stamp(now)
    digest = hashlib.sha256(body).hexdigest()
    prefix = key.header_prefix.lower()
    every = {**headers, f"{prefix}date": stamp, f"{prefix}content-sha256": digest}
    names, canonical = _canonical_headers({**every, "host": host_header(url)})
    signature = _signature(key, stamp, (method, urlsplit(url).path, urlsplit(url).query, canonical, names, digest))
    credential = f"{key.key_id}/{key.scope(stamp[:8])}"
    authorization = f"{key.algorithm} Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return {**every, "Authorization": authorization}


def signed_url(key: V4Key, method: str, url: str, headers: Mapping[str, str], lifetime_s: int, now: datetime) -> str:
    """The URL with a signature in its query string. The request must carry exactly these headers, if any."""
    stamp = _stamp(now)
    names, canonical = _canonical_headers({**headers, "host": host_header(url)})
    values = {
        "Algorithm": key.algorithm,
        "Credential": f"{key.key_id}/{key.scope(stamp[:8])}",
        "Date": stamp,
        "Expires": str(lifetime_s),
        "SignedHeaders": names,
    }
    query = urlencode({key.header_prefix + name: values[name] for name in sorted(values)}, quote_via=quote, safe="~")
    signature = _signature(key, stamp, (method, urlsplit(url).path, query, canonical, names, UNSIGNED_PAYLOAD))
    return f"{url}?{query}&{key.header_prefix}Signature={signature}"


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def _canonical_headers(headers: Mapping[str, str]) -> tuple[str, str]:
    """Names, and lines of them; runs of spaces count as one."""
    lowered = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = sorted(lowered)
    return ";".join(names), "".join(f"{name}:{lowered[name]}\n" for name in names)


def _signature(key: V4Key, stamp: str, request: tuple[str, str, str, str, str, str]) -> str:
    digest = hashlib.sha256("\n".join(request).encode()).hexdigest()
    return key.sign(stamp[:8], "\n".join((key.algorithm, stamp, key.scope(stamp[:8]), digest)).encode())


@dataclass(frozen=True, slots=True)
class AzureKey:
    """The key of an Azure storage account."""

    account: str
    secret: str
    """Base64."""

    def blob_sas(self, container: str, blob: str, permissions: str, lifetime_s: int, now: datetime) -> str:
        """A SAS token for one blob. Permissions are letters in the order Azure wants: `r`, `cw`, `d`."""
        start, expiry = (_azure_time(moment) for moment in (now - CLOCK_SKEW, now + timedelta(seconds=lifetime_s)))
        resource = f"/blob/{self.account}/{container}/{blob}"
        # Permissions, start, expiry, resource, identifier, IP, protocol, version, kind, snapshot, encryption scope,
        # and five headers that an answer could be made to carry.
        lines = (permissions, start, expiry, resource, "", "", "", AZURE_VERSION, "b", "", "", *[""] * 5)
        key = base64.b64decode(self.secret)
        signature = base64.b64encode(hmac.digest(key, "\n".join(lines).encode(), hashlib.sha256)).decode()
        return urlencode(
            {"sv": AZURE_VERSION, "st": start, "se": expiry, "sr": "b", "sp": permissions, "sig": signature}
        )


def _azure_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
