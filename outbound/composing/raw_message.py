"""Messages that come whole, as `raw` or by SMTP: checked, completed, made safe for every host, otherwise kept.

What is put right: line ends, Bcc (taken out), Date and Message-ID (added where missing), 8-bit headers (encoded words),
8-bit and long lines of bodies (`recoding`, as RFC 6376 section 5.3 asks of those who sign). What two readers could read
as two messages is refused: a second From or Subject, lines that are no header, a group in From. From goes out in a form
that all read alike, so that the author who was checked is the author who is shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import format_datetime, parsedate_tz

from core.clock import to_datetime
from core.errors import InvalidField
from outbound.composing.attachment_rules import FORBIDDEN_EXTENSIONS
from outbound.composing.control_headers import CONTROL_PREFIX
from outbound.composing.header_writing import MAX_LINE, structured_field, unstructured_field
from outbound.composing.mailboxes import NamedMailbox, address_field, read_mailboxes
from outbound.composing.mime_parameters import content_field
from outbound.composing.raw_attachments import check_attached_names
from outbound.composing.raw_fields import RawField, field_of, join_message, normalise_line_ends, split_message
from outbound.composing.recoding import recode

_REMOVED = frozenset({"bcc", "return-path"})
_REMOVED_BEGIN = (CONTROL_PREFIX, "x-pillarbox-", "resent-")
"""What steers us, what we write ourselves, and who claims to have sent the mail on, which nobody has checked."""
_ONCE = frozenset(
    [
        "from",
        "sender",
        "reply-to",
        "to",
        "cc",
        "message-id",
        "in-reply-to",
        "references",
        "subject",
        "date",
        "mime-version",
        "content-type",
        "content-transfer-encoding",
    ]
)
"""RFC 5322 section 3.6, RFC 2045."""
_ADDRESSES = frozenset({"from", "sender", "reply-to", "to", "cc"})
_MISREAD = re.compile(r'[@<>"\\]|=\?')
"""In a display name: what may look like an address, end the name, or be decoded."""
_ANGLE_ID = re.compile(r"<\s*([^<>\s]+)\s*>")
_BARE_ID = re.compile(r"(?!=\?)([!-;=?-~]{1,900})")
"""Written without the brackets; not an encoded word, as which `_safe` writes what is beyond ASCII."""
_MAX_DATE = 100
"""Characters that are read of a date."""


@dataclass(frozen=True, slots=True)
class RawOptions:
    """What is added where it is missing; see `outbound.composing.compose.ComposeOptions`."""

    message_id: str
    now_ms: int
    hostname: str
    forbidden_extensions: frozenset[str] = FORBIDDEN_EXTENSIONS


@dataclass(frozen=True, slots=True)
class RawExpectation:
    """Whom the request named; the message must name the same."""

    from_: NamedMailbox
    to: tuple[NamedMailbox, ...]
    cc: tuple[NamedMailbox, ...]
    subject: str | None
    """Takes the place of the message's own."""


@dataclass(frozen=True, slots=True)
class PreparedRaw:
    """A message that can be signed and sent."""

    content: bytes
    message_id: str
    """Without angle brackets."""
    needs_smtputf8: bool
    from_: NamedMailbox
    """Its author: the one mailbox in From."""


def prepare_raw(raw: bytes, options: RawOptions, expected: RawExpectation | None = None) -> PreparedRaw:
    """Check and complete a message; without `expected` it may name anybody. Raises `InvalidField`, field `raw`."""
    fields, body = split_message(normalise_line_ends(raw))
    _check_once(fields)
    fields = [one for one in fields if one.lowered not in _REMOVED and not one.lowered.startswith(_REMOVED_BEGIN)]
    author = _author(fields)
    fields = _by_author(fields, author)
    if expected is not None:
        _check_match(fields, expected)
        fields = _with_subject(fields, expected.subject)
    check_attached_names(fields, body, options.forbidden_extensions)
    fields, message_id = _completed([_safe(one) for one in fields], options)
    fields, body = recode(fields, body)
    _check_lines(body)
    content = join_message(fields, body)
    head = content[: len(content) - len(body)]
    return PreparedRaw(content, message_id, not head.isascii(), author)


def _check_once(fields: Sequence[RawField]) -> None:
    names = [one.lowered for one in fields if one.lowered in _ONCE]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InvalidField("raw", f"has the header {twice.title()} twice; one is allowed")


def _check_lines(body: bytes) -> None:
    """What could not be encoded anew (signed parts, broken multiparts) must fit as it is."""
    if max(map(len, body.split(b"\r\n"))) > MAX_LINE:
        problem = f"has a line of more than {MAX_LINE} bytes in a part that cannot be encoded anew; encode it as base64"
        raise InvalidField("raw", problem)


def _author(fields: Sequence[RawField]) -> NamedMailbox:
    """Without groups: of `<a@example.com>: b@example.org;` many readers see the first, and the second is the member."""
    found = _mailboxes(fields, "from", has_groups=False)
    if len(found) != 1:
        raise InvalidField("raw", f"must name one address in its From header, and names {len(found)}")
    return found[0]


