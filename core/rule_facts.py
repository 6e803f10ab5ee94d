"""What is known of a mail, for rules to be held against: given as facts, worked up once. Pure, no I/O.

What is known grows: at RCPT the envelope, after DATA the content, after the checks their verdicts.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from core.addresses import parse_mailbox
from core.verdicts import DkimVerdict, DmarcVerdict, ScanStatus, SpfVerdict, Verdicts

SUBDOMAINS_PREFIX = "*."
ANY_LOCAL_PREFIX = "*@"
NULL_SENDER = "<>"
"""How a condition writes the empty sender of bounces."""
ANY_SUBTYPE = "/*"
MAX_SUBJECT_LENGTH = 1_000
"""Characters of the subject that patterns see: what the rest says costs time and tells nothing."""
MAX_EXTENSIONS = 5
"""How many dots of a file name begin an extension: `gz` and `tar.gz` of `a.tar.gz`."""
NO_VERDICTS = Verdicts()


@dataclass(frozen=True, slots=True)
class Content:
    """What reading a message tells of it."""

    from_domain: str | None
    """The domain of the From header, lower-case A-labels; None when there is not exactly one."""
    subject: str
    """Decoded; empty without one."""
    attachments: tuple[tuple[str, str], ...] = ()
    """File name and content type of each."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a mail so far."""

    remote_ip: str | None
    """The client. None while it is hidden behind a trusted forwarder; `verdicts.judged_ip` comes before it."""
    helo: str | None
    mail_from: str
    """Empty for the null sender."""
    recipients: tuple[str, ...]
    """At RCPT the one that is asked about, later all of the delivery: a condition is met by any."""
    size: int | None = None
    """Bytes of the raw message."""
    content: Content | None = None
    verdicts: Verdicts = NO_VERDICTS


@dataclass(frozen=True, slots=True)
class Known:
    """Facts, worked up once so that each condition is a look-up. None is what is not known."""

    ip: tuple[int, int] | None = None
    """Version and number."""
    helo_names: frozenset[str] | None = None
    sender_keys: frozenset[str] | None = None
    sender_names: frozenset[str] | None = None
    senders: tuple[str, ...] | None = None
    recipients: tuple[str, ...] | None = None
    size: int | None = None
    from_names: frozenset[str] | None = None
    subjects: tuple[str, ...] | None = None
    attachment_types: frozenset[str] | None = None
    attachment_extensions: frozenset[str] | None = None
    spf: frozenset[str] | None = None
    dkim: frozenset[str] | None = None
    dmarc: frozenset[str] | None = None
    spam_score: float | None = None
    is_infected: bool | None = None


NOTHING_KNOWN = Known()


def work_up(facts: Facts) -> Known:
    """What conditions are held against."""
    content, verdicts = facts.content, facts.verdicts
    sender, sender_domain = _split_mailbox(facts.mail_from)
    remote_ip = verdicts.judged_ip or facts.remote_ip
    helo = verdicts.judged_helo or facts.helo
    return Known(
        ip=_read_ip(remote_ip) if remote_ip else None,
        helo_names=None if helo is None else names_of(helo.lower().removesuffix(".")),
        sender_keys=frozenset((sender.lower() or NULL_SENDER, f"{ANY_LOCAL_PREFIX}{sender_domain}")),
        sender_names=names_of(sender_domain),
        senders=(sender,),
        recipients=tuple(_split_mailbox(recipient)[0] for recipient in facts.recipients),
        size=facts.size,
        from_names=None if content is None else names_of(content.from_domain or ""),
        subjects=None if content is None else (content.subject[:MAX_SUBJECT_LENGTH],),
        attachment_types=None if content is None else _types_in(content),
        attachment_extensions=None if content is None else _extensions_in(content),
        spf=_result_of(verdicts.spf),
        dkim=_result_of(verdicts.dkim),
        dmarc=_result_of(verdicts.dmarc),
        spam_score=verdicts.spam.score if verdicts.spam else None,
        is_infected=_is_infected(verdicts),
    )


def names_of(domain: str) -> frozenset[str]:
    """The spellings under which a condition may name a domain: itself, and `*.` before each of its parents."""
    labels = domain.split(".")
    parents = (SUBDOMAINS_PREFIX + ".".join(labels[start:]) for start in range(1, len(labels)))
    return frozenset((domain, *parents)) if domain else frozenset()


def _split_mailbox(text: str) -> tuple[str, str]:
    """A mailbox with its domain in the one spelling, and that domain; both as they stand when it is no mailbox."""
    mailbox = parse_mailbox(text)
    if mailbox is None:
        return text, text.rpartition("@")[2].lower()
    return f"{mailbox.text.rpartition('@')[0]}@{mailbox.domain}", mailbox.domain


def _read_ip(text: str) -> tuple[int, int] | None:
    """An IPv4 address that came over an IPv6 socket is that IPv4 address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    plain = getattr(address, "ipv4_mapped", None) or address
    return plain.version, int(plain)


def _types_in(content: Content) -> frozenset[str]:
    """Their content types, and `type/*` of each."""
    bare = {content_type.partition(";")[0].strip().lower() for _, content_type in content.attachments}
    return frozenset(bare) | {name.partition("/")[0] + ANY_SUBTYPE for name in bare}


def _extensions_in(content: Content) -> frozenset[str]:
    return frozenset(extension for name, _ in content.attachments for extension in _extensions_of(name))


def _extensions_of(file_name: str) -> list[str]:
    """Windows ignores dots and spaces at the end of a name, so they hide nothing."""
    labels = file_name.lower().rstrip(". ").split(".")[1:][-MAX_EXTENSIONS:]
    return [".".join(labels[start:]) for start in range(len(labels))]


def _result_of(verdict: SpfVerdict | DkimVerdict | DmarcVerdict | None) -> frozenset[str] | None:
    return None if verdict is None else frozenset((verdict.result,))


def _is_infected(verdicts: Verdicts) -> bool | None:
    if verdicts.scans is None:
        return None
    if any(scan.status is ScanStatus.FOUND for scan in verdicts.scans):
        return True
    return False if all(scan.status is ScanStatus.OK for scan in verdicts.scans) else None
