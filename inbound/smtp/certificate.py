"""The certificate for STARTTLS: the configured one, or a self-signed one made once.

Senders use TLS opportunistically and do not check the name (RFC 3207 section 4.1), so a self-signed certificate
already protects against those who only listen.
"""

from __future__ import annotations

import fcntl
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core.config import Settings
from core.errors import ConfigurationError
from core.store.blobs import sync_to_disk

VALIDITY = timedelta(days=3650)
CLOCK_SKEW = timedelta(days=1)
PRIVATE_FILE_MODE = 0o600


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
    """Make the self-signed certificate, unless there is one or another is configured.

    Whoever is killed on the way, or starts at the same moment: a certificate is there only with the key it belongs to.
    """
    certificate, key = _files(settings)
    if settings.tls_cert or (certificate.exists() and key.exists()):
        return
    with _locked(certificate.with_suffix(".lock")):
        if not (certificate.exists() and key.exists()):
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
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate_path.unlink(missing_ok=True)  # it belongs to a key that is lost
    _write(key_path, pem)
    _write(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))


def _write(path: Path, data: bytes) -> None:
    """Put a private file in its place: whole, or not at all."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE_MODE), "wb") as file:
        file.write(data)
    sync_to_disk(unfinished)
    unfinished.replace(path)
    sync_to_disk(path.parent)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel lets go of it when we end, however we end."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
