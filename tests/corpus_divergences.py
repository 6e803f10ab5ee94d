"""Where our reading of the outside corpus differs from the independent parser's, and why ours is right.

Message → field → reason. A field listed here must really differ, so an entry goes when the reading changes.
"""

from __future__ import annotations

_EIGHT_BIT_HEADER = (
    "the header holds raw ISO-8859-1 bytes; theirs shows replacement characters, ours the umlauts the sender wrote"
)
_EIGHT_BIT_NAME = "the file name holds a raw ISO-8859-1 byte; theirs shows a replacement character, ours the umlaut"
_EIGHT_BIT_TEXT = (
    "the body is ISO-8859-1 under no label or a wrong one; theirs shows replacement characters, ours the umlauts"
)
_UUENCODED = (
    "the part is declared x-uuencode; theirs hands out the encoded text, ours the file that was attached, and the "
    "name in its `begin` line agrees with the declared one"
)
_PATH_IN_NAME = (
    "the name is a path on the sender's machine; theirs keeps it (or glues it together), ours is its last component"
)
_NOT_CLOSED = (
    "the message ends without the closing boundary; theirs then files the last text part as an attachment, ours "
    "shows it as the body it is"
)
_OUTER_BOUNDARY = (
    "an outer boundary appears while the inner multipart is still open and ends it (RFC 2046 section 5.1.2); "
    "theirs runs on, so that boundary and header lines end up inside the content"
)
_LOST_BLANK_LINE = (
    "the blank line and first boundary of the inner multipart are missing; theirs shows its raw MIME lines as text, "
    "ours finds the plain text and the HTML behind it"
)

DIVERGENCES: dict[str, dict[str, str]] = {
    "legacy/010": {"subject": _EIGHT_BIT_HEADER, "to": _EIGHT_BIT_HEADER},
    "legacy/016": {"attachment 1 name": _EIGHT_BIT_NAME},
    "legacy/017": {
        "to": _EIGHT_BIT_HEADER,
        "attachment 0 bytes": _UUENCODED,
        "attachment 1 bytes": _UUENCODED,
    },
    "legacy/020": {"subject": _EIGHT_BIT_HEADER, "to": _EIGHT_BIT_HEADER},
    "legacy/022": {"subject": _EIGHT_BIT_HEADER, "to": _EIGHT_BIT_HEADER},
    "legacy/023": {"attachment 2 name": _EIGHT_BIT_NAME},
    "legacy/026": {"attachment 0 bytes": _UUENCODED, "attachment 0 name": _EIGHT_BIT_NAME},
    "legacy/027": {"subject": _EIGHT_BIT_HEADER, "to": _EIGHT_BIT_HEADER},
    "legacy/033": {"text": _EIGHT_BIT_TEXT},
    "legacy/035": {"attachment 0 name": _PATH_IN_NAME, "attachment 1 name": _PATH_IN_NAME},
    "legacy/039": {"attachment 0 name": _PATH_IN_NAME, "attachment 1 name": _PATH_IN_NAME},
    "legacy/048": {
        "attachment 0 bytes": _UUENCODED,
        "attachment 1 bytes": _UUENCODED,
        "attachment 2 bytes": _UUENCODED,
    },
    "legacy/049": {
        "text": "the file ends in a lone carriage return, which is part of the body; theirs drops it, ours keeps it",
        "attachments": "three uuencoded pictures stand inside the text; theirs shows them as text only, ours shows the "
        "text as it stands and hands out the pictures as well",
    },
    "legacy/052": {"subject": _EIGHT_BIT_HEADER, "to": _EIGHT_BIT_HEADER, "text": _EIGHT_BIT_TEXT},
    "malformed/001": {
        "text": "the inner multipart is ended by the outer boundary `ab`, so the line `--a` behind it is text; theirs "
        "still takes it for a boundary of the inner one",
        "attachments": "theirs makes an empty attachment of the text behind that line",
    },
    "malformed/002": {
        "text": "no boundary of the multipart appears; theirs files the only text as an attachment, ours shows it",
        "attachments": "the same text: it is our body, and theirs is an attachment",
    },
    "malformed/003": {"text": _NOT_CLOSED, "attachments": _NOT_CLOSED},
    "malformed/004": {
        "text": "the boundary `a` never stands on a line of its own; theirs takes the lines `--ab` and `--ac` for it, "
        "which would end parts on the boundaries of other multiparts; ours shows the text as it stands",
        "attachments": "the same text: it is our body, and part of it theirs files as an attachment",
    },
    "malformed/006": {"text": _NOT_CLOSED, "attachments": _NOT_CLOSED},
    "malformed/007": {
        "attachments": "theirs makes an attachment of the nothing behind the closing boundary; there is none"
    },
    "malformed/008": {"html": _NOT_CLOSED, "attachments": _NOT_CLOSED},
    "malformed/009": {"text": _OUTER_BOUNDARY, "attachments": _OUTER_BOUNDARY},
    "malformed/011": {"text": _OUTER_BOUNDARY, "attachments": _OUTER_BOUNDARY},
    "malformed/012": {"attachments": _OUTER_BOUNDARY, "attachment 1 bytes": _OUTER_BOUNDARY},
    "malformed/016": {
        "text": "the outermost boundary ends the two multiparts inside it, whose boundary lines behind it are then "
        "text, and nothing is left out; theirs matches by prefix and files the last text as an attachment",
        "attachments": "the last text part is body in ours; theirs makes it an attachment as it is not closed",
    },
    "malformed/019": {
        "text": "a damaged message in which boundary lines differ in case: theirs shows no plain text at all, ours "
        "shows the plain part the damage left",
    },
    "malformed/020": {"text": _LOST_BLANK_LINE, "html": _LOST_BLANK_LINE},
    "malformed/021": {"text": _LOST_BLANK_LINE, "html": _LOST_BLANK_LINE},
    "rfc/001": {"attachment 1 name": _PATH_IN_NAME},
    "thirdparty/000": {
        "text": "the text holds a NUL, which PostgreSQL and C programs cannot take; ours leaves it out and says so"
    },
    "thirdparty/002": {
        "text": "a word follows the padding of a base64 text on its line; theirs decodes it into noise, ours stops at "
        "the padding; a last part that is no base64 is shown as it stands instead of becoming an attachment",
        "attachments": "the last part is inline text without a name, so it is body and not an attachment",
    },
    "thirdparty/015": {
        "attachments": "three cut-off messages are attached one after the other; theirs nests them in the first, whose "
        "own boundary never appears, ours keeps each as an .eml between the outer boundaries",
        "attachment 0 bytes": "the first attached message ends at the outer boundary; theirs runs on into the second",
    },
}
