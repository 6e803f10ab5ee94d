"""Names under which an attachment can be stored: no path, no shell syntax, no tricks, no two alike."""

from __future__ import annotations

import mimetypes
import re
import unicodedata

MAX_NAME_BYTES = 200
"""UTF-8 bytes of a whole name; common file systems allow 255, and a number may still be added."""
MAX_EXTENSION_CHARACTERS = 20

_PATH = re.compile(r"[/\\]")
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffc\ud800-\udfff]"
)
"""Control characters, and those that reorder or hide text: `gpj.exe` shown as `exe.jpg`."""
_SHELL = str.maketrans(dict.fromkeys(';|&$<>"`*?:', "_") | {"'": "\N{RIGHT SINGLE QUOTATION MARK}"})
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)
_KNOWN_TYPES = mimetypes.MimeTypes(filenames=())
"""Python's built-in table only: the machine's own would make names differ between machines."""
_EXTENSIONS = {
    "message/rfc822": ".eml",
    "message/global": ".eml",
    "message/delivery-status": ".txt",
    "message/disposition-notification": ".txt",
    "text/rfc822-headers": ".txt",
    "text/calendar": ".ics",
    "text/plain": ".txt",
    "text/enriched": ".txt",
    "text/x-amp-html": ".html",
    "application/ics": ".ics",
    "application/pgp-signature": ".asc",
    "application/pgp-encrypted": ".asc",
    "application/pgp-keys": ".asc",
    "application/pkcs7-mime": ".p7m",
    "application/x-pkcs7-mime": ".p7m",
    "application/pkcs7-signature": ".p7s",
    "application/x-pkcs7-signature": ".p7s",
    "application/ms-tnef": ".dat",
    "application/octet-stream": ".bin",
    "application/gzip": ".gz",
    "audio/mp3": ".mp3",
    "image/jpg": ".jpg",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/heic": ".heic",
}
_STEMS = {
    "message/rfc822": "message",
    "message/global": "message",
    "text/calendar": "invite",
    "application/pgp-signature": "signature",
    "application/pkcs7-signature": "smime",
    "application/x-pkcs7-signature": "smime",
    "application/pkcs7-mime": "smime",
    "application/x-pkcs7-mime": "smime",
    "application/ms-tnef": "winmail",
}


class FileNames:
    """Hands out the names of one message's attachments, each only once (whatever the case of its letters)."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next_number: dict[str, int] = {}

    def name(self, given: str | None, media_type: str) -> str:
        """A safe, unique name: from what the message gave, or made up from the type (`attachment.pdf`)."""
        wanted = safe_name(given) if given else ""
        return self._unique(wanted or generated_name(media_type))

    def _unique(self, name: str) -> str:
        """The first name as it is, its namesakes as `name-2.ext`, `name-3.ext` …; constant work for each."""
        key = name.casefold()
        candidate = name
        while candidate.casefold() in self._taken:
            number = self._next_number.get(key, 2)
            self._next_number[key] = number + 1
            stem, extension = _split_extension(name)
            candidate = f"{stem}-{number}{extension}"
        self._taken.add(candidate.casefold())
        return candidate


def safe_name(given: str) -> str:
    """What remains of a given name when everything that could hurt is gone; may be empty.

    Only the last component of a path is kept. Characters with a meaning to a shell become `_` (an apostrophe
    becomes a typographic one), a leading dot, hyphen or tilde goes, a device name of Windows is prefixed.
    """
    name = unicodedata.normalize("NFC", given[: 8 * MAX_NAME_BYTES])
    name = _INVISIBLE.sub("", _PATH.split(name.rstrip("/\\ "))[-1])
    name = " ".join(name.translate(_SHELL).split()).lstrip(".-~ ").rstrip(". ")
    if _RESERVED.match(name):
        name = f"_{name}"
    return _shortened(name)


def generated_name(media_type: str) -> str:
    """A name for a part that gave none: a word for what it is, and the extension of its type."""
    extension = _EXTENSIONS.get(media_type) or _KNOWN_TYPES.guess_extension(media_type) or ".bin"
    main = media_type.partition("/")[0]
    stem = _STEMS.get(media_type) or (main if main in ("image", "audio", "video") else "attachment")
    return stem + extension


def type_of_name(name: str) -> str:
    """The media type a name's extension stands for, in Python's own table; else `application/octet-stream`."""
    extension = _split_extension(name)[1].lower()
    return _KNOWN_TYPES.types_map[True].get(extension) or "application/octet-stream"


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    stem, extension = _split_extension(name)
    room = MAX_NAME_BYTES - len(extension.encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip() + extension


def _split_extension(name: str) -> tuple[str, str]:
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension) > MAX_EXTENSION_CHARACTERS:
        return name, ""
    return stem, dot + extension
