"""Certificate authorities for tests: roots, intermediates, and hosts' certificates with whatever is wrong with them."""

from __future__ import annotations

import ipaddress
import itertools
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tests.raw_server import Certificate

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, its key, and what a host shows with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[x509.Certificate, ...] = ()
    """Issuers that are shown too, the nearest first."""
    is_plain: bool = False

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def public_key(self) -> bytes:
        """What selector 1 of TLSA records means."""
        return self.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def save(self, folder: Path) -> Certificate:
        """Write files for a server: the chain and the key."""
        stem = folder / f"issued{next(_numbers)}"
        saved = Certificate(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        saved.path.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.above)))
        saved.key_path.write_bytes(
            self.key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return saved

    def context(self, folder: Path) -> ssl.SSLContext:
        """For a server that shows it."""
        saved = self.save(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(saved.path, saved.key_path)
        return context


def make_root(name: str = "Test Root", is_plain: bool = False) -> Issued:
    """A root, which signs itself. A plain one lacks what authorities of the public web must have (key usage, key
    identifiers), as private ones often do, and so does what it issues."""
    return _make(name, (), None, is_authority=True, is_plain=is_plain)


def issue(
    issuer: Issued | None, *names: str, days: tuple[int, int] = (-1, 1), is_authority: bool = False, show: bool = False
) -> Issued:
    """A certificate for these host names or addresses, valid between these days from now; without an issuer it is
    self-signed.

    `show` has the host show its issuer too.
    """
    return _make(names[0], names, issuer, days, is_authority, show, issuer is not None and issuer.is_plain)


def _make(
    common_name: str,
    names: tuple[str, ...],
    issuer: Issued | None,
    days: tuple[int, int] = (-1, 1),
    is_authority: bool = False,
    show: bool = False,
    is_plain: bool = False,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if names and not is_authority:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
    if not is_plain:
        builder = _with_identifiers(builder, key, key if issuer is None else issuer.key, is_authority)
    made = builder.sign(key if issuer is None else issuer.key, hashes.SHA256())
    above = (issuer.certificate, *issuer.above) if issuer is not None and show else ()
    return Issued(made, key, above, is_plain)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _with_identifiers(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    is_authority: bool,
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=is_authority, crl_sign=is_authority, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
    return (
        builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(usage, critical=True)
    )
