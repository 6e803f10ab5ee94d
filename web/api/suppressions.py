"""`/suppressions`: addresses that get no more mail."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Any

from flask import Response, stream_with_context
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, RootModel

from core.addresses import MAX_PATH_OCTETS
from core.clock import to_rfc3339
from core.sending.suppression import SuppressionReason
from core.services import suppression_lists as service
from core.services.suppression_lists import (
    MAX_ADDED,
    MAX_NOTE_LENGTH,
    SuppressionDraft,
    SuppressionFilter,
    SuppressionRecord,
)
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import (
    AccountPath,
    DomainId,
    StrictQuery,
    Text,
    Timestamp,
    as_optional_parameter,
    drop_null_defaults,
)
from web.api.paging import PAGE_HEADERS, ListQuery, json_response, list_response
from web.context import account_id, context
from web.errors import Error

CSV_COLUMNS = ("address", "reason", "sending_domain_id", "detail", "message_id", "created_at")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""By which spreadsheets know a formula (OWASP, "CSV Injection")."""
EXAMPLE_ADDRESS = "ann@example.com"
EXAMPLE_DOMAIN = "aaaa111122223333"
EXAMPLE_ID = "0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90"
SCOPE = "Only mail from this sending domain is kept back; null is for all of yours."
REASON = (
    "`hard_bounce`: there is no such mailbox; `soft_bounce`: mail has ended without arriving too often in a row; "
    "`complaint`: the recipient has called your mail spam; `unsubscribe`: he wants no more; `manual`: you said so."
)
_CSV: Any = {
    "description": "All entries, newest first, with a header line.",
    "content": {"text/csv": {"schema": {"type": "string"}}},
}

MailboxText = Annotated[
    Text, Field(max_length=MAX_PATH_OCTETS, json_schema_extra={"format": "email", "example": EXAMPLE_ADDRESS})
]


class SuppressionPath(AccountPath):
    """One entry."""

    suppression: Text = Field(
        max_length=MAX_PATH_OCTETS,
        description="The id of an entry, or an address (by id only, where it holds a slash).",
        json_schema_extra={"example": EXAMPLE_ADDRESS},
    )


class SuppressionQuery(StrictQuery):
    """Whose list is meant, where an address is named."""

    sending_domain_id: DomainId | None = Field(
        default=None,
        description="With an address: the entry of this sending domain's list, not of the account's.",
        json_schema_extra=as_optional_parameter,
    )


class SuppressionFilterQuery(StrictQuery):
    """Which entries are wanted."""

    reason: SuppressionReason | None = Field(
        default=None, description="Only with this reason.", json_schema_extra=as_optional_parameter
    )
    address: Text | None = Field(
        default=None,
        max_length=MAX_PATH_OCTETS,
        description="Only addresses that hold this text.",
        json_schema_extra=as_optional_parameter,
    )
    sending_domain_id: DomainId | None = Field(
        default=None,
        description="Only those of this sending domain's own list.",
        json_schema_extra=as_optional_parameter,
    )

    def to_filter(self) -> SuppressionFilter:
        """For the services."""
        return SuppressionFilter(self.reason, self.address or "", self.sending_domain_id)


class SuppressionListQuery(SuppressionFilterQuery, ListQuery):
    """Which entries to list."""


class SuppressionBody(BaseModel):
    """Addresses to be added."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    addresses: list[MailboxText] = Field(
        min_length=1, max_length=MAX_ADDED, description="One mailbox each, without a name; case does not matter."
    )
    sending_domain_id: DomainId | None = Field(
        default=None, description=SCOPE, json_schema_extra={"example": EXAMPLE_DOMAIN}
    )
    note: Text | None = Field(
        default=None,
        max_length=MAX_NOTE_LENGTH,
        description="Your own words; the entries show them as `detail`.",
        json_schema_extra={"example": "asked by telephone"},
    )


class Suppression(BaseModel):
    """An address that gets no more mail."""

    id: str = Field(json_schema_extra={"format": "uuid", "example": EXAMPLE_ID})
    address: str = Field(
        description="In lower case, its domain as A-labels.", json_schema_extra={"example": EXAMPLE_ADDRESS}
    )
    reason: SuppressionReason = Field(description=REASON)
    sending_domain_id: str | None = Field(description=SCOPE, json_schema_extra={"example": EXAMPLE_DOMAIN})
    detail: str | None = Field(description="More about the reason.")
    message_id: str | None = Field(
        description="The id of the message that brought it about.", json_schema_extra={"example": EXAMPLE_ID}
    )
    created_at: Timestamp


class SuppressionList(RootModel[list[Suppression]]):
    """Entries, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