def _by_author(fields: Sequence[RawField], author: NamedMailbox) -> list[RawField]:
    """From anew unless it is plain, and without a Sender of another domain: programs show him, nobody checks him."""
    kept = []
    for one in fields:
        if one.lowered == "from" and not _is_plain(one.text, author):
            kept.append(field_of(address_field("From", [author])))
        elif one.lowered != "sender" or _is_of_domain(one, author.mailbox.domain):
            kept.append(one)
    return kept


def _is_plain(value: str, author: NamedMailbox) -> bool:
    """Whether it is written so that no reader can take it for another."""
    name, address = author.name, author.address
    if not name or _MISREAD.search(name):
        return value in (address, f"<{address}>")
    return value in (f"{name} <{address}>", f'"{name}" <{address}>')


def _is_of_domain(field: RawField, domain: str) -> bool:
    try:
        found = _mailboxes([field], field.lowered, has_groups=False)
    except InvalidField:
        return False
    return len(found) == 1 and found[0].mailbox.domain == domain


def _mailboxes(fields: Sequence[RawField], lowered: str, *, has_groups: bool = True) -> tuple[NamedMailbox, ...]:
    values = [one.text for one in fields if one.lowered == lowered]
    try:
        return tuple(one for value in values for one in read_mailboxes(lowered, value, in_header=has_groups))
    except InvalidField as error:
        raise InvalidField("raw", f"its header {lowered.title()} {error.problem}") from error


def _check_match(fields: Sequence[RawField], expected: RawExpectation) -> None:
    for lowered, wanted in (("from", (expected.from_,)), ("to", expected.to), ("cc", expected.cc)):
        written = {_key(one) for one in _mailboxes(fields, lowered)}
        asked = {_key(one) for one in wanted}
        if written == asked:
            continue
        odd = sorted(written ^ asked)[0]
        where = "only in the message" if odd in written else "not in the message"
        problem = f"its header {lowered.title()} must name the same addresses as {lowered}; {odd} is {where}"
        raise InvalidField("raw", problem)


def _key(one: NamedMailbox) -> str:
    """Addresses in another case are the same to every host that matters."""
    return one.address.lower()


def _with_subject(fields: list[RawField], subject: str | None) -> list[RawField]:
    if not subject:
        return fields
    return [*(one for one in fields if one.lowered != "subject"), field_of(unstructured_field("Subject", subject))]


def _completed(fields: list[RawField], options: RawOptions) -> tuple[list[RawField], str]:
    """With Date and Message-ID, and what the latter is. What nobody can read is written anew (RFC 6409 section 8):
    large providers refuse mail for it."""
    found = {one.lowered: one.text for one in fields if one.lowered in ("date", "message-id")}
    has_date = parsedate_tz(found.get("date", "")[:_MAX_DATE]) is not None
    given = _id_in(found.get("message-id", ""))
    message_id = given or f"{options.message_id}@{options.hostname}"
    if has_date and given and found["message-id"].startswith("<"):
        return fields, message_id
    kept = [one for one in fields if not (one.lowered == "date" and not has_date) and one.lowered != "message-id"]
    if not has_date:
        date = format_datetime(to_datetime(options.now_ms // 1000 * 1000))
        kept.append(field_of(structured_field("Date", date)))
    return [*kept, field_of(structured_field("Message-ID", f"<{message_id}>"))], message_id


def _id_in(value: str) -> str:
    """The id that a Message-ID holds, also one without angle brackets; empty when it holds none."""
    found = _ANGLE_ID.search(value) or _BARE_ID.fullmatch(value)
    return found[1][:MAX_LINE] if found else ""  # every event repeats it


def _safe(field: RawField) -> RawField:
    """The field in ASCII and in lines that every host takes; unchanged where it is so already."""
    is_short = all(len(line) + len(field.name) + 1 <= MAX_LINE for line in field.lines)
    if is_short and all(line.isascii() for line in field.lines):
        return field
    if field.lowered in _ADDRESSES:
        mailboxes = _mailboxes([field], field.lowered)
        written = address_field(field.name, mailboxes) if mailboxes else f"{field.name}: nobody:;\r\n".encode()
    elif field.value.isascii():
        written = structured_field(field.name, field.text)
    elif field.lowered.startswith("content-"):
        written = content_field(field.name, field.text)
    else:
        written = unstructured_field(field.name, field.text)
    if _is_too_long(written) and (field.lowered == "subject" or field.lowered.startswith("x-")):
        written = unstructured_field(field.name, field.text)
    if _is_too_long(written):
        raise InvalidField("raw", f"its header {field.name} has a line of more than {MAX_LINE} bytes; fold it")
    return field_of(written)


def _is_too_long(written: bytes) -> bool:
    return max(map(len, written.split(b"\r\n"))) > MAX_LINE
