"""DANE for SMTP: the certificates of mail hosts, as their TLSA records name them (RFC 6698, RFC 7671, RFC 7672).

All rests on a resolver that validates DNSSEC and says so with the AD flag, over a path where nobody else can say it:
on this machine, or where the operator vouches for it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from core.dns_lookup import EDNS_PAYLOAD_BYTES
from core.errors import ConfigurationError
from core.mx_check import TOTAL_TIMEOUT_S
from core.setting_values import read_switch
from outbound.hosts import HostAddress
from outbound.timing import Deadline
from outbound.tls import TlsaRecord

DNSSEC_SETTING = "PILLARBOX_DNSSEC"
AUTO = "auto"
TRUST_ANCHOR, END_ENTITY = 2, 3
"""DANE-TA and DANE-EE; the other usages have no meaning for SMTP (RFC 7672 section 3.1.3)."""
WHOLE_CERTIFICATE, PUBLIC_KEY = 0, 1
EXACT = 0
_DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}
MAX_RECORDS = 20
"""TLSA records of one host that are looked at; two or four are usual."""
MAX_CHAIN = 10
"""Certificates of one host that are looked at."""
_VERSION_TAG = 0xA0
_FIELDS_BEFORE_KEY = 5
"""Serial number, signature algorithm, issuer, validity and subject (RFC 5280 section 4.1)."""
_CONTAINER_DNS = ipaddress.ip_address("127.0.0.11")
"""Container engines answer here with what a server elsewhere said: on loopback, but no resolver that validates."""


class TlsaUnknown(Exception):
    """It could not be found out whether a host has TLSA records: mail must not go there (RFC 7672 section 2.1.1)."""


class CertificateRejected(Exception):
    """What a host showed is not what its TLSA records name."""


class Dane:
    """Finds TLSA records. Safe for threads."""

    def __init__(self, resolver: dns.resolver.Resolver) -> None:
        """The resolver is one that may be believed, see `believes_dnssec`."""
        self._resolver = resolver

    def find(self, place: HostAddress, deadline: Deadline) -> tuple[str, tuple[TlsaRecord, ...]] | None:
        """The name under which the host has TLSA records, and these, of whatever kind; None when it has none that
        DNSSEC vouches for. Raises `TlsaUnknown`.

        Only hosts with an authentic address are asked about: the servers of others may be broken enough to fail at
        such questions (RFC 7672 section 2.2.2).
        """
        if not place.is_authentic:
            return None
        for name in filter(None, (place.canonical, place.host)):
            records = self._ask(f"_{place.port}._tcp.{name}", deadline)
            if records:
                return name, records
        return None

    def _ask(self, name: str, deadline: Deadline) -> tuple[TlsaRecord, ...]:
        lifetime = min(TOTAL_TIMEOUT_S, deadline.remaining)
        try:
            answer = self._resolver.resolve(
                dns.name.from_text(name), dns.rdatatype.TLSA, search=False, raise_on_no_answer=False, lifetime=lifetime
            )
        except (dns.resolver.NXDOMAIN, dns.name.NameTooLong):
            return ()
        except (dns.exception.DNSException, OSError) as error:
            raise TlsaUnknown(f"the DNS gave no answer about the TLSA records of {name}") from error
        if not answer.response.flags & dns.flags.AD:
            return ()
        return tuple(map(_record, list(answer.rrset or ())[:MAX_RECORDS]))


def _record(found: Any) -> TlsaRecord:
    return TlsaRecord(found.usage, found.selector, found.mtype, found.cert)


def usable(records: Iterable[TlsaRecord]) -> tuple[TlsaRecord, ...]:
    """Those that say something for SMTP (RFC 7672 section 3.1)."""
    return tuple(
        record
        for record in records
        if record.usage in (TRUST_ANCHOR, END_ENTITY)
        and record.selector in (WHOLE_CERTIFICATE, PUBLIC_KEY)
        and _has_fit_data(record)
    )


def _has_fit_data(record: TlsaRecord) -> bool:
    if record.matching == EXACT:
        return bool(record.data)
    digest = _DIGESTS.get(record.matching)
    return digest is not None and len(record.data) == digest().digest_size


# --- certificates ---


def check_certificate(session: ssl.SSLSocket, records: Sequence[TlsaRecord], names: Sequence[str]) -> None:
    """Return when one of the usable records matches what the host showed. Raises `CertificateRejected`.

    For an end entity neither name nor validity count (RFC 7672 section 3.1.1); under a trust anchor both do.
    """
    try:
        chain = [x509.load_der_x509_certificate(der) for der in shown_chain(session)[:MAX_CHAIN]]
    except ValueError as error:
        raise CertificateRejected(f"a certificate cannot be read ({error})") from error
    if not chain:
        raise CertificateRejected("no certificate was shown")
    if any(_matches(record, chain[0]) for record in records if record.usage == END_ENTITY):
        return
    anchors = [record for record in records if record.usage == TRUST_ANCHOR]
    if not anchors:
        raise CertificateRejected("the certificate is none of those in its TLSA records")
    _check_under_anchor(chain, anchors, names)


def shown_chain(session: ssl.SSLSocket) -> list[bytes]:
    """All that the host showed, in DER, its own certificate first."""
    if hasattr(session, "get_unverified_chain"):  # since Python 3.13
        return list(session.get_unverified_chain() or ())
    shown = session._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in shown or ()]


def _matches(record: TlsaRecord, certificate: x509.Certificate) -> bool:
    if record.selector == WHOLE_CERTIFICATE:
        content = certificate.public_bytes(Encoding.DER)
    else:
        content = _public_key_info(certificate)
    return (content if record.matching == EXACT else _DIGESTS[record.matching](content).digest()) == record.data


def _public_key_info(certificate: x509.Certificate) -> bytes:
    """The key with its algorithm, octet for octet as the certificate has it (RFC 6698 section 2.1.2).

    Not as `cryptography` writes it: that may use other words for the same key, and does not know every kind.
    """
    der = certificate.tbs_certificate_bytes
    at, _ = _content(der, 0)
    if der[at] == _VERSION_TAG:
        at = _content(der, at)[1]
    for _ in range(_FIELDS_BEFORE_KEY):
        at = _content(der, at)[1]
    return der[at : _content(der, at)[1]]


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of an element begins and ends (X.690 section 8.1.3); it has been read before and is sound."""
    begin, length = at + 2, der[at + 1]
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(der[at + 2 : begin], "big")
    return begin, begin + length


