"""Building blocks of the request models: ids, text, times, and what every path and query has."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from core.errors import NotFound

PREFIX = "/api/v0.1/<account_id>"
_NUL = "\0"


def _must_look_like(pattern: str, noun: str) -> Callable[[str], str]:
    """An id of another form names nothing, as an unknown one does: 404, not 422. Raises `NotFound`."""
    form = re.compile(pattern)

    def check(text: str) -> str:
        lowered = text.lower()
        if not form.fullmatch(lowered):
            raise NotFound(f"there is no {noun} with this id")
        return lowered

    return check


def _refuse_nul(text: str) -> str:
    if _NUL in text:
        raise ValueError("must not contain NUL characters")
    return text


def as_optional_parameter(schema: dict[str, Any]) -> None:
    """Describe a parameter that may be left out: a query string has no null, neither as a type nor as a default."""
    schema.pop("default", None)
    for choice in schema.pop("anyOf", []):
        if choice != {"type": "null"}:
            schema.update({**choice, **schema})


def drop_null_defaults(schema: dict[str, Any]) -> None:
    """Do not describe null as the default of a body's fields: left out may mean "as it was"."""
    for entry in schema.get("properties", {}).values():
        if entry.get("default", ...) is None:
            del entry["default"]


ADDRESS_ID = "[0-9a-f]{20}"
DOMAIN_ID = "[0-9a-f]{16}"
STATUS_ID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

Text = Annotated[str, AfterValidator(_refuse_nul), Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})]
Url = Annotated[Text, Field(max_length=2_000, json_schema_extra={"format": "uri", "pattern": "^https?://"})]
AddressId = Annotated[
    str,
    AfterValidator(_must_look_like(ADDRESS_ID, "address")),
    Field(
        description="The id of an address.",
        json_schema_extra={"pattern": f"^{ADDRESS_ID}$", "example": "aaaa740b4c5c37b1aaaa"},
    ),
]
DomainId = Annotated[
    str,
    AfterValidator(_must_look_like(DOMAIN_ID, "custom domain")),
    Field(
        description="The id of a custom domain.",
        json_schema_extra={"pattern": f"^{DOMAIN_ID}$", "example": "aaaa111122223333"},
    ),
]
StatusId = Annotated[
    str,
    AfterValidator(_must_look_like(STATUS_ID, "status")),
    Field(
        description="The id of a status.",
        json_schema_extra={"format": "uuid", "example": "0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90"},
    ),
]
Timestamp = Annotated[
    str,
    Field(json_schema_extra={"format": "date-time", "example": "2026-08-24T14:15:22.123Z"}),
]


class AccountPath(BaseModel):
    """What every path of the API begins with."""

    account_id: str = Field(
        description="The id of your account.",
        json_schema_extra={"pattern": "^[0-9a-f]{16}$", "example": "5f0c9ad2b1e84d37"},
    )


class DescribedOnce(BaseModel):
    """A model whose JSON schema is made once. The framework asks for it at each request that has a query or headers,
    and to make it costs more than all else that it does (measured: 0.6 ms)."""

    _schemas: ClassVar[dict[type[BaseModel], dict[str, Any]]] = {}

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As pydantic has it; not to be changed."""
        if args or kwargs:
            return super().model_json_schema(*args, **kwargs)
        if cls not in DescribedOnce._schemas:
            DescribedOnce._schemas[cls] = super().model_json_schema()
        return DescribedOnce._schemas[cls]


class StrictQuery(DescribedOnce):
    """A query string in which a misspelt parameter is an error, not ignored."""

    model_config = ConfigDict(extra="forbid")
