"""A store in requests and answers. Secrets go in and never come out: an answer has `***` in their place, and a PUT that
sends this back keeps what is stored."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from core.errors import InvalidField
from core.store_checks import MAX_URL_LIFETIME_S, MIN_URL_LIFETIME_S, OPTIONAL_FIELDS
from core.store_settings import StoreKind, StoreSettings
from web.api.fields import Text, drop_null_defaults

MASK = "***"
SECRETS = ("secret_access_key", "sas", "account_key", "service_account")
_BOUND_TO = ("kind", "endpoint", "account", "bucket")
"""A kept secret goes nowhere but where it was meant for: who has an API key must not learn it by another endpoint."""
_BUCKET = "S3 and GCS: the bucket. Azure: the container."
_PREFIX = "Before the name of every object, with a slash between."
_ENDPOINT = "Where to call in place of the vendor: services compatible with S3, Azure's emulator and such."
_MASKED = " An answer has `***` in its place; sent back in a PUT it means: as it is."


def _service_account_as_text(value: Any) -> Any:
    """The key may be given as it was downloaded, as an object."""
    return orjson.dumps(value).decode() if isinstance(value, dict) else value


ServiceAccount = Annotated[
    Text | None,
    BeforeValidator(_service_account_as_text),
    Field(json_schema_extra={"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}]}),
]


class StoreBody(BaseModel):
    """A store for attachments or messages. What a kind does not use must be left out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    kind: StoreKind = Field(description="`built_in` is our own, which needs nothing else.")
    bucket: Text | None = Field(default=None, description=_BUCKET, json_schema_extra={"example": "my-attachments"})
    prefix: Text | None = Field(default=None, description=_PREFIX, json_schema_extra={"example": "mail/in"})
    region: Text | None = Field(default=None, description="S3.", json_schema_extra={"example": "eu-central-1"})
    endpoint: Text | None = Field(default=None, description=_ENDPOINT)
    access_key_id: Text | None = Field(default=None, description="S3.")
    secret_access_key: Text | None = Field(default=None, description="S3." + _MASKED)
    acl: Text | None = Field(
        default=None,
        description="S3 and GCS: the canned ACL of each object.",
        json_schema_extra={"example": "public-read"},
    )
    account: Text | None = Field(default=None, description="Azure: the storage account.")
    sas: Text | None = Field(default=None, description="Azure: a SAS token that may create and write." + _MASKED)
    account_key: Text | None = Field(default=None, description="Azure: the account's key in place of `sas`." + _MASKED)
    service_account: ServiceAccount = Field(
        default=None, description="GCS: the JSON key of a service account, as text or as an object." + _MASKED
    )
    url_lifetime_s: int | None = Field(
        default=None,
        description="Seconds for which URLs are signed. Left out, they are plain, and whether they can be fetched is "
        "up to the bucket. (Those of the built-in store are always signed.)",
        ge=MIN_URL_LIFETIME_S,
        le=MAX_URL_LIFETIME_S,
    )

    def to_settings(self, before: StoreSettings | None, field: str) -> StoreSettings:
        """For the core, with what is stored in the place of each masked secret. Not checked yet.

        Raises `InvalidField` where there is nothing stored, or where it was meant for another place.
        """
        given: dict[str, Any] = {name: value for name in OPTIONAL_FIELDS if (value := getattr(self, name)) is not None}
        if "prefix" in given:
            given["prefix"] = given["prefix"].strip("/")
        if "sas" in given:
            given["sas"] = given["sas"].removeprefix("?")
        wanted = StoreSettings(kind=self.kind, **given)
        for name in SECRETS:
            if given.get(name) == MASK:
                given[name] = _kept_secret(name, wanted, before, field)
        return StoreSettings(kind=self.kind, **given)


class StoreAnswer(BaseModel):
    """A store as it is configured; fields that are not set are left out."""

    kind: StoreKind
    bucket: str | None = None
    prefix: str | None = None
    region: str | None = None
    endpoint: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = Field(default=None, description="`***`.")
    acl: str | None = None
    account: str | None = None
    sas: str | None = Field(default=None, description="`***`.")
    account_key: str | None = Field(default=None, description="`***`.")
    service_account: str | None = Field(default=None, description="`***`.")
    url_lifetime_s: int | None = None


def _none_when_empty(value: Any) -> Any:
    return None if value == {} else value


def _allow_empty(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [*schema.get("anyOf", []), {"type": "object", "maxProperties": 0}]


StoreField = Annotated[StoreBody | None, BeforeValidator(_none_when_empty), Field(json_schema_extra=_allow_empty)]
"""A store in a request; null and, as in CloudMailin's API, an empty object mean none."""


def store_answer(settings: StoreSettings | None) -> dict[str, Any]:
    """A store in an answer, without its secrets; an empty object when there is none."""
    if settings is None:
        return {}
    shown = {name: value for name in OPTIONAL_FIELDS if (value := getattr(settings, name)) not in ("", None)}
    return {"kind": settings.kind.value, **shown, **{name: MASK for name in SECRETS if name in shown}}


def _kept_secret(name: str, wanted: StoreSettings, before: StoreSettings | None, field: str) -> str:
    kept = "" if before is None else getattr(before, name)
    if not kept:
        raise InvalidField(f"{field}.{name}", f"is {MASK}, which keeps what is stored, but nothing is; give it in full")
    if any(getattr(wanted, place) != getattr(before, place) for place in _BOUND_TO):
        raise InvalidField(
            f"{field}.{name}", f"must be given in full, not as {MASK}, when {', '.join(_BOUND_TO)} change"
        )
    return str(kept)
