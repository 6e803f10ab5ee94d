"""Open pixels, tracked links and one-click unsubscribing: what recipients' programs ask for, at any host name.

Tokens carry all that pixel and redirect need, so that these wait for no database (`web.hit_recorder`). Unsubscribing is
a promise, and answered once it is durable.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from urllib.parse import urlsplit

import structlog
from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge

from core.delivery import DeliveryKind
from core.errors import NotFound, StorageUnavailable
from core.sending.domain_tracking import is_address, tracking_goal
from core.sending.events import EventDetails
from core.sending.tracking_answers import (
    PrivacySignals,
    TrackingResponse,
    click_response,
    coarse_network,
    declines_tracking,
    elsewhere_response,
    kept_hit,
    network_address,
    open_response,
    unknown_link_response,
)
from core.sending.tracking_hits import hit_from_request, request_signals
from core.sending.tracking_tokens import (
    CLICK_PATH,
    OPEN_PATH,
    UNSUBSCRIBE_PATH,
    Clicked,
    Opened,
    TrackedLink,
    TrackingTokens,
    Unsubscribing,
)
from core.services.tracking import NewHit
from core.services.unsubscribing import Subscription, find_subscription, subscribe_again, unsubscribe
from web.client_address import client_address
from web.context import context
from web.hit_recorder import HitRecorder
from web.unsubscribe_page import (
    AGAIN_FIELD,
    AGAIN_VALUE,
    FROM_PAGE_FIELD,
    ONE_CLICK_FIELD,
    ONE_CLICK_VALUE,
    done_page,
    gone_page,
    later_page,
    question_page,
    returned_page,
    unreadable_page,
)

EXTENSION = "pillarbox_tracking"
MAX_FORM_BYTES = 4 * 1024
"""Of a POST to unsubscribe, which has 26, or some hundred as multipart/form-data."""
MAX_AGENT_CHARACTERS = 500
log = structlog.get_logger("tracking")
tracking = Blueprint("tracking", __name__)
_making = threading.Lock()


@tracking.get(f"/{OPEN_PATH}/<token>")
def opened(token: str) -> Response:
    """The pixel, for any token."""
    tokens = recorder().tokens()
    read = tokens.read(token) if tokens is not None else None
    if isinstance(read, Opened):
        _record(read.delivery_id, None)
    return _response(open_response())


@tracking.get(f"/{CLICK_PATH}/<token>")
def clicked(token: str) -> Response:
    """To where the link leads."""
    tokens = recorder().tokens()
    if tokens is None:
        return later_page()
    read = tokens.read(token)
    if not isinstance(read, Clicked):
        return _response(unknown_link_response())
    if _is_anothers(tokens, read):
        return _response(elsewhere_response(read.link.target))
    _record(read.delivery_id, read.link)
    return _response(click_response(read.link.target))


@tracking.get(f"/{UNSUBSCRIBE_PATH}/<token>")
def ask(token: str) -> Response:
    """The question; changes nothing."""
    return _about(token, change=False)


@tracking.post(f"/{UNSUBSCRIBE_PATH}/<token>")
def leave(token: str) -> Response:
    """Unsubscribe at once (RFC 8058 section 3.2), or take it back: with no cookie, no login and no redirect."""
    return _about(token, change=True)


def recorder() -> HitRecorder:
    """What records the hits of this application; made when it is first needed."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    if EXTENSION not in app.extensions:
        with _making:
            ctx = context()
            app.extensions.setdefault(EXTENSION, HitRecorder(ctx.database, ctx.ring, ctx.clock))
    found: HitRecorder = app.extensions[EXTENSION]
    return found


def _is_anothers(tokens: TrackingTokens, read: Clicked) -> bool:
    """Whether a link is asked for under a name that it was not made for, and that may be another customer's.

    Our own name may be asked for any of them; so may names that no customer can have, which proxies put in its place.
    (Of names with odd letters `request.host` knows nothing: below a customer's wildcard they may be his.)
    """
    try:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return True
    is_customers = "." in host.strip(".") and not is_address(host)
    own = tracking_goal(context().settings.tracking_base)
    return is_customers and host != own and tokens.host_mark(host) != read.host_mark


def _record(delivery_id: str, link: TrackedLink | None) -> None:
    """Judge what the request says of itself, then keep no more of it than we may."""
    ctx = context()
    number = None if link is None else link.number
    address = client_address(request, ctx.settings.proxy_sources)
    hit = hit_from_request(ctx.clock(), number, request.method, address, request.headers)
    kept = kept_hit(hit, request.headers, ctx.settings.privacy)
    if kept is not None:
        kept = replace(kept, address=coarse_network(kept.address))
        target = None if link is None else link.target
        recorder().put(NewHit(delivery_id, kept, target, request.method, request_signals(hit)))


def _about(token: str, *, change: bool) -> Response:
    """What concerns the delivery of a token to unsubscribe."""
    tokens = recorder().tokens()
    if tokens is None:
        return later_page()
    read = tokens.read(token)
    if not isinstance(read, Unsubscribing):
        return _response(unknown_link_response())
    try:
        return _changed(read.delivery_id) if change else _shown(_found(read.delivery_id))
    except NotFound:
        return gone_page()
    except StorageUnavailable as error:
        log.warning("unsubscribing is not possible now", reason=str(error))
        return later_page()


def _changed(delivery_id: str) -> Response:
    ctx = context()
    request.max_content_length = MAX_FORM_BYTES
    try:
        form = request.form
    except RequestEntityTooLarge:
        return unreadable_page()
    if form.get(AGAIN_FIELD) == AGAIN_VALUE:
        return _returned(_found(delivery_id))
    if form.get(ONE_CLICK_FIELD) != ONE_CLICK_VALUE:
        return unreadable_page()
    found = _found(delivery_id)
    if unsubscribe(ctx.database, delivery_id, _details(FROM_PAGE_FIELD in form), ctx.clock()):
        ctx.ring(DeliveryKind.EVENTS)
    return _shown(found.after_leaving())


def _returned(found: Subscription) -> Response:
    """What is not to be taken back here stays, and the page says so."""
    if subscribe_again(context().database, found.delivery_id) or found.reason is None:
        return returned_page(found.sender, found.recipient)
    return done_page(found.sender, found.recipient, can_return=False)


def _found(delivery_id: str) -> Subscription:
    """Asked twice: this is the request's first query, and may meet a connection that has died since the last one."""
    database = context().database
    try:
        return find_subscription(database, delivery_id)
    except StorageUnavailable:
        return find_subscription(database, delivery_id)


def _shown(found: Subscription) -> Response:
    if not found.has_left:
        return question_page(found.sender, found.recipient)
    return done_page(found.sender, found.recipient, can_return=found.can_return)


def _details(is_from_page: bool) -> EventDetails:
    """Who asked, unless he asks not to be known."""
    ctx = context()
    reason = "on the page to unsubscribe" if is_from_page else "by the mail program, with one click"
    if declines_tracking(request.headers) and ctx.settings.privacy is not PrivacySignals.IGNORE:
        return EventDetails(reason=reason)
    network = coarse_network(client_address(request, ctx.settings.proxy_sources))
    agent = request.headers.get("User-Agent", "")[:MAX_AGENT_CHARACTERS].strip()
    return EventDetails(reason=reason, agent=agent or None, ip=network_address(network) or None)


def _response(answer: TrackingResponse) -> Response:
    return Response(answer.body, answer.status, headers=dict(answer.headers))
