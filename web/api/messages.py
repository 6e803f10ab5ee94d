"""`/messages`: mail to be sent."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import orjson
from flask import Response, current_app, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from werkzeug.exceptions import HTTPException

from core.delivery import DeliveryKind
from core.errors import InvalidField
from core.ids import new_message_id
from core.services.credentials import Scope
from core.services.idempotency import AlreadyAnswered, IdempotencyClaim, KeptAnswer, find_answer
from core.services.sends import StoredSend, Submitter
from core.services.sent_cancelling import cancel_message
from outbound.accepting import DraftSubmission, SendAcceptor, SendWishes
from web.api.blueprint import INVALID_BODY, make_blueprint
from web.api.message_models import (
    IDEMPOTENCY_HEADER,
    AcceptedMessage,
    MessageBody,
    SenderPath,
    SendHeaders,
    accepted_answer,
)
from web.api.outbound_message_models import OutboundMessageDetail, OutboundPath, detail_answer
from web.api.outbound_messages import sent_scope
from web.api.paging import json_response
from web.auth import current_credential, require_sender
from web.client_address import client_address
from web.context import context
from web.errors import Error, error_response

ACCEPTOR = "pillarbox.acceptor"
"""Where an application keeps its `SendAcceptor`."""
BODY_SLACK_BYTES = 1024 * 1024
"""For what a request has beside its attachments in base64."""
REPLAYED_HEADER = "Idempotency-Replayed"
ACCEPTED, TOO_LARGE = 202, 413

api: APIBlueprint = make_blueprint(
    "messages", __name__, Tag(name="messages", description="Mail to be sent."), require_sender(Scope.SEND)
)


@api.before_request
def _allow_attachments() -> None:
    """Only here, and only for those who have shown a key."""
    request.max_content_length = _max_body_bytes()


@api.errorhandler(TOO_LARGE)
def _too_large(_: HTTPException) -> Response:
    return error_response(
        TOO_LARGE, f"the body is too large; a message may take up to {_max_body_bytes():,} bytes here"
    )


def _max_body_bytes() -> int:
    return context().settings.max_send_size * 4 // 3 + BODY_SLACK_BYTES


@api.post(
    "/messages",
    responses={202: AcceptedMessage, **INVALID_BODY},
    description="The answer means that the message is stored; what becomes of it is told by `outbound_messages` and by "
    "webhooks. One of `plain`, `html`, `markdown` and `raw` is needed.",
)
def send_message(path: SenderPath, header: SendHeaders, body: MessageBody) -> Response:
    """Send a message."""
    ctx = context()
    now_ms = ctx.clock()
    key = header.idempotency_key
    kept = None if key is None else _kept_answer(key, now_ms)
    if kept is not None:
        return _replayed(kept)
    message_id = new_message_id(now_ms)
    wishes = body.to_wishes(now_ms)
    answer = accepted_answer(message_id, body, wishes)
    try:
        stored = _send(message_id, body, wishes, key, answer)
    except AlreadyAnswered as error:  # by a request that ran at the same time
        return _replayed(error.kept)
    _ring(stored)
    return json_response(answer, ACCEPTED)


@api.delete(
    "/messages/<message_id>",
    responses={202: OutboundMessageDetail, 404: Error, 409: Error},
    description="For messages that are scheduled, held, or wait for their turn. Recipients whose delivery has begun "
    "still get it; 409 means that it has begun for all of them.",
)
def cancel_sending(path: OutboundPath) -> Response:
    """Take a message back before it is sent."""
    ctx = context()
    scope = sent_scope()
    detail = cancel_message(ctx.database, scope, path.message_id, ctx.clock())
    ctx.ring(DeliveryKind.EVENTS)
    return json_response(detail_answer(detail, ctx.clock()), ACCEPTED)


def _send(
    message_id: str, body: MessageBody, wishes: SendWishes, key: str | None, answer: AcceptedMessage
) -> StoredSend:
    credential = current_credential()
    ip = client_address(request, context().settings.proxy_sources)
    submitter = Submitter(credential.account_id, credential.username, ip)
    if key is not None:
        response = answer.model_dump_json(by_alias=True)
        claim = IdempotencyClaim(credential.username, key, _request_digest(), response)
        wishes = replace(wishes, idempotency=claim)
    submission = DraftSubmission(
        message_id, submitter, credential.sending_domain_id, body.to_draft(), wishes, body.to_frame()
    )
    return _acceptor().send(submission)


def _acceptor() -> SendAcceptor:
    found: SendAcceptor = current_app.extensions[ACCEPTOR]
    return found


def _ring(stored: StoredSend) -> None:
    """For what is due; the scheduler rings for the rest when its time has come."""
    for kind in stored.rings:
        context().ring(kind)


def _kept_answer(key: str, now_ms: int) -> KeptAnswer | None:
    database = context().database
    with database.reading():
        return find_answer(database, current_credential().username, key, now_ms)


def _replayed(kept: KeptAnswer) -> Response:
    """The first answer again. Raises `InvalidField` when this is another request."""
    if kept.request_sha256 != _request_digest():
        raise InvalidField(IDEMPOTENCY_HEADER, "was used with another request before; take a new key for each message")
    return Response(kept.response, ACCEPTED, {REPLAYED_HEADER: "true"}, mimetype="application/json")


def _request_digest() -> str:
    """The same for the same fields, in whatever order a client's library writes them."""
    written = orjson.dumps(orjson.loads(request.get_data()), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(written).hexdigest()
