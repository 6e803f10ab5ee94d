"""`/rules`: which mail is taken, refused, held or flagged."""

from __future__ import annotations

import re
from typing import Annotated, Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel

from core.clock import to_rfc3339
from core.errors import NotFound
from core.rules import RuleAction
from core.services import rules as service
from core.services.addresses import require_known_address
from core.services.rules import MAX_NOTE_LENGTH, MAX_POSITION, MAX_RULES, RuleDraft, RuleRecord
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import AccountPath, AddressId, Text, Timestamp, as_optional_parameter, drop_null_defaults
from web.api.paging import PAGE_HEADERS, ListQuery, json_response, list_response
from web.api.rule_conditions import RuleConditions, show_conditions
from web.context import account_id, context
from web.errors import Error

RULE_ID = "[0-9a-f]{16}"
EXAMPLE_NOTE = "no executables"
_KEPT_WHEN_LEFT_OUT = frozenset({"address_id", "note"})


def _check_rule_id(text: str) -> str:
    """An id of another form names nothing, as an unknown one does: 404, not 422. Raises `NotFound`."""
    lowered = text.lower()
    if not re.fullmatch(RULE_ID, lowered):
        raise NotFound("there is no rule with this id")
    return lowered


RuleId = Annotated[
    str,
    AfterValidator(_check_rule_id),
    Field(
        description="The id of a rule.",
        json_schema_extra={"pattern": f"^{RULE_ID}$", "example": "bbbb111122223333"},
    ),
]
ACTION = (
    "`allow` takes the mail whatever later rules and checks say; `reject` refuses it while the sender waits; "
    "`quarantine` takes it and holds it; `flag` marks it and goes on to the next rule."
)
POSITION = "Rules are asked from the lowest position up; among equals the lowest id goes first."
SCOPE = "Only for mail to this address; null is for all of yours."
NOTE = "Your own words. A `flag` rule sets them as the flag; senders never see them."


class RulePath(AccountPath):
    """One rule."""

    rule_id: RuleId


class RuleListQuery(ListQuery):
    """Which rules to list."""

    address_id: AddressId | None = Field(
        default=None, description="Only rules for this address alone.", json_schema_extra=as_optional_parameter
    )


class RuleBody(BaseModel):
    """What you say of a rule. The fields that an answer has beside these may be sent back; they are ignored."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    action: RuleAction = Field(description=ACTION)
    conditions: RuleConditions
    address_id: AddressId | None = Field(default=None, description=f"{SCOPE} Left out of a PUT it stays.")
    position: int | None = Field(
        default=None,
        strict=True,
        ge=0,
        le=MAX_POSITION,
        description=f"{POSITION} Left out or null: behind all others, or in a PUT where it is.",
        json_schema_extra={"example": 10},
    )
    note: Text | None = Field(
        default=None,
        max_length=MAX_NOTE_LENGTH,
        description=f"{NOTE} Left out of a PUT it stays; null takes it away.",
        json_schema_extra={"example": EXAMPLE_NOTE},
    )
    id: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    created_at: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    updated_at: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})

    def to_draft(self) -> RuleDraft:
        """For the services."""
        return RuleDraft(self.action, self.conditions.to_mapping(), self.address_id, self.position, self.note)


class Rule(BaseModel):
    """A rule."""

    id: RuleId
    address_id: AddressId | None = Field(description=SCOPE)
    position: int = Field(description=POSITION, json_schema_extra={"example": 10})
    action: RuleAction = Field(description=ACTION)
    conditions: RuleConditions
    note: str | None = Field(description=NOTE, json_schema_extra={"example": EXAMPLE_NOTE})
    created_at: Timestamp
    updated_at: Timestamp


class RuleList(RootModel[list[Rule]]):
    """Rules, in the order they are asked."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


api: APIBlueprint = make_blueprint(
    "rules", __name__, Tag(name="rules", description="Which mail is taken, refused, held or flagged.")
)


@api.get(
    "/rules",
    responses={200: RuleList, 404: Error, **INVALID},
    description="In the order they are asked, not newest first.",
)
def list_rules(path: AccountPath, query: RuleListQuery) -> Response:
    """List your rules."""
    database = context().database
    if query.address_id is not None:
        require_known_address(database, account_id(), query.address_id)
    page = service.list_rules(database, account_id(), query.address_id, query.to_request())
    return list_response(RuleList([_answer(record) for record in page.entries]), page.next_cursor)


@api.post(
    "/rules",
    responses={201: Rule, 404: Error, **INVALID_BODY},
    description=f"It is in force within seconds. An account may have {MAX_RULES} rules.",
)
def create_rule(path: AccountPath, body: RuleBody) -> Response:
    """Create a rule."""
    ctx = context()
    made = service.create_rule(ctx.database, account_id(), body.to_draft(), ctx.clock())
    return json_response(_answer(made), 201)


@api.get("/rules/<rule_id>", responses={200: Rule, 404: Error})
def get_rule(path: RulePath) -> Response:
    """Show a rule."""
    return json_response(_answer(service.get_rule(context().database, account_id(), path.rule_id)))


@api.put(
    "/rules/<rule_id>",
    responses={200: Rule, 404: Error, **INVALID_BODY},
    description="`action` and `conditions` are required and replaced as a whole; other fields stay as they are when "
    "left out.",
)
def update_rule(path: RulePath, body: RuleBody) -> Response:
    """Change a rule."""
    ctx = context()
    kept = _KEPT_WHEN_LEFT_OUT - body.model_fields_set
    record = service.update_rule(ctx.database, account_id(), path.rule_id, body.to_draft(), ctx.clock(), kept)
    return json_response(_answer(record))


@api.delete("/rules/<rule_id>", responses={202: Rule, 404: Error})
def delete_rule(path: RulePath) -> Response:
    """Delete a rule."""
    return json_response(_answer(service.delete_rule(context().database, account_id(), path.rule_id)), 202)


def _answer(record: RuleRecord) -> Rule:
    rule = record.rule
    return Rule(
        id=rule.rule_id,
        address_id=rule.address_id,
        position=rule.position,
        action=rule.action,
        conditions=show_conditions(rule.conditions),
        note=rule.note,
        created_at=to_rfc3339(record.created_ms),
        updated_at=to_rfc3339(record.updated_ms),
    )
