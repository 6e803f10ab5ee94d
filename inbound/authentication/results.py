"""Authentication-Results (RFC 8601): writing ours, and removing what others wrote in our name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from core.verdicts import AuthResult, DkimSignature, DmarcVerdict, SpfVerdict, Verdicts
from inbound.authentication.header_fields import MBOX_LINE
from inbound.authentication.results_reader import read_authserv_id
from inbound.reading.mime_words import decode_words

RESULTS_FIELD = "authentication-results"
MAX_VALUE = 300
"""Characters of one value that somebody else chose."""
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+\Z")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_NOISE = re.compile(r'[\s"\\]+')
_COMMENT = re.compile(r"\([^()]*\)")
_LINE_END = rb"(?:\r\n|\n|\r)"
_RESULTS_LINES = re.compile(
    rb"(?<![^\r\n])authentication-results[ \t]*+:([^\r\n]*+(?:"
    + _LINE_END
    + rb"[ \t][^\r\n]*+)*+)(?:"
    + _LINE_END
    + rb"|\Z)",
    re.IGNORECASE,
)
_BLANK_LINE = re.compile(rb"(?:\A|\n)\r?\n")
_QUOTED_OR_FOLDABLE = re.compile(r'"(?:[^"\\]|\\.)*+"|; ')
_LINE_BREAK = re.compile(r"[\r\n]+[ \t]*")


def results_header(verdicts: Verdicts, authserv_id: str) -> str:
    """The value of an Authentication-Results header, on one line; whatever others chose is quoted."""
    parts = [_token_or_quoted(authserv_id)]
    if verdicts.spf is not None:
        parts.append(_spf(verdicts.spf))
    if verdicts.dkim is not None:
        parts.extend(_dkim(signature) for signature in verdicts.dkim.signatures)
        if not verdicts.dkim.signatures:
            parts.append(f"dkim={AuthResult.NONE}")
    if verdicts.dmarc is not None:
        parts.append(_dmarc(verdicts.dmarc))
    if verdicts.arc is not None:
        sealers = verdicts.arc.sealers
        parts.append(f"arc={verdicts.arc.result}" + (f" header.d={_token_or_quoted(sealers[-1])}" if sealers else ""))
    return "; ".join(parts if len(parts) > 1 else [*parts, "none"])


def without_forged(headers: Sequence[tuple[str, str]], authserv_id: str) -> list[tuple[str, str]]:
    """The headers, but none that claims to hold our results (RFC 8601 section 5). Results of others stay."""
    return [
        (name, value)
        for name, value in headers
        if name.strip().lower() != RESULTS_FIELD or not claims(value, authserv_id)
    ]


def with_trace(raw: bytes, received: str | None, results: str | None, authserv_id: str) -> bytes:
    """A raw message with our Received and Authentication-Results on top, and none in our name that is not ours.

    Everything else stays as it came, byte by byte. Line breaks in what is put on top become folds.
    """
    trace = b"".join(
        f"{name}: {_folded(value)}\r\n".encode("utf-8", "replace")
        for name, value in (("Received", received), ("Authentication-Results", results))
        if value is not None
    )
    blank = _BLANK_LINE.search(raw)
    header_end = blank.start() + 1 if blank else len(raw)
    mbox = MBOX_LINE.match(raw)
    start = mbox.end() if mbox and mbox[0].endswith(b"\n") else 0
    return b"".join([raw[:start], trace, *_kept_pieces(raw, start, header_end, authserv_id)])


def claims(value: str, authserv_id: str) -> bool:
    """Whether a value says, or could be taken to say, that it is from us: by what a careless reader sees, too."""
    ours = authserv_id.lower().removesuffix(".")
    return any(_claims(reading, ours) for reading in {value, decode_words(value)})


def _claims(value: str, ours: str) -> bool:
    said = read_authserv_id(value)
    if said is not None and _bare(said) == ours:
        return True
    head = value.partition(";")[0]
    if said is None:
        return ours in _NOISE.sub("", value).lower()
    plain = _NOISE.sub("", _COMMENT.sub("", head)).lower()
    is_torn = bool(_NOISE.search(head.strip()))
    return plain.removesuffix(".") == ours or (is_torn and plain.rstrip("0123456789").removesuffix(".") == ours)


def _bare(said: str) -> str:
    return said.partition("/")[0].strip().lower().removesuffix(".")


def _kept_pieces(raw: bytes, start: int, header_end: int, authserv_id: str) -> Iterator[bytes]:
    for match in _RESULTS_LINES.finditer(raw, start, header_end):
        if claims(match[1].decode("utf-8", "replace"), authserv_id):
            yield raw[start : match.start()]
            start = match.end()
    yield raw[start:]


def _folded(value: str) -> str:
    one_line = _LINE_BREAK.sub(" ", value).strip()
    return _QUOTED_OR_FOLDABLE.sub(lambda match: ";\r\n\t" if match[0] == "; " else match[0], one_line)


def _spf(spf: SpfVerdict) -> str:
    identity = "smtp.helo" if spf.is_helo else "smtp.mailfrom"
    return f"spf={spf.result}" + _property(identity, spf.domain)


def _dkim(signature: DkimSignature) -> str:
    reason = f" reason={_quoted(signature.reason)}" if signature.reason else ""
    return (
        f"dkim={signature.result}{reason}"
        + _property("header.d", signature.domain)
        + _property("header.s", signature.selector)
        + _property("header.a", signature.algorithm or "")
    )


def _dmarc(dmarc: DmarcVerdict) -> str:
    is_relayed = dmarc.result is AuthResult.PASS and not (dmarc.is_spf_aligned or dmarc.is_dkim_aligned)
    reason = ' reason="by a trusted ARC sealer"' if is_relayed else ""
    policy = _property("policy.published-domain-policy", dmarc.policy or "")
    return f"dmarc={dmarc.result}{reason}{policy}" + _property("header.from", dmarc.domain)


def _property(name: str, value: str) -> str:
    return f" {name}={_token_or_quoted(value)}" if value else ""


def _token_or_quoted(value: str) -> str:
    return value if _TOKEN.match(value) and len(value) <= MAX_VALUE else _quoted(value)


def _quoted(value: str) -> str:
    printable = _UNPRINTABLE.sub("?", value[:MAX_VALUE])
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
