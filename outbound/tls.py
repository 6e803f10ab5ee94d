"""What is demanded of a TLS session with a mail host, and how secure one turned out to be."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH

MINIMUM_VERSION = ssl.TLSVersion.TLSv1_2
"""Where TLS is demanded: RFC 8461 section 4.2 and RFC 7672 section 2.1 by way of RFC 9325 section 3.1.1."""


class TlsLevel(Enum):
    """What the session that carried a mail was proof against."""

    NONE = "none"
    """In clear."""
    OPPORTUNISTIC = "opportunistic"
    """Encrypted to whoever answered: against those who only listen."""
    VERIFIED = "verified"
    """The certificate is valid for the host: a relay of ours that we log in to."""
    STS = "sts"
    """The certificate is valid for a host that the domain's MTA-STS policy allows."""
    DANE = "dane"
    """The certificate is one that the host's TLSA records name."""


@dataclass(frozen=True, slots=True)
class TlsaRecord:
    """Which certificate a host has (RFC 6698 section 2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TlsDemand:
    """What a session with one host must fulfil. Equal demands may share a connection."""

    level: TlsLevel
    """What the session has reached when it fulfils this."""
    is_required: bool
    """Whether the mail waits where this is not fulfilled; otherwise it goes with less."""
    reason: str = field(default="", compare=False)
    """Who demands it, for messages: `the MTA-STS policy of example.com`."""
    warning: str | None = field(default=None, compare=False)
    """What a policy in testing mode would have kept the mail for."""
    tlsa: tuple[TlsaRecord, ...] = ()
    """For `DANE`: one of them must match."""
    names: tuple[str, ...] = ()
    """For `DANE`: the names that a certificate under a trust anchor may be for; the first is said in SNI."""


WHATEVER_THERE_IS = TlsDemand(TlsLevel.OPPORTUNISTIC, is_required=False)
"""TLS with any certificate where it is offered, else none (RFC 7435)."""


class TlsContexts:
    """The settings of OpenSSL for each demand, made once. Safe for threads."""

    def __init__(self, ca_file: str | None = None) -> None:
        self._ca_file = ca_file
        self._opportunistic = _any_tls()
        self._encrypted = _encrypted_tls()
        self._checked: ssl.SSLContext | None = None

    def fit_for(self, demand: TlsDemand) -> ssl.SSLContext:
        """The context for a session with a mail host."""
        if demand.level in (TlsLevel.STS, TlsLevel.VERIFIED):
            return self.checked
        return self._encrypted if demand.is_required else self._opportunistic

    @property
    def checked(self) -> ssl.SSLContext:
        """Certificates must be valid for the name, from an authority that is trusted. Reading the roots takes tens of
        milliseconds, which only those who need them spend."""
        if self._checked is None:
            self._checked = _checked_tls(self._ca_file)
        return self._checked


def _any_tls() -> ssl.SSLContext:
    """TLS with whatever certificate and cipher the host has: the alternative is clear text (RFC 7435)."""
    context = _unchecked_tls()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def _encrypted_tls() -> ssl.SSLContext:
    context = _unchecked_tls()
    context.minimum_version = MINIMUM_VERSION
    return context


def _unchecked_tls() -> ssl.SSLContext:
    """OpenSSL checks no certificate: there is nothing to check it by, or DANE does that afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _checked_tls(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or (None if _has_system_roots() else DEFAULT_CA_BUNDLE_PATH))
    context.minimum_version = MINIMUM_VERSION
    context.hostname_checks_common_name = False  # RFC 8461 section 4.1: the subject alternative names count
    return context


def _has_system_roots() -> bool:
    """Whether this system has certificates of authorities; small containers do not, and mail must not wait for that."""
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None
    return bool(paths.cafile) or (folder is not None and any(folder.iterdir()))
