"""Mailboxes with names, as people and headers write them: `"Ann" <ann@example.com>` (RFC 5322 section 3.4).

Read strictly: an entry that two readers could take for two different addresses is refused (compare CVE-2023-27043),
because the domain that is checked must be the domain that the mail goes to. One pass, linear in the length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header

from core.addresses import Mailbox, parse_mailbox
from core.errors import InvalidField
from core.sending.reachable import why_unreachable
from outbound.composing.header_writing import (
    SOFT_LINE,
    UNPRINTABLE,
    check_line,
    encoded_words,
    is_plain,
    spaced,
    write_fold,
)

MAX_ENTRY_LENGTH = 2_000
MAX_LIST_LENGTH = 64 * 1024
MAX_NAME_LENGTH = 320
"""Of a display name; nobody shows more."""
MAX_QUOTED_NAME = 60
"""A longer name is written as encoded words, which can be folded."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|\s++|[()<>:;,@\[\]\\"]|[^()<>:;,@\[\]\\"\s]++')
_COMMENT_MARK = re.compile(r"\\.|[()]")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_QUOTED_PAIR = re.compile(r"\\(.)")
_NOT_IN_NAMES = frozenset(':;,@[]\\"')
_EXAMPLE = 'write it like user@example.com or "Name" <user@example.com>'


@dataclass(frozen=True, slots=True)
class NamedMailbox:
    """One mailbox of a header."""

    name: str
    """The display name, decoded and unquoted; empty when there is none."""
    mailbox: Mailbox

    @property
    def address(self) -> str:
        """`local@domain` as it goes into header and envelope: the local part as given, the domain as A-labels."""
        return f"{self.mailbox.text.rpartition('@')[0]}@{self.mailbox.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether its local part is beyond ASCII, so that only hosts with SMTPUTF8 can take it (RFC 6531)."""
        return not self.address.isascii()


def read_mailbox(field: str, text: str) -> NamedMailbox:
    """Exactly one mailbox. Raises `InvalidField`."""
    found = read_mailboxes(field, text)
    if len(found) != 1:
        raise InvalidField(field, f"must hold exactly one address; {_EXAMPLE}")
    return found[0]


def read_mailboxes(field: str, text: str, *, in_header: bool = False) -> tuple[NamedMailbox, ...]:
    """The mailboxes of a list with commas, in order, at least one. Raises `InvalidField`.

    `in_header` takes what only headers may hold: groups (`undisclosed-recipients:;`), and so an empty list.
    """
    check_line(field, text, MAX_LIST_LENGTH if in_header else MAX_ENTRY_LENGTH)
    found = tuple(_mailbox(field, entry) for entry in _entries(field, _tokens(field, text), in_header))
    if not found and not in_header:
        raise InvalidField(field, f"holds no address; {_EXAMPLE}")
    return found


def address_field(name: str, mailboxes: Sequence[NamedMailbox]) -> bytes:
    """The whole header field, folded; ASCII but for local parts that are not."""
    pieces: list[str] = []
    for index, one in enumerate(mailboxes):
        words = [*_phrase(one.name, SOFT_LINE - len(name) - 2 if index == 0 else SOFT_LINE - 1), _angle(one)]
        if index < len(mailboxes) - 1:
            words[-1] += ","
        pieces += words
    return write_fold(name, spaced(pieces))


# --- reading ---


def _tokens(field: str, text: str) -> list[str]:
    """Quoted strings, blanks, marks, words; a comment is one token with its parentheses."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidField(field, f"is no address; {_EXAMPLE}")
        if match[0] == '"':  # going on would look for the end of every quote that follows
            raise InvalidField(field, "opens a double quote that nothing closes")
        end = match.end()
        if match[0] == "(":
            end = _end_of_comment(field, text, end)
        tokens.append(text[position:end])
        position = end
    return tokens


def _end_of_comment(field: str, text: str, position: int) -> int:
    depth = 1
    for mark in _COMMENT_MARK.finditer(text, position):
        if len(mark[0]) == 1:
            depth += 1 if mark[0] == "(" else -1
        if depth == 0:
            return mark.end()
    raise InvalidField(field, "opens a parenthesis that nothing closes; put the name in double quotes")


def _entries(field: str, tokens: list[str], in_header: bool) -> list[list[str]]:
    """Tokens split at the commas between mailboxes. In a header a group's name goes, and so do empty entries."""
    entries: list[list[str]] = []
    current: list[str] = []
    is_angle = False
    for token in [*tokens, ","]:
        is_angle = token == "<" or (is_angle and token != ">")  # noqa: S105 (a mark, not a secret)
        if is_angle or not (token == "," or (in_header and token in (":", ";"))):  # noqa: S105
            current.append(token)
            continue
        is_empty = all(part.isspace() or part.startswith("(") for part in current)
        if token != ":" and not (in_header and is_empty):  # noqa: S105
            entries.append(current)
        current = []
    if is_angle:
        raise InvalidField(field, "opens an angle bracket that nothing closes")
    return entries


def _mailbox(field: str, tokens: list[str]) -> NamedMailbox:
    plain = [token for token in tokens if not token.startswith("(")]
    if "<" not in plain:
        comments = [token[1:-1] for token in tokens if token.startswith("(")]
        return NamedMailbox(_clean_name(field, " ".join(comments)), _address(field, "".join(plain).strip()))
    start = tokens.index("<")
    end = tokens.index(">", start) if ">" in tokens[start:] else len(tokens)
    if any(not (token.isspace() or token.startswith("(")) for token in tokens[end + 1 :]) or ">" in tokens[:start]:
        raise InvalidField(field, f"has something behind its angle brackets; {_EXAMPLE}")
    mailbox = _address(field, "".join(tokens[start + 1 : end]).strip())
    return NamedMailbox(_name(field, tokens[:start], mailbox), mailbox)


def _address(field: str, text: str) -> Mailbox:
    mailbox = parse_mailbox(text)
    shown = f"{text[:100]!r}" if text else "nothing"
    if mailbox is None:
        raise InvalidField(field, f"{shown} is no address; {_EXAMPLE}")
    problem = why_unreachable(mailbox)
    if problem is not None:
        raise InvalidField(field, f"{shown} {problem}")
    return mailbox


def _name(field: str, tokens: list[str], mailbox: Mailbox) -> str:
    """The phrase before the angle brackets. Comments belong to it: `Ann (sales) <ann@example.com>` is meant so."""
    whole = "".join(tokens).strip()
    if whole.lower() == mailbox.text.lower():
        return ""
    if _NOT_IN_NAMES & set(tokens):
        raise InvalidField(field, "has a name with one of : ; , @ [ ] \\ in it; put the name in double quotes")
    words = [_QUOTED_PAIR.sub(r"\1", token[1:-1]) if token.startswith('"') else token for token in tokens]
    return _clean_name(field, "".join(words))


def _clean_name(field: str, text: str) -> str:
    """Encoded words decoded, as mail libraries write them into addresses; one blank between words."""
    if "=?" in text:
        try:
            text = str(make_header(decode_header(text[:MAX_ENTRY_LENGTH])))
        except (HeaderParseError, LookupError, ValueError):
            text = text.replace("=?", "")
        text = UNPRINTABLE.sub(" ", text)
    return " ".join(text.split())[:MAX_NAME_LENGTH]


# --- writing ---


def _phrase(name: str, room: int) -> list[str]:
    if not name:
        return []
    if is_plain(name) and len(name) <= MAX_QUOTED_NAME:
        if _ATOMS.fullmatch(name):
            return [name]
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return [f'"{escaped}"']
    return encoded_words(name, room)


def _angle(one: NamedMailbox) -> str:
    return f"<{one.address}>" if one.name else one.address