class AddedSuppressions(RootModel[list[Suppression]]):
    """Entries, in the order of the addresses."""


api: APIBlueprint = make_blueprint(
    "suppressions", __name__, Tag(name="suppressions", description="Addresses that get no more mail.")
)


@api.get("/suppressions", responses={200: SuppressionList, 404: Error, **INVALID})
def list_suppressions(path: AccountPath, query: SuppressionListQuery) -> Response:
    """List suppressed addresses, newest first."""
    page = service.list_suppressions(context().database, account_id(), query.to_filter(), query.to_request())
    return list_response(SuppressionList([_answer(record) for record in page.entries]), page.next_cursor)


@api.get("/suppressions.csv", responses={200: _CSV, 404: Error, **INVALID})
def export_suppressions(path: AccountPath, query: SuppressionFilterQuery) -> Response:
    """Export suppressed addresses as CSV."""
    pages = service.export_suppressions(context().database, account_id(), query.to_filter())
    return Response(stream_with_context(_csv(pages)), mimetype="text/csv")


@api.post(
    "/suppressions",
    responses={201: AddedSuppressions, 404: Error, **INVALID_BODY},
    description=f"Up to {MAX_ADDED} at once. An address that is on the list already stays as it is. If one of them is "
    "no mailbox, none is added. Mail that waits for such an address is not sent any more.",
)
def add_suppressions(path: AccountPath, body: SuppressionBody) -> Response:
    """Suppress addresses."""
    ctx = context()
    draft = SuppressionDraft(body.addresses, body.sending_domain_id, body.note)
    made = service.add_by_hand(ctx.database, account_id(), draft, ctx.clock())
    return json_response(AddedSuppressions([_answer(record) for record in made]), 201)


@api.get("/suppressions/<suppression>", responses={200: Suppression, 404: Error, **INVALID})
def get_suppression(path: SuppressionPath, query: SuppressionQuery) -> Response:
    """Show a suppressed address."""
    found = service.get_suppression(context().database, account_id(), path.suppression, query.sending_domain_id)
    return json_response(_answer(found))


@api.delete(
    "/suppressions/<suppression>",
    responses={202: Suppression, 404: Error, **INVALID},
    description="New mail is sent to it again; its soft bounces are counted anew.",
)
def remove_suppression(path: SuppressionPath, query: SuppressionQuery) -> Response:
    """Take an address off the list."""
    found = service.remove_suppression(context().database, account_id(), path.suppression, query.sending_domain_id)
    return json_response(_answer(found), 202)


def _answer(record: SuppressionRecord) -> Suppression:
    return Suppression(
        id=record.suppression_id,
        address=record.address,
        reason=record.reason,
        sending_domain_id=record.sending_domain_id,
        detail=record.detail,
        message_id=record.message_id,
        created_at=to_rfc3339(record.created_ms),
    )


def _csv(pages: Iterator[list[SuppressionRecord]]) -> Iterator[str]:
    """A piece for each page (RFC 4180)."""
    yield _lines([CSV_COLUMNS])
    for records in pages:
        yield _lines([[_cell(getattr(_answer(record), name)) for name in CSV_COLUMNS] for record in records])


def _cell(value: str | None) -> str:
    """Never a formula: what hosts and strangers say stands in these cells, and people open them as a spreadsheet."""
    text = value or ""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _lines(rows: Any) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()
