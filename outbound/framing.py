"""The HTML of a message put into its layout, and its CSS into its elements, before it is stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from core.errors import StorageUnavailable
from core.services.layouts import layout_sources
from core.services.sends import Submitter
from core.store.db import Database
from outbound.composing.compose import with_bodies
from outbound.composing.css_inlining import inline_css
from outbound.composing.drafts import MessageDraft
from outbound.composing.layouts import (
    DEFAULT_FOR_ACCOUNT,
    DEFAULT_FOR_ALL,
    NO_LAYOUT,
    Layout,
    choose_layout,
    render_layout,
)
from outbound.composing.raw_fields import join_message, split_message
from outbound.composing.recoding import rewrite_html

Transform = Callable[[str], str]
_MAY_HOLD_HTML = re.compile(rb"text/html", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FrameWish:
    """What a message asks for."""

    layout: str | None = None
    """Its name, or `none`; None for the default one."""
    variables: Mapping[str, str] = field(default_factory=dict)
    inlines_css: bool = False


def frame_draft(database: Database, submitter: Submitter, draft: MessageDraft, wish: FrameWish) -> MessageDraft:
    """The draft with its HTML framed. Raises `InvalidField`, and `StorageUnavailable` also where CSS is to be inlined
    and no process can be started."""
    transform = _transform(database, submitter, wish, may_hold_html=bool(draft.html or draft.markdown))
    if transform is None:
        return draft
    whole = with_bodies(draft)
    return replace(whole, html=transform(whole.html)) if whole.html else draft


def frame_message(database: Database, submitter: Submitter, content: bytes, wish: FrameWish) -> bytes:
    """A message that `prepare_raw` gave, with its HTML framed; byte for byte the same without HTML or layout.

    Raises the same.
    """
    transform = _transform(database, submitter, wish, may_hold_html=bool(_MAY_HOLD_HTML.search(content)))
    if transform is None:
        return content
    fields, body = split_message(content)
    return join_message(*rewrite_html(fields, body, transform))


def _transform(database: Database, submitter: Submitter, wish: FrameWish, *, may_hold_html: bool) -> Transform | None:
    """What is to be done to the HTML; None for nothing. A layout that is asked for must exist in any case."""
    layout = _find(database, submitter, wish.layout) if may_hold_html or wish.layout else None
    if not may_hold_html or (layout is None and not wish.inlines_css):
        return None

    def transform(html: str) -> str:
        framed = html if layout is None else render_layout(layout, html, wish.variables)
        return _inlined(framed) if wish.inlines_css else framed

    return transform


def _inlined(html: str) -> str:
    try:
        return inline_css(html)
    except OSError as error:
        raise StorageUnavailable("CSS cannot be inlined now: the machine is too busy") from error


def _find(database: Database, submitter: Submitter, requested: str | None) -> Layout | None:
    """`<account>_default` is that of the login, else that of the account."""
    if requested == NO_LAYOUT:
        return None
    of_login, of_account = (DEFAULT_FOR_ACCOUNT.format(name) for name in (submitter.username, submitter.account_id))
    names = [requested] if requested else [of_login, of_account, DEFAULT_FOR_ALL]
    sources = layout_sources(database, submitter.account_id, names)
    return choose_layout(requested, submitter.username if of_login in sources else submitter.account_id, sources)
