"""The headers in which a receiver writes down what it found out: Received-SPF and SpamAssassin's X-Spam headers."""

from __future__ import annotations

import re

from core.envelope import Envelope
from core.verdicts import SpamVerdict, SpfVerdict
from inbound.payloads.verdict_fields import score_text
from inbound.payloads.written_text import one_line

CHECKER_VERSION = "Pillarbox"
SPAM_HEADERS = frozenset({"x-spam-checker-version", "x-spam-status", "x-spam-score", "x-spam-tests"})
_DOT_ATOM = re.compile(r"[\w!#$%&'*+/=?^`{|}~.@:-]+", re.ASCII)


def trace_headers(envelope: Envelope) -> list[tuple[str, str]]:
    """Names and one-line values, as far as the checks were made."""
    headers: list[tuple[str, str]] = []
    spam = envelope.verdicts.spam
    if spam is not None and spam.success and spam.score is not None:
        headers += _spam_headers(spam, spam.score)
    if envelope.verdicts.spf is not None:
        headers.append(("Received-SPF", _received_spf(envelope.verdicts.spf, envelope)))
    return headers


def _spam_headers(spam: SpamVerdict, score: float) -> list[tuple[str, str]]:
    """Status is `Yes` or `No` and nothing else: clients compare it."""
    return [
        ("X-Spam-Checker-Version", CHECKER_VERSION),
        ("X-Spam-Status", "Yes" if spam.is_spam else "No"),
        ("X-Spam-Score", score_text(score)),
        ("X-Spam-Tests", one_line(",".join(spam.symbols))),
    ]


def _received_spf(spf: SpfVerdict, envelope: Envelope) -> str:
    """RFC 7208 section 9.1, of the client that was judged."""
    client = envelope.verdicts.judged_ip or envelope.remote_ip
    helo = envelope.verdicts.judged_helo or envelope.helo
    pairs = {
        "identity": "helo" if spf.is_helo else "mailfrom",
        "client-ip": client,
        "helo": helo,
        "envelope-from": envelope.mail_from,
    }
    written = "; ".join(f"{key}={_value(text)}" for key, text in pairs.items())
    return f"{spf.result.capitalize()} {written}"


def _value(text: str) -> str:
    """A dot-atom as it is, anything else quoted."""
    line = one_line(text)
    if _DOT_ATOM.fullmatch(line):
        return line
    escaped = line.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
