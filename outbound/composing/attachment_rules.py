"""Attachments of a draft, and what is refused of them: programs, file names that hide something, bad media types."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.errors import InvalidField
from outbound.composing.header_writing import check_line

FORBIDDEN_EXTENSIONS = frozenset(
    ["vbs", "exe", "bin", "bat", "chm", "com", "hta", "pif", "reg", "vbe", "vba", "msc", "msi"]
)
"""CloudMailin's list of what may not be attached."""
MAX_ATTACHMENTS = 200
MAX_FILE_NAME_LENGTH = 255
"""As long as file systems take."""
MAX_CONTENT_TYPE_LENGTH = 255
MAX_CONTENT_ID_LENGTH = 250
DEFAULT_CONTENT_TYPE = "application/octet-stream"

_TOKEN = r"[A-Za-z0-9!#$&^_.+'*`|~%{}-]+"  # noqa: S105 (a pattern, not a secret)
_MEDIA_TYPE = re.compile(rf"({_TOKEN})/({_TOKEN})((?:[ ]*;.*)?)")
_PARAMETER = re.compile(rf'[ ]*;[ ]*(?P<name>{_TOKEN})[ ]*=[ ]*(?:(?P<token>{_TOKEN}|[^\s";,]+)|"(?P<quoted>[^"\\]*)")')
_CONTENT_ID = re.compile(r"[!-;=?-~]+")
_KEPT_PARAMETERS = frozenset({"charset", "method", "format", "delsp", "profile", "component", "version", "codecs"})
"""The others are about the transport or the name of the part, which we write ourselves."""


@dataclass(frozen=True, slots=True)
class DraftAttachment:
    """A file that goes with a message."""

    file_name: str
    content: bytes
    content_type: str = DEFAULT_CONTENT_TYPE
    content_id: str | None = None
    """Makes it inline: the HTML shows it as `cid:` and this, without angle brackets."""


def check_attachments(
    attachments: Sequence[DraftAttachment], forbidden_extensions: frozenset[str]
) -> tuple[DraftAttachment, ...]:
    """The same with names trimmed, media types normalised, ids without brackets. Raises `InvalidField`."""
    if len(attachments) > MAX_ATTACHMENTS:
        raise InvalidField("attachments", f"are more than {MAX_ATTACHMENTS}")
    checked = tuple(_check(f"attachments[{index}]", one, forbidden_extensions) for index, one in enumerate(attachments))
    ids = [one.content_id for one in checked if one.content_id]
    for index, one in enumerate(checked):
        if one.content_id and ids.count(one.content_id) > 1:
            raise InvalidField(f"attachments[{index}].content_id", "is that of another attachment too")
    return checked


def extension(file_name: str) -> str:
    """What decides how a computer opens a file: without the dots and blanks that Windows drops at the end, without an
    NTFS stream (`x.exe::$DATA`), invisible characters or wide letters, in lower case."""
    visible = "".join(one for one in file_name if unicodedata.category(one) != "Cf")
    plain = unicodedata.normalize("NFKC", visible).partition(":")[0].rstrip(". \t\u00a0").casefold()
    return plain.rpartition(".")[2].strip() if "." in plain else ""


def _check(field: str, one: DraftAttachment, forbidden_extensions: frozenset[str]) -> DraftAttachment:
    name = check_line(f"{field}.file_name", one.file_name.strip(), MAX_FILE_NAME_LENGTH)
    if not name.strip(". "):
        raise InvalidField(f"{field}.file_name", "must be given, with its extension")
    if "/" in name or "\\" in name:
        raise InvalidField(f"{field}.file_name", "must be a name without a path, so without / and \\")
    if extension(name) in forbidden_extensions:
        problem = f"is of a forbidden type (.{extension(name)}); programs are not sent, give a link instead"
        raise InvalidField(f"{field}.file_name", problem)
    content_type = _check_content_type(f"{field}.content_type", one.content_type)
    content_id = _check_content_id(f"{field}.content_id", one.content_id)
    return replace(one, file_name=name, content_type=content_type, content_id=content_id)


def _check_content_type(field: str, text: str) -> str:
    check_line(field, text, MAX_CONTENT_TYPE_LENGTH)
    found = _MEDIA_TYPE.fullmatch(text.strip() or DEFAULT_CONTENT_TYPE)
    if found is None or not text.isascii():
        raise InvalidField(field, "must be a media type like application/pdf")
    written = [f"{found[1]}/{found[2]}".lower()]
    rest = found[3].rstrip("; ")
    position = 0
    while position < len(rest):
        parameter = _PARAMETER.match(rest, position)
        if parameter is None:
            raise InvalidField(field, "must be a media type with parameters like text/calendar; method=REQUEST")
        position = parameter.end()
        value = parameter["token"] or parameter["quoted"] or ""
        if parameter["name"].lower() in _KEPT_PARAMETERS:
            written.append(f'{parameter["name"].lower()}="{value}"')
    return "; ".join(written)


def _check_content_id(field: str, text: str | None) -> str | None:
    bare = (text or "").strip().removeprefix("<").removesuffix(">")
    if not bare:
        return None
    if not _CONTENT_ID.fullmatch(bare) or len(bare) > MAX_CONTENT_ID_LENGTH:
        raise InvalidField(
            field, f"must be at most {MAX_CONTENT_ID_LENGTH} printable ASCII characters without blanks and < >"
        )
    return bare
