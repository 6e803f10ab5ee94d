"""rspamd, asked over HTTP (https://rspamd.com/doc/developers/protocol.html, `/checkv2`)."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AllowInfNan, TypeAdapter, ValidationError

from core.verdicts import SpamVerdict
from inbound.scanning.connection import Connection, Deadline, too_long
from inbound.scanning.endpoint import Endpoint
from inbound.scanning.facts import MailFacts
from inbound.scanning.failures import Declined, NoAnswer
from inbound.scanning.verdict_text import to_description, to_symbols

SPAM_ACTIONS = frozenset({"add header", "rewrite subject", "reject", "quarantine", "discard"})
"""What rspamd asks to be done with spam; `greylist` and `soft reject` only ask to wait."""
MAX_ANSWER_BYTES = 1024 * 1024
MAX_RECIPIENTS_NAMED = 100
MAX_FACT_CHARACTERS = 512

_Number = Annotated[float, AllowInfNan(False)]


@dataclass(frozen=True, slots=True)
class _Symbol:
    score: _Number = 0.0
    description: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    score: _Number
    action: str
    symbols: dict[str, _Symbol] = field(default_factory=dict)


_ANSWER: TypeAdapter[_Answer] = TypeAdapter(_Answer)


class Rspamd:
    """One worker of an rspamd."""

    max_message_bytes: int | None = None
    """It has a limit of its own, `max_message`, 50 MB unless it is configured otherwise; it hangs up on more."""

    def __init__(self, endpoint: Endpoint, path: str = "") -> None:
        self._endpoint = endpoint
        self._path = path

    def ping(self, deadline: Deadline) -> None:
        """Raises `ScannerFailure` unless it is alive."""
        self._ask("GET", "/ping", [], b"", deadline)

    def score(self, raw: bytes, facts: MailFacts, deadline: Deadline) -> SpamVerdict:
        """Judge a message. Raises `ScannerFailure`."""
        try:
            answer = _ANSWER.validate_json(self._ask("POST", "/checkv2", list(_headers(facts)), raw, deadline))
        except ValidationError as error:
            raise NoAnswer("this is no answer of rspamd's /checkv2") from error
        symbols = sorted(answer.symbols.items(), key=lambda item: -abs(item[1].score))
        return SpamVerdict(
            success=True,
            score=answer.score,
            symbols=to_symbols(name for name, _ in symbols),
            description=to_description("\n".join(_row(name, symbol) for name, symbol in symbols)),
            is_spam=answer.action in SPAM_ACTIONS,
        )

    def _ask(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes, deadline: Deadline) -> bytes:
        lines = [f"{method} {self._path}{path} HTTP/1.0", f"Host: {self._endpoint}", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""])
        with self._endpoint.open(deadline) as connection:
            connection.send(head.encode())
            connection.send(body)
            return _read_response(connection)


def _headers(facts: MailFacts) -> Iterator[tuple[str, str]]:
    yield "IP", _one_line(facts.remote_ip)
    yield "Helo", _one_line(facts.helo)
    yield "From", f"<{_one_line(facts.mail_from)}>"
    for recipient in facts.recipients[:MAX_RECIPIENTS_NAMED]:
        yield "Rcpt", f"<{_one_line(recipient)}>"


def _one_line(text: str) -> str:
    """Without anything that could end a header."""
    return "".join(c for c in text[:MAX_FACT_CHARACTERS] if c.isprintable())


def _row(name: str, symbol: _Symbol) -> str:
    return f"{symbol.score:6.2f} {name:<26} {symbol.description or ''}".rstrip()


class _Answering(io.RawIOBase):
    """What `http.client` takes for a socket and reads from: bound by the connection's deadline, and by a size."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._left = MAX_ANSWER_BYTES

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._connection.receive(len(buffer))
        self._left -= len(piece)
        if self._left < 0:
            raise too_long(MAX_ANSWER_BYTES)
        buffer[: len(piece)] = piece
        return len(piece)


def _read_response(connection: Connection) -> bytes:
    response = http.client.HTTPResponse(_Answering(connection))  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read(MAX_ANSWER_BYTES + 1)  # or it sets memory aside for whatever length is announced
    except (http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"half an answer, or none of HTTP: {error!r:.100}") from error
    if response.length:
        raise NoAnswer("half an answer")
    if response.status != http.client.OK:
        raise Declined(f"rspamd says {response.status} {response.reason[:200]}")
    return body
