"""SpamAssassin's spamd, asked by the protocol of its own `spamc` (spamd/PROTOCOL in SpamAssassin's source, 1.5).

REPORT is the one command whose answer has score, threshold, rules and descriptions; a second one would judge the
message a second time.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from core.verdicts import SpamVerdict
from inbound.scanning.connection import Deadline
from inbound.scanning.endpoint import Endpoint
from inbound.scanning.facts import MailFacts
from inbound.scanning.failures import Declined, NoAnswer
from inbound.scanning.verdict_text import to_description, to_symbols

MAX_MESSAGE_BYTES = 500 * 1024
"""What `spamc` passes on at most (its `--max-size`): scoring megabytes of text takes SpamAssassin seconds."""
MAX_ANSWER_BYTES = 256 * 1024
MAX_HEADER_BYTES = 8 * 1024

_STATUS = re.compile(r"SPAMD/\d+\.\d+ (\d{1,3}) ?(.*)")
_VERDICT = re.compile(r"(True|False) ; (-?\d{1,6}(?:\.\d{1,6})?) / (-?\d{1,6}(?:\.\d{1,6})?)")
_TABLE_HEAD = re.compile(r"^.*\n {0,3}-{4} -{10,} -{20,} *$", re.MULTILINE)
_TABLE_ROW = re.compile(r"^ {0,3}-?\d{1,4}(?:\.\d{1,3})? (\w{1,100})(?: |$)", re.MULTILINE)

Introduction = Callable[[MailFacts, Deadline], bytes]
"""Gives header lines to put in front of a message."""


class Spamd:
    """One spamd."""

    max_message_bytes: int | None = MAX_MESSAGE_BYTES

    def __init__(self, endpoint: Endpoint, introduce: Introduction) -> None:
        self._endpoint = endpoint
        self._introduce = introduce

    def ping(self, deadline: Deadline) -> None:
        """Raises `ScannerFailure` unless it is alive."""
        with self._endpoint.open(deadline) as connection:
            connection.send(b"PING SPAMC/1.2\r\n\r\n")
            if b" PONG" not in connection.receive_until(b"\n", MAX_HEADER_BYTES):
                raise NoAnswer("no spamd answers there")

    def score(self, raw: bytes, facts: MailFacts, deadline: Deadline) -> SpamVerdict:
        """Judge a message. Raises `ScannerFailure`."""
        introduction = self._introduce(facts, deadline)
        size = len(introduction) + len(raw)
        with self._endpoint.open(deadline) as connection:
            connection.send(b"REPORT SPAMC/1.5\r\nContent-length: %d\r\n\r\n%b" % (size, introduction))
            connection.send(raw)
            connection.finish_sending()
            return read_answer(connection.receive_to_end(MAX_ANSWER_BYTES))


def read_answer(answer: bytes) -> SpamVerdict:
    """Read the answer to REPORT. Raises `NoAnswer` or `Declined`."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("utf-8", "replace").split("\r\n")
    status = _STATUS.fullmatch(status_line)
    if status is None:
        raise NoAnswer(f"this is no answer of spamd: {status_line[:80]!r}" if answer else "an empty answer")
    if int(status[1]) != 0:
        raise Declined(f"spamd says {status[1]} {status[2][:200]}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    verdict = _VERDICT.fullmatch(headers.get("spam", ""))
    if not blank or verdict is None or headers.get("content-length") != str(len(body)):
        raise NoAnswer("half an answer")
    table = _rule_table(body.decode("utf-8", "replace"))
    return SpamVerdict(
        success=True,
        score=float(verdict[2]),
        symbols=to_symbols(_TABLE_ROW.findall(table)),
        description=to_description(table),
        is_spam=verdict[1] == "True",
    )


def _rule_table(report: str) -> str:
    """The table of rules at the end of a report; the whole report where a site has changed its form.

    The last head of a table counts: the report quotes the message before it, which may try to look like one.
    """
    heads = list(_TABLE_HEAD.finditer(report))
    return report[heads[-1].start() :] if heads else report
