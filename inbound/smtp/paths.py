"""The argument of MAIL and RCPT: a path in brackets, and parameters behind it (RFC 5321 section 4.1.2)."""

from __future__ import annotations

NULL_PATH = "<>"
"""The sender of a bounce, as aiosmtpd's envelope holds it: it must not be empty there."""
POSTMASTER = "postmaster"


def split_path(argument: str) -> tuple[str | None, str | None]:
    """`<path> parameters` taken apart; brackets may be missing, as old clients leave them out."""
    if not argument.startswith("<"):
        path, _, parameters = argument.partition(" ")
        return path or None, parameters
    end = _closing_bracket(argument)
    return (None, None) if end < 0 else (argument[1:end], argument[end + 1 :].strip())


def with_domain(path: str, domain: str) -> str:
    """The path of a recipient: `postmaster` may stand alone, in any case, and is then ours (RFC 5321 section 4.5.1)."""
    return f"{path}@{domain}" if path.lower() == POSTMASTER else path


def _closing_bracket(argument: str) -> int:
    """Where the path ends: a `>` inside a quoted local part does not end it."""
    is_quoted = False
    position = 1
    while position < len(argument):
        character = argument[position]
        if character == "\\" and is_quoted:
            position += 1
        elif character == '"':
            is_quoted = not is_quoted
        elif character == ">" and not is_quoted:
            return position
        position += 1
    return -1
