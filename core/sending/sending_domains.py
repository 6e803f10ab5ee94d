"""Domains that customers send from: their keys, and the records to publish, ready to be copied.

Two names below a domain matter. `<selector>._domainkey.<domain>` holds the public key (RFC 6376 section 3.6);
`mta.<domain>` is the envelope sender's domain, so that bounces come to us and SPF judges our hosts, while the
customer's own MX and SPF records stay as they are. `docs/sending-domains.md` tells the story.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from core.addresses import normalise_domain
from core.authentication.dmarc_record import organizational_domain
from core.clock import to_datetime
from core.config import Settings
from core.errors import InvalidField
from core.mta_sts import DnsRecord

RSA_BITS = 2048
"""What RFC 8301 section 3.2 recommends. Longer keys fit into no UDP answer and some verifiers take none of them."""
RSA_EXPONENT = 65_537
MTA_PREFIX = "mta."
"""What the envelope sender's domain has before the sending domain."""
KEY_LABEL = "_domainkey"
POLICY_PREFIX = "_dmarc."
SELECTOR_PREFIX = "pb"
SELECTOR_MARK_LENGTH = 4
"""Characters of base32 that tell keys of the same day apart."""
TXT_STRING_OCTETS = 255
"""The most that one string of a TXT record holds (RFC 1035 section 3.3.14)."""
MX_PREFERENCE = 10
MAX_DOMAIN_LENGTH = 253 - len(f"{SELECTOR_PREFIX}20000101{'x' * SELECTOR_MARK_LENGTH}.{KEY_LABEL}.")
"""So that the longest name below it is one (RFC 1035 section 2.3.4)."""
_FIELD = "domain"
_ADDRESS_TYPES = ("A", "AAAA")


class KeyAlgorithm(StrEnum):
    """Kinds of keys, as `k=` of a key record names them (RFC 6376 section 3.6.1, RFC 8463 section 4)."""

    RSA = "rsa"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A new key."""

    algorithm: KeyAlgorithm
    private_pem: str = field(repr=False)
    """PKCS #8, without a password."""
    public_record: str
    """The text of the TXT record."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The public side of a key."""

    selector: str
    public_record: str
    """The text of the TXT record."""


class Purpose(StrEnum):
    """What a record is for."""

    RETURN_PATH = "return_path"
    DKIM = "dkim"
    SPF = "spf"
    DMARC = "dmarc"
    TRACKING = "tracking"


@dataclass(frozen=True, slots=True)
class RequiredRecord:
    """A record for the customer to publish, and why."""

    purpose: Purpose
    record: DnsRecord
    is_required: bool = True
    """False for what only improves things (DMARC)."""


@dataclass(frozen=True, slots=True)
class SendingHosts:
    """What the gateway itself is called in the DNS."""

    return_path_host: str
    """Where `mta.<domain>` points to. The operator gives it an MX and an SPF record, see `operator_records`."""
    mx_hostname: str
    """The receiver that takes bounces."""
    sending_ips: tuple[str, ...] = ()
    """The addresses that mail leaves from, as others see them; empty where the operator has not named them."""
    report_address: str | None = None
    """A mailbox for DMARC reports."""


def sending_hosts(settings: Settings) -> SendingHosts:
    """The gateway's names, as it is configured."""
    return SendingHosts(
        settings.return_path_host, settings.mx_hostname, settings.sending_addresses, settings.dmarc_reports or None
    )


