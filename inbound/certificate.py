"""The certificate for STARTTLS: the configured one, or a self-signed one made once.

Senders use TLS opportunistically and do not check the name (RFC 3207 section 4.1), so a self-signed certificate
already protects against those who only listen.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core.config import Settings
from core.errors import ConfigurationError

VALIDITY = timedelta(days=3650)
CLOCK_SKEW = timedelta(days=1)


def tls_context(settings: Settings) -> ssl.SSLContext:
    """A server context. Raises `ConfigurationError` naming the setting that is wrong."""
    certificate, key = _files(settings)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"PILLARBOX_TLS_CERT / PILLARBOX_TLS_KEY: cannot be loaded ({error})") from error
    return context


def ensure_certificate(settings: Settings) -> None:
    """Make the self-signed certificate, unless there is one or another is configured."""
    certificate, key = _files(settings)
    if not settings.tls_cert and not (certificate.exists() and key.exists()):
        _make(settings.mx_hostname, certificate, key)


def _files(settings: Settings) -> tuple[Path, Path]:
    if settings.tls_cert:
        return Path(settings.tls_cert), Path(settings.tls_key)
    return settings.data / "smtp-certificate.pem", settings.data / "smtp-key.pem"


def _make(hostname: str, certificate_path: Path, key_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
