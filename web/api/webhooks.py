"""`/webhooks`: where events are POSTed, and what became of every POST."""

from __future__ import annotations

from dataclasses import replace

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from core.clock import HOUR_MS, to_ms
from core.delivery import DeliveryKind
from core.services import webhook_deliveries as log
from core.services import webhooks as service
from core.services.replay import MAX_REPLAYS
from core.services.statuses import list_attempts
from core.services.webhooks import MAX_WEBHOOKS, WebhookRecord
from web.api.addresses import RotationBody
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import AccountPath
from web.api.paging import ListQuery, json_response, list_response
from web.api.status_models import RetryResult
from web.api.webhook_models import (
    EventDeliveryDetail,
    EventDeliveryList,
    EventDeliveryPath,
    EventDeliveryQuery,
    EventDeliveryStatus,
    EventReplayQuery,
    TestResult,
    Webhook,
    WebhookBody,
    WebhookList,
    WebhookPath,
    WebhookWithSecret,
    check_cursor,
    delivery_answer,
    delivery_detail,
    listed_state,
    webhook_fields,
)
from web.context import account_id, context
from web.errors import Error

api: APIBlueprint = make_blueprint(
    "webhooks", __name__, Tag(name="webhooks", description="Where events of sent mail are POSTed.")
)


@api.get("/webhooks", responses={200: WebhookList, **INVALID})
def list_webhooks(path: AccountPath, query: ListQuery) -> Response:
    """List your webhooks, newest first."""
    page = service.list_webhooks(context().database, account_id(), query.to_request())
    return list_response(WebhookList([_answer(record) for record in page.entries]), page.next_cursor)


@api.post(
    "/webhooks",
    responses={201: WebhookWithSecret, **INVALID_BODY},
    description="It is told of all that happens from now on. The answer alone shows the secret. An account may have "
    f"{MAX_WEBHOOKS} webhooks.",
)
def create_webhook(path: AccountPath, body: WebhookBody) -> Response:
    """Create a webhook."""
    ctx = context()
    return _with_secret(service.create_webhook(ctx.database, account_id(), body.to_draft(), ctx.clock()), 201)


@api.get("/webhooks/<webhook_id>", responses={200: Webhook, 404: Error})
def get_webhook(path: WebhookPath) -> Response:
    """Show a webhook."""
    return json_response(_answer(_webhook(path)))


@api.put(
    "/webhooks/<webhook_id>",
    responses={200: Webhook, 404: Error, **INVALID_BODY},
    description="`url` is required; all other fields stay as they are when left out. What still waits goes to the new "
    "URL. Switched on again, a webhook gets at once what it has not taken.",
)
def update_webhook(path: WebhookPath, body: WebhookBody) -> Response:
    """Change a webhook, or switch it on or off."""
    ctx = context()
    record, is_switched_on = service.update_webhook(
        ctx.database, account_id(), path.webhook_id, body.to_draft(), ctx.clock(), body.left_out
    )
    if is_switched_on and log.release_held(ctx.database, record, ctx.clock):
        ctx.ring(DeliveryKind.EVENTS)
    return json_response(_answer(record))


@api.delete(
    "/webhooks/<webhook_id>",
    responses={202: Webhook, 404: Error},
    description="What still waits is not sent any more.",
)
def delete_webhook(path: WebhookPath) -> Response:
    """Delete a webhook."""
    ctx = context()
    return json_response(_answer(service.delete_webhook(ctx.database, account_id(), path.webhook_id, ctx.clock())), 202)


@api.post(
    "/webhooks/<webhook_id>/rotate_secret",
    responses={200: WebhookWithSecret, 404: Error, **INVALID_BODY},
    description="While the overlap lasts, every POST carries two signatures, one by each secret, as Standard Webhooks "
    "has it: give the new secret to your receivers in that time. The answer alone shows it.",
)
def rotate_webhook_secret(path: WebhookPath, body: RotationBody) -> Response:
    """Replace the signing secret of a webhook."""
    ctx = context()
    overlap_ms = body.overlap_hours * HOUR_MS
    record = service.rotate_webhook_secret(ctx.database, account_id(), path.webhook_id, overlap_ms, ctx.clock())
    return _with_secret(record, 200)


