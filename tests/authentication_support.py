"""Signed mail and the zones that go with it; signing is dkimpy's, which is not what verifies."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from functools import cache

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from core.config import Settings
from core.dns_lookup import DnsLookup, LookupBudget
from core.mx_check import make_resolver
from core.verdicts import DkimVerdict, Verdicts
from inbound.authentication import Authenticator, ClientFacts
from inbound.authentication.dkim import check_dkim
from inbound.authentication.header_fields import view_message
from tests.authentication_zones import ZoneServer
from tests.conftest import NOW_MS

SIGNER = "signer.example"
CLIENT_IP = "192.0.2.10"
MAIL = (
    b"From: Alice <alice@signer.example>\r\n"
    b"To: bob@pillarbox.test\r\n"
    b"Subject: A  test of\r\n\tfolding\r\n"
    b"Date: Mon, 21 Sep 2026 10:00:00 +0000\r\n"
    b"Message-ID: <1@signer.example>\r\n"
    b"\r\n"
    b"Hello  Bob, \r\n\r\nthis is\ta test.\r\n\r\n\r\n"
)


@dataclass(frozen=True)
class Key:
    """A private key as dkimpy takes it, and the record that publishes it."""

    private: bytes
    record: str
    algorithm: bytes = b"rsa-sha256"


@cache
def rsa_key(bits: int = 2048) -> Key:
    """An RSA key; the same one each time."""
    private = rsa.generate_private_key(65537, bits)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Key(pem, f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}")


@cache
def ed25519_key() -> Key:
    """An Ed25519 key; the same one each time."""
    private = ed25519.Ed25519PrivateKey.generate()
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    return Key(
        base64.b64encode(private.private_bytes_raw()), f"v=DKIM1; k=ed25519; p={public}", algorithm=b"ed25519-sha256"
    )


@dataclass
class Signing:
    """How to sign; the defaults are what most senders do."""

    domain: str = SIGNER
    selector: str = "s1"
    key: Key = field(default_factory=rsa_key)
    form: tuple[bytes, bytes] = (b"relaxed", b"relaxed")
    length: bool = False
    headers: tuple[bytes, ...] | None = None


def sign(message: bytes, how: Signing | None = None) -> bytes:
    """The message with one more signature on top."""
    how = how or Signing()
    signer = dkim.DKIM(message, signature_algorithm=how.key.algorithm)
    signer.should_not_sign = set()  # tests sign what dkimpy advises against
    header = signer.sign(
        how.selector.encode(),
        how.domain.encode(),
        how.key.private,
        canonicalize=how.form,
        include_headers=how.headers,
        length=how.length,
    )
    return bytes(header) + message


def publish(zones: ZoneServer, how: Signing | None = None) -> None:
    """Put the key of a signing into the DNS."""
    how = how or Signing()
    zones.add(f"{how.selector}._domainkey.{how.domain}", "TXT", how.key.record)


def lookup_at(zones: ZoneServer, query_timeout_s: float = 2.0) -> DnsLookup:
    """A fresh client of the test's DNS server."""
    return DnsLookup(make_resolver(f"127.0.0.1:{zones.port}"), query_timeout_s=query_timeout_s)


def verify(zones: ZoneServer, message: bytes, now_ms: int = NOW_MS, query_timeout_s: float = 2.0) -> DkimVerdict:
    """What DKIM makes of a message."""
    return check_dkim(view_message(message), lookup_at(zones, query_timeout_s), LookupBudget(10), now_ms // 1000)


def authenticate(
    zones: ZoneServer, message: bytes, client: ClientFacts | None = None, settings: Settings | None = None
) -> Verdicts:
    """What all checks make of a message."""
    settings = settings or Settings()
    client = client or ClientFacts(CLIENT_IP, "mail.signer.example", "alice@signer.example")
    return Authenticator(settings, lookup_at(zones), lambda: NOW_MS).check(message, client)


def seal(message: bytes, domain: str, results: str, chain: str, key: Key | None = None) -> bytes:
    """The message with one more ARC set on top; `results` is what the sealer found, `chain` what it made of the sets
    that were there: `none` for the first, then `pass` or `fail`."""
    noted = f"Authentication-Results: {domain}; {results}; arc={chain}\r\n".encode() + message
    added = dkim.arc_sign(noted, b"arc", domain.encode(), (key or rsa_key()).private, domain.encode())
    assert added, "dkimpy did not seal"
    return b"".join(line if line.endswith(b"\r\n") else line + b"\r\n" for line in added) + noted


def publish_sealer(zones: ZoneServer, domain: str, key: Key | None = None) -> None:
    """Put the key of `seal` into the DNS."""
    zones.add(f"arc._domainkey.{domain}", "TXT", (key or rsa_key()).record)
