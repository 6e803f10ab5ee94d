"""Which parts are body and which are attachments: the judgement of RFC 8621 section 4.1.4.

A part is body when it is inline `text/plain` or `text/html`; beside others it must bear no file name unless it
comes first. Everything else is an attachment, so nothing is ever left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from inbound.reading.mime_params import MediaField, parse_media_field
from inbound.reading.mime_split import Part

_NO_DISPOSITION = MediaField("", {})
_BODY_TYPES = ("text/plain", "text/html")


@dataclass(slots=True)
class Bodies:
    """Leaves sorted by role. A text part outside any alternative is in both lists: both readers need it."""

    plain: list[Part] = field(default_factory=list)
    html: list[Part] = field(default_factory=list)
    attachments: list[Part] = field(default_factory=list)


@dataclass(slots=True)
class _Scope:
    """The lists that a subtree may add to; None once an alternative has settled on the other kind."""

    plain: list[Part] | None
    html: list[Part] | None


def sort_parts(root: Part) -> Bodies:
    """Sort the leaves of a tree. The tree's depth is bounded by `mime_split.MAX_DEPTH`, and so is this."""
    bodies = Bodies()
    if root.children:
        _sort_children(root, False, _Scope(bodies.plain, bodies.html), bodies)
        return bodies
    _sort_leaf(root, 0, "mixed", False, _Scope(bodies.plain, bodies.html), bodies)
    return bodies


def disposition_of(part: Part) -> MediaField:
    """The part's Content-Disposition, empty where it has none."""
    raw = part.content_fields.get("content-disposition")
    return parse_media_field(raw) if raw else _NO_DISPOSITION


def given_name(part: Part) -> str | None:
    """The file name a part bears, from Content-Disposition or else Content-Type."""
    return disposition_of(part).parameters.get("filename") or part.media.parameters.get("name")


def _sort_children(parent: Part, in_alternative: bool, scope: _Scope, bodies: Bodies) -> None:
    kind = parent.media.value.partition("/")[2]
    is_alternative = kind == "alternative"
    plain_before = len(scope.plain) if scope.plain is not None else -1
    html_before = len(scope.html) if scope.html is not None else -1
    for index, part in enumerate(parent.children):
        if part.children:
            # A copy: an alternative below must not close the lists of its neighbours.
            _sort_children(part, in_alternative or is_alternative, _Scope(scope.plain, scope.html), bodies)
        else:
            _sort_leaf(part, index, kind, in_alternative, scope, bodies)
    if is_alternative and scope.plain is not None and scope.html is not None:
        _share_the_only_kind(scope.plain, plain_before, scope.html, html_before)


def _sort_leaf(part: Part, index: int, kind: str, in_alternative: bool, scope: _Scope, bodies: Bodies) -> None:
    media = part.media.value
    if not _is_body(part, index, kind):
        bodies.attachments.append(part)
    elif kind == "alternative":
        chosen = scope.plain if media == "text/plain" else scope.html
        if chosen is not None:
            chosen.append(part)
    else:
        if in_alternative:
            scope.html, scope.plain = (None, scope.plain) if media == "text/plain" else (scope.html, None)
        for body in (scope.plain, scope.html):
            if body is not None:
                body.append(part)


def _is_body(part: Part, index: int, kind: str) -> bool:
    if part.media.value not in _BODY_TYPES or disposition_of(part).value == "attachment":
        return False
    return index == 0 or (kind != "related" and not given_name(part))


def _share_the_only_kind(plain: list[Part], plain_before: int, html: list[Part], html_before: int) -> None:
    """An alternative that offers one kind only offers it to both readers."""
    if len(plain) == plain_before and len(html) != html_before:
        plain.extend(html[html_before:])
    elif len(html) == html_before and len(plain) != plain_before:
        html.extend(plain[plain_before:])