def new_key(algorithm: KeyAlgorithm = KeyAlgorithm.RSA) -> KeyPair:
    """A new key and its record. An RSA key takes some 100 ms of processor time, at times half a second."""
    private = (
        generate_private_key(RSA_EXPONENT, RSA_BITS) if algorithm is KeyAlgorithm.RSA else Ed25519PrivateKey.generate()
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
    return KeyPair(algorithm, pem, key_record(private.public_key()))


def key_record(public: RSAPublicKey | Ed25519PublicKey) -> str:
    """The text of the record that publishes a key."""
    return f"v=DKIM1; k={algorithm_of(public).value}; p={base64.b64encode(public_octets(public)).decode('ascii')}"


def algorithm_of(public: RSAPublicKey | Ed25519PublicKey) -> KeyAlgorithm:
    """Which kind of key it is."""
    return KeyAlgorithm.RSA if isinstance(public, RSAPublicKey) else KeyAlgorithm.ED25519


def public_octets(public: RSAPublicKey | Ed25519PublicKey) -> bytes:
    """What stands in `p=`, without base64: all of SubjectPublicKeyInfo for RSA, 32 octets for Ed25519."""
    if isinstance(public, RSAPublicKey):
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes_raw()


def selector_for(public_record: str, created_ms: int) -> str:
    """A selector that says when the key was made, e.g. `pb20260921k3fq`.

    The mark comes from the key, so that keys of the same day, also those of two gateways, have selectors of their own.
    """
    mark = base64.b32encode(hashlib.sha256(public_record.encode()).digest()).decode().lower()[:SELECTOR_MARK_LENGTH]
    return f"{SELECTOR_PREFIX}{to_datetime(created_ms):%Y%m%d}{mark}"


def sending_domain(text: str) -> str:
    """A domain to send from, as lower-case A-labels. Raises `InvalidField`."""
    domain = normalise_domain(text.strip())
    if domain is None or "." not in domain or _is_address(domain) or not _has_host_labels(domain):
        raise InvalidField(_FIELD, f"{text[:80]!r} is no domain name; write one like example.com")
    if len(domain) > MAX_DOMAIN_LENGTH:
        raise InvalidField(
            _FIELD, f"has {len(domain)} characters; at most {MAX_DOMAIN_LENGTH} leave room for selectors"
        )
    if is_public_suffix(domain):
        raise InvalidField(_FIELD, f"{domain} is a public suffix, under which others register; name a domain below it")
    return domain


def is_public_suffix(domain: str) -> bool:
    """Whether it is one that others register under, such as `com`, `co.uk` or `github.io`."""
    return organizational_domain(f"x.{domain}") == f"x.{domain}"


def mta_domain(domain: str) -> str:
    """The envelope sender's domain."""
    return f"{MTA_PREFIX}{domain}"


def key_name(selector: str, domain: str) -> str:
    """Where the record of a key lies (RFC 6376 section 3.6.2.1)."""
    return f"{selector}.{KEY_LABEL}.{domain}"


def signing_domains(domain: str) -> tuple[str, ...]:
    """The domains whose signature is worth something to a sending domain: itself, and its parent unless others
    register there."""
    parent = domain.partition(".")[2]
    return (domain, parent) if "." in parent and not is_public_suffix(parent) else (domain,)


def required_records(
    domain: str, keys: Sequence[KeyRecord], hosts: SendingHosts, tracking: DnsRecord | None = None
) -> tuple[RequiredRecord, ...]:
    """What the customer publishes: the return path, each key, the host of tracked links if it has one of its own."""
    dkim = [DnsRecord(key_name(key.selector, domain), "TXT", key.public_record) for key in keys]
    advice = [(Purpose.TRACKING, tracking)] if tracking is not None else []
    advice.append((Purpose.DMARC, dmarc_suggestion(domain, hosts.report_address)))
    return (
        *_return_path(domain, hosts),
        *(RequiredRecord(Purpose.DKIM, record) for record in dkim),
        *(RequiredRecord(purpose, record, is_required=False) for purpose, record in advice),
    )


def _return_path(domain: str, hosts: SendingHosts) -> tuple[RequiredRecord, ...]:
    if is_gateways_own(domain, hosts):
        receiver, policy, *_ = operator_records(hosts)
        return (RequiredRecord(Purpose.RETURN_PATH, receiver), RequiredRecord(Purpose.SPF, policy))
    return (RequiredRecord(Purpose.RETURN_PATH, DnsRecord(mta_domain(domain), "CNAME", hosts.return_path_host)),)


def records_without_cname(domain: str, hosts: SendingHosts) -> tuple[RequiredRecord, ...]:
    """In place of the CNAME at `mta.<domain>`, for those who cannot or will not have one there."""
    if is_gateways_own(domain, hosts):
        return ()
    name = mta_domain(domain)
    return (
        RequiredRecord(Purpose.RETURN_PATH, DnsRecord(name, "MX", f"{MX_PREFERENCE} {hosts.mx_hostname}")),
        RequiredRecord(Purpose.SPF, DnsRecord(name, "TXT", f"v=spf1 include:{hosts.return_path_host} -all")),
    )


def is_gateways_own(domain: str, hosts: SendingHosts) -> bool:
    """Whether the domain's return path is the host that all others point to; it cannot be a CNAME of itself."""
    return mta_domain(domain) == hosts.return_path_host.lower()


def dmarc_suggestion(domain: str, report_address: str | None) -> DnsRecord:
    """A policy that changes nothing yet but lets reports come (RFC 7489 section 6.3)."""
    reports = f"; rua=mailto:{report_address}" if report_address else ""
    return DnsRecord(f"{POLICY_PREFIX}{domain}", "TXT", f"v=DMARC1; p=none{reports}")


def operator_records(hosts: SendingHosts) -> tuple[DnsRecord, ...]:
    """What the gateway's operator publishes, once for all sending domains."""
    networks = " ".join(_spf_term(address) for address in hosts.sending_ips) or f"a:{hosts.mx_hostname}"
    records = [
        DnsRecord(hosts.return_path_host, "MX", f"{MX_PREFERENCE} {hosts.mx_hostname}"),
        DnsRecord(hosts.return_path_host, "TXT", f"v=spf1 {networks} -all"),
    ]
    if hosts.report_address:
        # reports about other domains are sent only where this says they are wanted (RFC 7489 section 7.1)
        report_domain = hosts.report_address.rpartition("@")[2]
        records.append(DnsRecord(f"*._report._dmarc.{report_domain}", "TXT", "v=DMARC1"))
    return tuple(records)


def txt_strings(text: str) -> tuple[str, ...]:
    """The strings that a TXT record splits a text into; whoever reads it joins them with nothing between."""
    return tuple(text[at : at + TXT_STRING_OCTETS] for at in range(0, len(text), TXT_STRING_OCTETS)) or ("",)


def zone_line(record: DnsRecord) -> str:
    """The record as a zone file has it (RFC 1035 section 5.1): full names, texts quoted and split."""
    return f"{record.name}. IN {record.type} {_zone_value(record)}"


def _zone_value(record: DnsRecord) -> str:
    if record.type == "TXT":
        return " ".join(map(_quoted, txt_strings(record.value)))
    return record.value if record.type in _ADDRESS_TYPES else f"{record.value}."


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _spf_term(text: str) -> str:
    """An address as a mechanism. Raises `ValueError` for anything else."""
    address = ipaddress.ip_address(text)
    return f"ip{address.version}:{address}"


def _has_host_labels(domain: str) -> bool:
    return all(_is_host_label(label) for label in domain.split("."))


def _is_host_label(label: str) -> bool:
    """Letters, digits and inner hyphens (RFC 1123 section 2.1); no underscores: nobody has mail there."""
    return label.replace("-", "").isalnum() and not label.startswith("-") and not label.endswith("-")


def _is_address(domain: str) -> bool:
    return all(part.isdigit() for part in domain.split("."))
