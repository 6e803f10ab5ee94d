"""The page on which a recipient unsubscribes: a question, a button, nothing else.

No script, nothing fetched, no cookie. Only the button's POST unsubscribes: programs that look at every link of a mail
send GET (RFC 8058 section 1).
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from http import HTTPStatus

from flask import Response

ONE_CLICK_FIELD = "List-Unsubscribe"
ONE_CLICK_VALUE = "One-Click"
"""RFC 8058 section 3.2: what mail programs POST; our button sends the same."""
AGAIN_FIELD = "Subscribe"
AGAIN_VALUE = "again"
FROM_PAGE_FIELD = "page"
"""Beside the others, from our buttons only: tells them from mail programs."""
RETRY_AFTER_S = 5

_STYLE = (
    "body{font:1.1em/1.5 system-ui,sans-serif;max-width:32em;margin:4em auto;padding:0 1em;"
    "color:#222;background:#fff}"
    "button{font:inherit;padding:.5em 1.2em;border:1px solid #222;border-radius:.3em;background:#222;color:#fff}"
    "button.quiet{background:#fff;color:#222}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
}
MASK = "…"


def question_page(sender: str, recipient: str) -> Response:
    """Asks whether the recipient wants to leave."""
    button = _button(ONE_CLICK_FIELD, ONE_CLICK_VALUE, "Unsubscribe")
    return _page(f"<p>Send no more mail {_from(sender)}to {_shown(recipient)}?</p>{button}")


def done_page(sender: str, recipient: str, *, can_return: bool) -> Response:
    """Says that the recipient has left, and offers the way back."""
    again = _button(AGAIN_FIELD, AGAIN_VALUE, "Subscribe again", "quiet") if can_return else ""
    text = f"<p>Unsubscribed: {_shown(recipient)} gets no more mail {_from(sender)}".rstrip()
    return _page(f"{text}.</p>{again}")


def returned_page(sender: str, recipient: str) -> Response:
    """Says that the recipient gets mail again."""
    button = _button(ONE_CLICK_FIELD, ONE_CLICK_VALUE, "Unsubscribe", "quiet")
    return _page(f"<p>Subscribed again: {_shown(recipient)} gets mail {_from(sender)}as before.</p>{button}")


def unreadable_page() -> Response:
    """For a POST that says neither the one nor the other."""
    return _page("<p>Nothing was changed. Please use the link in the mail.</p>", HTTPStatus.BAD_REQUEST)


def gone_page() -> Response:
    """For a mail that is not kept any more."""
    text = "<p>This mail is too old for its link to work. Please use the link of a newer one, or answer the mail.</p>"
    return _page(text, HTTPStatus.GONE)


def later_page() -> Response:
    """For a fault of ours that passes."""
    page = _page("<p>This does not work just now. Please try again in a minute.</p>", HTTPStatus.SERVICE_UNAVAILABLE)
    page.headers["Retry-After"] = str(RETRY_AFTER_S)
    return page


def _from(sender: str) -> str:
    return f"from <b>{escape(sender)}</b> " if sender else ""


def _shown(recipient: str) -> str:
    """Enough to recognise one's own address; the page may be in the hands of whom the mail was passed on to."""
    local, at, domain = recipient.rpartition("@")
    return f"<b>{escape(local[:1])}{MASK}{at}{escape(domain)}</b>"


def _button(name: str, value: str, text: str, look: str = "") -> str:
    """To the page's own URL: a form without `action`."""
    return (
        f'<form method="post"><input type="hidden" name="{name}" value="{value}">'
        f'<input type="hidden" name="{FROM_PAGE_FIELD}" value="1">'
        f'<button class="{look}">{text}</button></form>'
    )


def _page(content: str, status: int = HTTPStatus.OK) -> Response:
    html = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Unsubscribe</title>'
        f"<style>{_STYLE}</style></head><body><h1>Unsubscribe</h1>{content}</body></html>\n"
    )
    return Response(html, status, headers=HEADERS, mimetype="text/html")
