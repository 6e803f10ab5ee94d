"""`/sending_health` and its neighbours: how well mail is sent, limits, pauses, and what is held."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from core.delivery import SEND_KINDS
from core.services import held_sends as held
from core.services import pauses, send_accounts, send_health
from core.services.held_sends import HeldSend
from core.services.pauses import DEFAULT_REASON, PausePlace
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import AccountPath
from web.api.paging import ListQuery, json_response, list_response
from web.api.sending_health_models import (
    AccountSendingSettings,
    HeldMessagePath,
    HeldOutcome,
    HeldSentMessage,
    HeldSentMessageList,
    PauseBody,
    PausePlaceQuery,
    SendingHealth,
    SendingPause,
    SendingResumed,
)
from web.context import account_id, context
from web.errors import Error

api: APIBlueprint = make_blueprint(
    "sending_health",
    __name__,
    Tag(name="sending_health", description="How well mail is sent, limits, pauses, and what is held."),
)


@api.get(
    "/sending_health",
    responses={200: SendingHealth},
    description="Of the account, and of each sending domain by name.",
)
def get_sending_health(path: AccountPath) -> Response:
    """Show how well you send."""
    ctx = context()
    return json_response(SendingHealth.of(send_health.read_health(ctx.database, account_id(), ctx.clock())))


@api.get("/sending_settings", responses={200: AccountSendingSettings})
def get_sending_settings(path: AccountPath) -> Response:
    """Show how your account sends."""
    return json_response(
        AccountSendingSettings.of(send_accounts.read_account_settings(context().database, account_id()))
    )


@api.put(
    "/sending_settings",
    responses={200: AccountSendingSettings, **INVALID_BODY},
    description="All of them at once: what is left out or null is the gateway's choice. Mail that waits for a limit "
    "keeps its turn.",
)
def update_sending_settings(path: AccountPath, body: AccountSendingSettings) -> Response:
    """Change how your account sends."""
    ctx = context()
    saved = send_accounts.save_account_settings(ctx.database, account_id(), body.to_settings(), ctx.settings)
    return json_response(AccountSendingSettings.of(saved))


@api.post(
    "/sending_pause",
    responses={200: SendingPause, 404: Error, 409: Error, **INVALID_BODY},
    description="From now on mail is taken, and held. What is on its way at this moment still goes.",
)
def pause_sending(path: AccountPath, query: PausePlaceQuery, body: PauseBody) -> Response:
    """Hold all mail, or that of one domain."""
    ctx = context()
    place = PausePlace(account_id(), query.sending_domain_id)
    return json_response(SendingPause.of(pauses.pause(ctx.database, place, body.reason or DEFAULT_REASON, ctx.clock())))


@api.post(
    "/sending_resume",
    responses={202: SendingResumed, 404: Error, 409: Error, **INVALID},
    description="What was held goes, under the limits, unless the account or the domain is paused besides, or the spam "
    "check holds it. Bounces and complaints of before do not pause it again.",
)
def resume_sending(path: AccountPath, query: PausePlaceQuery) -> Response:
    """End a pause."""
    ctx = context()
    defaults = send_accounts.gateway_send_settings(ctx.settings)
    done = pauses.resume(ctx.database, PausePlace(account_id(), query.sending_domain_id), ctx.clock, defaults)
    if done.released:
        _ring()
    return json_response(SendingResumed(released=done.released, is_partial=done.is_partial), 202)


@api.get("/held_messages", responses={200: HeldSentMessageList, **INVALID})
def list_held_messages(path: AccountPath, query: ListQuery) -> Response:
    """List messages that are held, newest first."""
    page = held.list_held(context().database, account_id(), query.to_request())
    return list_response(HeldSentMessageList([HeldSentMessage.of(entry) for entry in page.entries]), page.next_cursor)


@api.post(
    "/held_messages/<message_id>/release",
    responses={202: HeldOutcome, 404: Error, 409: Error},
    description="It goes, under the limits, whatever the spam check says. While sending is paused nothing is released: "
    "409.",
)
def release_held_message(path: HeldMessagePath) -> Response:
    """Send a held message."""
    ctx = context()
    defaults = send_accounts.gateway_send_settings(ctx.settings)
    released = held.release_held(ctx.database, account_id(), path.message_id, ctx.clock(), defaults)
    _ring()
    return _answer(path, released)


@api.delete(
    "/held_messages/<message_id>",
    responses={202: HeldOutcome, 404: Error},
    description="It is never sent to those it is held for.",
)
def cancel_held_message(path: HeldMessagePath) -> Response:
    """Cancel a held message."""
    ctx = context()
    return _answer(path, held.cancel_held(ctx.database, account_id(), path.message_id, ctx.clock()))


def _answer(path: HeldMessagePath, done: list[HeldSend]) -> Response:
    return json_response(HeldOutcome(message_id=path.message_id, recipients=[entry.recipient for entry in done]), 202)


def _ring() -> None:
    for kind in SEND_KINDS:
        context().ring(kind)
