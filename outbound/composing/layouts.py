"""Layouts: named frames of HTML around the HTML of a mail, with variables.

`{{ content }}` is where the mail goes, as it is. `{{ name }}` is a variable, `{{ name | text }}` one with a default;
values and defaults are escaped. Anything else in double braces is refused when the layout is stored, so that a mail
never goes out with a mark nobody replaced. Reading and rendering are linear.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from core.errors import InvalidField

CONTENT = "content"
NO_LAYOUT = "none"
"""As the name of a layout: none, not even the default one."""
DEFAULT_FOR_ALL = "all_default"
DEFAULT_FOR_ACCOUNT = "{}_default"
MAX_LAYOUT_LENGTH = 256 * 1024
MAX_RENDERED_LENGTH = 5 * 1024 * 1024
"""Postmark's limit on an HTML body."""
MAX_MARK_LENGTH = 300
CACHED_LAYOUTS = 256

_MARK = re.compile(rf"\{{\{{([^{{}}]{{0,{MAX_MARK_LENGTH}}})\}}\}}")
_INSIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*+)\s*+(?:\|(.*))?", re.DOTALL)
_BODY_START = re.compile(r"<body\b[^<>]*>", re.IGNORECASE)
_BODY_END = re.compile(r"</body\s*>", re.IGNORECASE)
_STYLE_START = re.compile(r"<style\b[^<>]*>", re.IGNORECASE)
_STYLE_END = re.compile(r"</style\s*>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    default: str | None


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout that has been read."""

    pieces: tuple[str | _Variable, ...]
    """HTML and variables in order; the content is the variable of that name."""

    @property
    def variables(self) -> dict[str, str | None]:
        """Names and defaults, without the content; None has no default."""
        found = [one for one in self.pieces if isinstance(one, _Variable) and one.name != CONTENT]
        return {one.name: one.default for one in found}


@lru_cache(maxsize=CACHED_LAYOUTS)
def read_layout(field: str, source: str) -> Layout:
    """Read a layout. Raises `InvalidField`, which shows the mark that is wrong."""
    if len(source) > MAX_LAYOUT_LENGTH:
        raise InvalidField(field, f"is longer than {MAX_LAYOUT_LENGTH:,} characters")
    parts = _MARK.split(source)
    stray = next((text for index, text in enumerate(parts) if index % 2 == 0 and _is_stray(text, index, parts)), None)
    if stray is not None:
        start = stray.rfind("{") if "{{" not in stray else stray.find("{{")
        raise InvalidField(field, f"has double braces that are no variable near {stray[max(0, start - 10) :][:40]!r}")
    pieces = [part if index % 2 == 0 else _variable(field, part) for index, part in enumerate(parts)]
    contents = [one for one in pieces if isinstance(one, _Variable) and one.name == CONTENT]
    if len(contents) != 1:
        raise InvalidField(
            field, f"must hold {{{{ {CONTENT} }}}} once, where the mail goes; it does {len(contents)} times"
        )
    return Layout(tuple(pieces))


def render_layout(layout: Layout, content: str, variables: Mapping[str, str]) -> str:
    """The frame around the content. Raises `InvalidField` that names a variable without value and default."""
    inner = body_of(content)
    escaped = {name: html.escape(value) for name, value in variables.items()}
    rendered: list[str] = []
    for piece in layout.pieces:
        if isinstance(piece, str):
            rendered.append(piece)
        elif piece.name == CONTENT:
            rendered.append(inner)
        else:
            rendered.append(_value(piece, escaped))
    if sum(map(len, rendered)) > MAX_RENDERED_LENGTH:
        raise InvalidField("html", f"is longer than {MAX_RENDERED_LENGTH:,} characters in its layout")
    return "".join(rendered)


def choose_layout(requested: str | None, account: str, sources: Mapping[str, str]) -> Layout | None:
    """The layout of a mail: the one it asks for, else the account's default, else the default for all, else none.

    `sources` are the layouts of the account by name. Raises `InvalidField` for one that does not exist.
    """
    if requested == NO_LAYOUT:
        return None
    if requested and requested not in sources:
        raise InvalidField("headers.x-cloudmta-layout", f"there is no layout called {requested!r}; make it first")
    names = [requested] if requested else [DEFAULT_FOR_ACCOUNT.format(account), DEFAULT_FOR_ALL]
    name = next((one for one in names if one in sources), None)
    return read_layout(f"layouts.{name}", sources[name]) if name else None


def body_of(document: str) -> str:
    """What goes inside a frame: of a whole document its body, with the styles of its head; else everything."""
    start = _BODY_START.search(document)
    if start is None:
        return document
    ends = list(_BODY_END.finditer(document, start.end()))
    end = ends[-1].start() if ends else len(document)
    return _styles(document[: start.start()]) + document[start.end() : end]


def _is_stray(text: str, index: int, parts: list[str]) -> bool:
    """Whether a text between marks holds braces that somebody meant as a mark: `{{ a`, or three of them. Two that
    only close are none: CSS ends so, `@media print{p{color:red}}`."""
    is_triple = index + 1 < len(parts) and text.endswith("{")
    return is_triple or "{{" in text


def _variable(field: str, inside: str) -> _Variable:
    found = _INSIDE.fullmatch(inside.strip())
    if found is None:
        raise InvalidField(
            field, f"has {{{{{inside}}}}}, which is no variable; write {{{{ name }}}} or {{{{ name | default }}}}"
        )
    default = found[2]
    if default is None:
        return _Variable(found[1], None)
    default = default.strip()
    is_quoted = len(default) > 1 and default[0] == default[-1] and default[0] in "\"'"
    return _Variable(found[1], default[1:-1] if is_quoted else default)


def _value(variable: _Variable, escaped: Mapping[str, str]) -> str:
    given = escaped.get(variable.name)
    if given:
        return given
    if variable.default is not None:
        return html.escape(variable.default)
    if given is None:
        raise InvalidField(f"variables.{variable.name}", "is used by the layout and has no default; give it a value")
    return ""


def _styles(head: str) -> str:
    """All style elements, in one pass."""
    found: list[str] = []
    start = _STYLE_START.search(head)
    while start is not None:
        end = _STYLE_END.search(head, start.end())
        if end is None:
            break
        found.append(head[start.start() : end.end()])
        start = _STYLE_START.search(head, end.end())
    return "".join(found)
