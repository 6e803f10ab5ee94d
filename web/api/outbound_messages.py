"""`/outbound_messages`: what became of sent mail."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from core.search import compile_query
from core.sent_search import SENT_VOCABULARY
from core.services import sent_messages as service
from core.services.accounts import CredentialKind
from core.services.credentials import Scope
from core.services.sent_messages import SentFilter, SentScope
from web.api.blueprint import INVALID, make_blueprint
from web.api.incoming_statuses import RAW_HEADERS
from web.api.message_models import SenderPath
from web.api.outbound_message_models import (
    OutboundListQuery,
    OutboundMessageDetail,
    OutboundMessageList,
    OutboundPath,
    detail_answer,
    message_answer,
)
from web.api.paging import json_response, list_response
from web.auth import current_credential, require_sender
from web.context import account_id, context
from web.errors import Error

api: APIBlueprint = make_blueprint(
    "outbound_messages",
    __name__,
    Tag(name="outbound_messages", description="What became of sent messages."),
    require_sender(Scope.READ),
)


@api.get(
    "/outbound_messages",
    responses={200: OutboundMessageList, **INVALID},
    description="With `query` or `outbound_account_id`, a page may hold fewer entries than asked for although there "
    "are more: a search that has looked for some seconds gives what it has. There is a next page as long as there is a "
    "`Link` header. A key that is bound to one sending domain sees the messages of that domain, an SMTP username those "
    "that it sent itself.",
)
def list_outbound_messages(path: SenderPath, query: OutboundListQuery) -> Response:
    """List and search sent messages, newest first."""
    ctx = context()
    now_ms = ctx.clock()
    condition = None if query.query is None else compile_query(query.query, now_ms, SENT_VOCABULARY)
    wanted = SentFilter(sent_scope(), query.outbound_account_id, condition)
    page = service.list_sent(ctx.database, wanted, query.to_request(), ctx.clock)
    return list_response(
        OutboundMessageList([message_answer(record, now_ms) for record in page.entries]), page.next_cursor
    )


@api.get("/outbound_messages/<message_id>", responses={200: OutboundMessageDetail, 404: Error})
def get_outbound_message(path: OutboundPath) -> Response:
    """Show a sent message with the events of each recipient."""
    ctx = context()
    record = service.get_sent(ctx.database, sent_scope(), path.message_id)
    return json_response(detail_answer(record, ctx.clock()))


@api.get(
    "/outbound_messages/<message_id>/raw",
    responses={
        200: {
            "description": "The message as it was accepted: without tracking and signatures, which each recipient's "
            "copy gets when it is sent.",
            "content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}},
        },
        404: Error,
    },
)
def get_outbound_source(path: OutboundPath) -> Response:
    """Download a sent message."""
    ctx = context()
    content = service.read_sent_raw(ctx.database, ctx.blobs, sent_scope(), path.message_id)
    response = Response(content, mimetype="message/rfc822", headers=RAW_HEADERS)
    response.headers.set("Content-Disposition", "attachment", filename=f"{path.message_id}.eml")
    return response


def sent_scope() -> SentScope:
    """What the key of this request may see: a login, and a key that may only send, no more than what it sent itself."""
    credential = current_credential()
    sees_all = credential.kind is CredentialKind.API and Scope.READ in credential.scopes
    return SentScope(account_id(), credential.sending_domain_id, None if sees_all else credential.username)
