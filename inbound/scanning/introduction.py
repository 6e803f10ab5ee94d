"""Header lines in front of a message that tell SpamAssassin what the SMTP conversation said.

spamd gets nothing but a message. Servers that it was made for have written a Received header by then; without one it
knows no client, and its rules for networks, SPF and names are idle.
"""

from __future__ import annotations

import re
from email.utils import formatdate

from inbound.scanning.facts import MailFacts

MAX_RECIPIENTS_NAMED = 100
MAX_FACT_CHARACTERS = 512

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._:\[\]-]")


def introduce(facts: MailFacts, client_name: str | None, our_name: str, now_ms: int) -> bytes:
    """The header lines. `client_name` is the client's confirmed name in the DNS, None for an unknown one."""
    ip = f"IPv6:{facts.remote_ip}" if ":" in facts.remote_ip else facts.remote_ip
    recipients = ",\r\n\t".join(f"<{_one_line(it)}>" for it in facts.recipients[:MAX_RECIPIENTS_NAMED])
    lines = [
        f"X-Envelope-From: <{_one_line(facts.mail_from)}>",
        *([f"X-Envelope-To: {recipients}"] if recipients else []),
        f"Received: from {_name(facts.helo) or 'unknown'} ({_name(client_name or '') or 'unknown'} [{_name(ip)}])",
        f"\tby {our_name} with ESMTP;",
        f"\t{formatdate(now_ms / 1000)}",
        "",
    ]
    return "\r\n".join(lines).encode()


def _one_line(text: str) -> str:
    return "".join(c for c in text[:MAX_FACT_CHARACTERS] if c.isprintable())


def _name(text: str) -> str:
    """Without blanks and parentheses, by which a client could forge the parts that follow."""
    return _NOT_IN_NAMES.sub("?", text[:MAX_FACT_CHARACTERS])
