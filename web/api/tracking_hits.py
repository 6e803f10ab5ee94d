"""`/tracking_hits`: who came for the pixel and links of a sent message, people and machines told apart."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, RootModel

from core.clock import to_rfc3339
from core.sending.tracking_hits import HitKind, Signal
from core.services.tracked_hits import HitMaker, HitRecord, list_hits
from web.api.blueprint import INVALID, make_blueprint
from web.api.fields import AccountPath, StatusId, Timestamp, as_optional_parameter
from web.api.paging import PAGE_HEADERS, ListQuery, list_response
from web.context import account_id, context
from web.errors import Error


class HitListQuery(ListQuery):
    """Which hits to list."""

    message_id: StatusId = Field(description="The id of a sent message.")
    made_by: HitMaker | None = Field(
        default=None,
        description="Only those of people, or of machines. Left out: all, those that are not judged yet included.",
        json_schema_extra=as_optional_parameter,
    )


class TrackingHit(BaseModel):
    """A request for the pixel or a link."""

    id: int = Field(json_schema_extra={"example": 4711})
    delivery_id: StatusId
    recipient: str = Field(json_schema_extra={"example": "reader@example.net"})
    event: str = Field(description="`open` or `click`.", json_schema_extra={"enum": ["open", "click"]})
    link: int | None = Field(description="The number of the link in the mail, from 1; null for the pixel.")
    url: str | None = Field(description="Where the link leads; null for the pixel.")
    at: Timestamp
    method: str = Field(json_schema_extra={"example": "GET"})
    network: str | None = Field(
        description="Whence it came, as a network (/24, /48); null when that is not kept.",
        json_schema_extra={"example": "192.0.2.0/24"},
    )
    agent: str | None = Field(description="The user agent; null when there was none, or it is not kept.")
    made_by: HitMaker | None = Field(description="Null in the first seconds: hits are judged when they have settled.")
    kind: HitKind | None = Field(description="`proxy` is a person's mail provider; it counts as a person.")
    machine_points: int | None = Field(
        description="What speaks for a machine, 0 to 100. From 50 on it is taken for one."
    )
    reason: str | None = Field(description="The weightiest of it, in words; null when nothing does.")
    signals: list[Signal] = Field(description="All that speaks for a machine, the weightiest first.")


class TrackingHitList(RootModel[list[TrackingHit]]):
    """Hits, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


api: APIBlueprint = make_blueprint(
    "tracking_hits", __name__, Tag(name="Tracking hits", description="Who opened a mail and followed its links.")
)


@api.get(
    "/tracking_hits",
    responses={200: TrackingHitList, 404: Error, **INVALID},
    description="Machines' hits too, which make no events. Newest first.",
)
def list_tracking_hits(path: AccountPath, query: HitListQuery) -> Response:
    """List the hits of a sent message."""
    page = list_hits(context().database, account_id(), query.message_id, query.made_by, query.to_request())
    return list_response(TrackingHitList([_answer(record) for record in page.entries]), page.next_cursor)


def _answer(record: HitRecord) -> TrackingHit:
    return TrackingHit(
        id=record.hit_id,
        delivery_id=record.delivery_id,
        recipient=record.recipient,
        event="open" if record.link is None else "click",
        link=record.link,
        url=record.url,
        at=to_rfc3339(record.at_ms),
        method=record.method,
        network=record.network or None,
        agent=record.user_agent or None,
        made_by=record.maker,
        kind=record.kind,
        machine_points=record.points,
        reason=record.reason or None,
        signals=list(record.signals),
    )