def _check_under_anchor(chain: list[x509.Certificate], records: Sequence[TlsaRecord], names: Sequence[str]) -> None:
    anchors = [one for one in chain[1:] if any(_matches(record, one) for record in records)]
    anchors += _anchors_in(records)
    if not anchors:
        raise CertificateRejected("no certificate that was shown is a trust anchor in its TLSA records")
    builder = PolicyBuilder().store(Store(anchors)).extension_policies(ca_policy=_AUTHORITY, ee_policy=_HOST)
    reason: VerificationError | None = None
    for name in names:
        try:
            builder.build_server_verifier(x509.DNSName(name)).verify(chain[0], chain[1:])
        except VerificationError as error:
            reason = error
        except ValueError as error:
            raise CertificateRejected(f"{name} cannot be the name of a certificate") from error
        else:
            return
    raise CertificateRejected(f"the certificate does not lead to its trust anchor: {reason}")


def _anchors_in(records: Sequence[TlsaRecord]) -> list[x509.Certificate]:
    """Anchors that are in the DNS as a whole, so that the host need not show them (RFC 7671 section 5.2.2)."""
    found = []
    for record in records:
        if (record.selector, record.matching) == (WHOLE_CERTIFICATE, EXACT):
            try:
                found.append(x509.load_der_x509_certificate(record.data))
            except ValueError:
                continue
    return found


def _must_be_authority(_policy: Any, _certificate: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("a certificate that is no authority signs another")


# What the public web asks of certificates beyond RFC 5280, private authorities often lack.
_AUTHORITY = ExtensionPolicy.permit_all().require_present(
    x509.BasicConstraints, Criticality.AGNOSTIC, _must_be_authority
)
_HOST = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)


# --- whether to believe the resolver ---


def believes_dnssec(choice: str, resolver: dns.resolver.Resolver) -> bool:
    """Whether the AD flag counts. `choice` is `PILLARBOX_DNSSEC`: `auto` believes resolvers on this machine only,
    `on` any. Raises `ConfigurationError`."""
    if choice.strip().lower() != AUTO:
        try:
            return read_switch(DNSSEC_SETTING, choice.strip().lower())
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}, or `auto`") from error
    return bool(resolver.nameservers) and all(map(_is_on_this_machine, resolver.nameservers))


def ask_for_dnssec(resolver: dns.resolver.Resolver) -> None:
    """Make it say whether answers are authentic (AD in the question: RFC 6840 section 5.7; DO: RFC 3225)."""
    resolver.set_flags(dns.flags.RD | dns.flags.AD)
    resolver.use_edns(0, dns.flags.DO, EDNS_PAYLOAD_BYTES)


def _is_on_this_machine(server: str | dns.nameserver.Nameserver) -> bool:
    text = server if isinstance(server, str) else getattr(server, "address", "")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_loopback and address != _CONTAINER_DNS
