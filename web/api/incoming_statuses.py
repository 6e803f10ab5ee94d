"""`/incoming_statuses`: what became of every message, and trying again."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from core.delivery import RECEIVED_KINDS
from core.search import compile_query
from core.services import replay
from core.services import statuses as service
from core.services.addresses import require_known_address
from core.services.replay import Wish
from core.services.statuses import StatusFilter
from web.api.blueprint import INVALID, make_blueprint
from web.api.fields import AccountPath
from web.api.paging import json_response, list_response
from web.api.status_models import (
    IncomingStatus,
    IncomingStatusDetail,
    IncomingStatusList,
    ReplayQuery,
    RetryResult,
    StatusListQuery,
    StatusPath,
    detail_answer,
    status_answer,
)
from web.context import account_id, context
from web.errors import Error

RAW_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, no-store",
}
"""A message is a stranger's work: a browser must save it, never show or run it."""

api: APIBlueprint = make_blueprint(
    "incoming_statuses", __name__, Tag(name="incoming_statuses", description="What became of received messages.")
)


@api.get(
    "/incoming_statuses",
    responses={200: IncomingStatusList, 404: Error, **INVALID},
    description="With `query`, a page may hold fewer entries than asked for although there are more: a search that "
    "has looked for some seconds gives what it has. There is a next page as long as there is a `Link` header.",
)
def list_incoming_statuses(path: AccountPath, query: StatusListQuery) -> Response:
    """List and search received messages, newest first."""
    ctx = context()
    wanted = _filter(query.address_id, query.query)
    page = service.list_statuses(ctx.database, wanted, query.to_request(), ctx.clock)
    now_ms = ctx.clock()
    return list_response(
        IncomingStatusList([status_answer(record, now_ms) for record in page.entries]), page.next_cursor
    )


@api.get("/incoming_statuses/<status_id>", responses={200: IncomingStatusDetail, 404: Error})
def get_incoming_status(path: StatusPath) -> Response:
    """Show a received message with every attempt to deliver it."""
    ctx = context()
    record = service.get_status(ctx.database, account_id(), path.status_id)
    attempts = service.list_attempts(ctx.database, record.delivery_id)
    verdicts = service.read_verdicts_of(ctx.database, record.delivery_id)
    return json_response(detail_answer(record, attempts, verdicts, ctx.clock()))


@api.get(
    "/incoming_statuses/<status_id>/raw",
    responses={
        200: {
            "description": "The message as it arrived.",
            "content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}},
        },
        404: Error,
    },
)
def get_raw_message(path: StatusPath) -> Response:
    """Download a received message."""
    ctx = context()
    content = service.read_raw(ctx.database, ctx.blobs, account_id(), path.status_id)
    response = Response(content, mimetype="message/rfc822", headers=RAW_HEADERS)
    response.headers.set("Content-Disposition", "attachment", filename=f"{path.status_id}.eml")
    return response


@api.post(
    "/incoming_statuses/<status_id>/retry",
    responses={202: IncomingStatus, 404: Error, 409: Error},
    description="Whatever became of it: it is due at once, and a new cycle of retries begins. The id, and so the "
    "`webhook-id` header, stays the same. A message that is being delivered at this moment is left alone (409), and "
    "so is one in quarantine.",
)
def retry_incoming_status(path: StatusPath) -> Response:
    """Deliver a message again."""
    return _answer_one(path, Wish.RETRY)


@api.post(
    "/incoming_statuses/<status_id>/release",
    responses={202: IncomingStatus, 404: Error, 409: Error},
    description="It is delivered as any other, and no rule or check holds it again.",
)
def release_incoming_status(path: StatusPath) -> Response:
    """Release a message from quarantine."""
    return _answer_one(path, Wish.RELEASE)


@api.post(
    "/incoming_statuses/retry",
    responses={202: RetryResult, 404: Error, **INVALID},
    description=f"Up to {replay.MAX_REPLAYS:,} in one call, newest first; while the answer has a `next_cursor`, call "
    "again with it.",
)
def retry_matching(path: AccountPath, query: ReplayQuery) -> Response:
    """Deliver all messages that match a search again."""
    return _answer_many(query, Wish.RETRY)


@api.post(
    "/incoming_statuses/release",
    responses={202: RetryResult, 404: Error, **INVALID},
    description="As the retry of many; messages that match and are not in quarantine are left alone.",
)
def release_matching(path: AccountPath, query: ReplayQuery) -> Response:
    """Release all messages that match a search from quarantine."""
    return _answer_many(query, Wish.RELEASE)


def _answer_one(path: StatusPath, wish: Wish) -> Response:
    ctx = context()
    now_ms = ctx.clock()
    record = replay.replay_one(ctx.database, account_id(), path.status_id, now_ms, wish)
    _ring()
    return json_response(status_answer(record, now_ms), 202)


def _answer_many(query: ReplayQuery, wish: Wish) -> Response:
    ctx = context()
    wanted = _filter(query.address_id, query.query)
    done = replay.replay_matching(ctx.database, wanted, query.cursor, ctx.clock, wish)
    if done.retried:
        _ring()
    answer = RetryResult(retried=done.retried, left_alone=done.left_alone, next_cursor=done.next_cursor)
    return json_response(answer, 202)


def _ring() -> None:
    for kind in RECEIVED_KINDS:
        context().ring(kind)


def _filter(address_id: str | None, query: str | None) -> StatusFilter:
    """Raises `InvalidField` and, for an address that never was, `NotFound`."""
    ctx = context()
    condition = None if query is None else compile_query(query, ctx.clock())
    if address_id is not None:
        require_known_address(ctx.database, account_id(), address_id)
    return StatusFilter(account_id(), address_id, condition)