@api.post(
    "/webhooks/<webhook_id>/test",
    responses={202: TestResult, 404: Error, 409: Error},
    description='One POST with an event of each kind that the webhook wants, each marked `"test": true`. It is a '
    "delivery as any other: its id, which is in the answer, shows what became of it. Not while the webhook is switched "
    "off (409).",
)
def send_test_events(path: WebhookPath) -> Response:
    """Send samples to a webhook."""
    ctx = context()
    delivery_id = log.send_samples(ctx.database, account_id(), path.webhook_id, ctx.clock())
    ctx.ring(DeliveryKind.EVENTS)
    return json_response(TestResult(delivery_id=delivery_id), 202)


@api.get("/webhooks/<webhook_id>/deliveries", responses={200: EventDeliveryList, 404: Error, **INVALID})
def list_webhook_deliveries(path: WebhookPath, query: EventDeliveryQuery) -> Response:
    """List what was POSTed to a webhook, newest first."""
    ctx = context()
    request = replace(query.to_request(), cursor=check_cursor(query.cursor))
    state = None if query.state is None else listed_state(query.state)
    page = log.list_deliveries(ctx.database, _webhook(path), state, request)
    now_ms = ctx.clock()
    answer = EventDeliveryList([delivery_answer(record, now_ms) for record in page.entries])
    return list_response(answer, page.next_cursor)


@api.get("/webhooks/<webhook_id>/deliveries/<delivery_id>", responses={200: EventDeliveryDetail, 404: Error})
def get_webhook_delivery(path: EventDeliveryPath) -> Response:
    """Show a POST to a webhook with its body and every attempt."""
    ctx = context()
    record = log.get_delivery(ctx.database, _webhook(path), path.delivery_id)
    attempts = list_attempts(ctx.database, record.delivery_id)
    return json_response(delivery_detail(record, attempts, ctx.clock()))


@api.post(
    "/webhooks/<webhook_id>/deliveries/<delivery_id>/retry",
    responses={202: EventDeliveryStatus, 404: Error, 409: Error},
    description="Whatever became of it: it is due at once, and a new cycle of attempts begins. `webhook-id` and body "
    "stay the same. Not while it is being POSTed, or the webhook is switched off (409).",
)
def retry_webhook_delivery(path: EventDeliveryPath) -> Response:
    """POST a delivery again."""
    ctx = context()
    now_ms = ctx.clock()
    record = log.retry_one(ctx.database, _webhook(path), path.delivery_id, now_ms)
    ctx.ring(DeliveryKind.EVENTS)
    return json_response(delivery_answer(record, now_ms), 202)


@api.post(
    "/webhooks/<webhook_id>/retry",
    responses={202: RetryResult, 404: Error, 409: Error, **INVALID},
    description=f"Up to {MAX_REPLAYS:,} in one call, newest first; while the answer has a `next_cursor`, call again "
    "with it.",
)
def retry_webhook_deliveries(path: WebhookPath, query: EventReplayQuery) -> Response:
    """POST all deliveries in a state again."""
    ctx = context()
    since_ms = 0 if query.since is None else to_ms(query.since)
    cursor = check_cursor(query.cursor)
    done = log.retry_matching(ctx.database, _webhook(path), listed_state(query.state), since_ms, cursor, ctx.clock)
    if done.retried:
        ctx.ring(DeliveryKind.EVENTS)
    answer = RetryResult(retried=done.retried, left_alone=done.left_alone, next_cursor=done.next_cursor)
    return json_response(answer, 202)


def _webhook(path: WebhookPath) -> WebhookRecord:
    return service.get_webhook(context().database, account_id(), path.webhook_id)


def _answer(record: WebhookRecord) -> Webhook:
    return Webhook(**webhook_fields(record, context().clock()))


def _with_secret(record: WebhookRecord, status: int) -> Response:
    fields = webhook_fields(record, context().clock())
    return json_response(WebhookWithSecret(**fields, signing_secret=record.secret), status)
