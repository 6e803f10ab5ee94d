"""Sending domains as requests and answers have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, StrictBool, StrictInt

from core.errors import NotFound
from core.sending.domain_status import CheckState
from core.sending.key_rotation import KeyState
from core.sending.send_settings_check import MAX_LIMIT
from core.sending.sending_domains import KeyAlgorithm, Purpose
from core.verdicts import DmarcPolicy
from web.api.fields import (
    DOMAIN_ID,
    AccountPath,
    Text,
    Timestamp,
    as_optional_parameter,
    drop_null_defaults,
)
from web.api.paging import PAGE_HEADERS, ListQuery

MAX_NAME_LENGTH = 255
SELECTOR = "[a-z0-9]{1,63}"
EXAMPLE = "example.com"
EXAMPLE_SELECTOR = "pb20260921k3fq"
RECORD = "v=DKIM1; k=rsa; p=MIIBIjANBgkq…"


def _must_look_like(pattern: str, noun: str) -> Callable[[str], str]:
    """A name of another form names nothing, as an unknown one does: 404, not 422. Raises `NotFound`."""
    form = re.compile(pattern)

    def check(text: str) -> str:
        lowered = text.lower()
        if not form.fullmatch(lowered):
            raise NotFound(f"there is no {noun}")
        return lowered

    return check


SendingDomainId = Annotated[
    str,
    AfterValidator(_must_look_like(DOMAIN_ID, "sending domain with this id")),
    Field(
        description="The id of a sending domain.",
        json_schema_extra={"pattern": f"^{DOMAIN_ID}$", "example": "aaaa111122223333"},
    ),
]
Selector = Annotated[
    str,
    AfterValidator(_must_look_like(SELECTOR, "key with this selector")),
    Field(
        description="The selector of a key.",
        json_schema_extra={"pattern": f"^{SELECTOR}$", "example": EXAMPLE_SELECTOR},
    ),
]


class SendingDomainPath(AccountPath):
    """One sending domain."""

    sending_domain_id: SendingDomainId


class SendingKeyPath(SendingDomainPath):
    """One key of a sending domain."""

    selector: Selector


class SendingDomainListQuery(ListQuery):
    """Which sending domains to list."""

    query: Text | None = Field(
        default=None,
        max_length=MAX_NAME_LENGTH,
        description="Only domains that contain this text.",
        json_schema_extra=as_optional_parameter,
    )


class SendingDomainBody(BaseModel):
    """What you say of a new sending domain."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    domain: Text = Field(
        max_length=MAX_NAME_LENGTH,
        description="The domain, as it stands behind the @ of your senders.",
        json_schema_extra={"example": EXAMPLE},
    )
    ed25519: StrictBool = Field(
        default=False,
        description="Whether to make an Ed25519 key beside the RSA one: each mail then has two signatures.",
    )


class SendingKeyBody(BaseModel):
    """Which key to make."""

    model_config = ConfigDict(extra="forbid")

    algorithm: KeyAlgorithm = Field(default=KeyAlgorithm.RSA, description="Which kind of key.")


Choice = Annotated[StrictBool | None, Field(description="Null leaves the choice to the account.")]
Limit = Annotated[
    Annotated[StrictInt, Field(ge=1, le=MAX_LIMIT)] | None, Field(description="More wait. Null is no limit here.")
]


class SendingSettings(BaseModel):
    """How a domain sends. What a single message says goes before it; what is null is the account's choice."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    track_opens: Choice = Field(default=None, description="Whether HTML mails get an open pixel.")
    track_clicks: Choice = Field(default=None, description="Whether links in HTML are tracked.")
    track_text_clicks: Choice = Field(default=None, description="Whether links in plain text are tracked.")
    unsubscribe: Choice = Field(default=None, description="Whether mails get a List-Unsubscribe header (RFC 8058).")
    tracking_host: Text | None = Field(
        default=None,
        max_length=MAX_NAME_LENGTH,
        description="A name in your domain for tracked links and pixels; it is used once its DNS leads here.",
        json_schema_extra={"example": "links.example.com"},
    )
    hourly_limit: Limit = Field(default=None, description="Mails an hour; more wait.")
    daily_limit: Limit = Field(default=None, description="Mails a day; more wait.")
    ramp: Choice = Field(default=None, description="Whether the domain begins with few mails a day, which double.")
    source_ip: Text | None = Field(
        default=None,
        max_length=MAX_NAME_LENGTH,
        description="The address of the gateway's that mail leaves from.",
        json_schema_extra={"example": "192.0.2.1"},
    )


class SendingSettingsBody(BaseModel):
    """Settings to change."""

    model_config = ConfigDict(extra="forbid")

    settings: SendingSettings


class SendingRecord(BaseModel):
    """A DNS record, ready to be copied."""

    purpose: Purpose
    name: str = Field(json_schema_extra={"example": "mta.example.com"})
    type: str = Field(json_schema_extra={"example": "CNAME"})
    value: str = Field(json_schema_extra={"example": "mta.gateway.example"})
    is_required: bool = Field(description="False for what only improves things.")
    zone_line: str = Field(
        description="The same as a line of a zone file.",
        json_schema_extra={"example": "mta.example.com. IN CNAME mta.gateway.example."},
    )


class FoundRecord(BaseModel):
    """A record that was looked for, or found."""

    name: str
    type: str
    value: str


class SendingCheck(BaseModel):
    """What the DNS said last."""

    state: CheckState = Field(description="`unknown` takes nothing away: the DNS did not answer.")
    looked_for: list[FoundRecord] = Field(description="What would do, each by itself.")
    found: list[FoundRecord] = Field(description="What is there.")
    cure: str = Field(description="What to do; advice where the check is verified; empty where there is nothing to do.")


class SendingChecks(BaseModel):
    """All checks; null for what has not been looked at, or is not wanted."""

    dkim: SendingCheck | None
    return_path: SendingCheck | None
    spf: SendingCheck | None
    dmarc: SendingCheck | None
    tracking: SendingCheck | None


class SendingKey(BaseModel):
    """The public side of a signing key."""

    selector: Selector
    algorithm: KeyAlgorithm
    state: KeyState = Field(
        description="`pending` until its record is seen, `active` while it signs, `retiring` while its record must "
        "stay, then `retired`."
    )
    since: Timestamp = Field(description="When it came into this state.")
    name: str = Field(description="Where its record lies.")
    public_record: str = Field(json_schema_extra={"example": RECORD})
    seen_at: str | None = Field(description="The domain it was found at: yours, or its parent. Null where it was not.")
    missing_since: Timestamp | None = Field(description="Since when checks do not find it; null while they do.")
    check: SendingCheck | None = Field(description="Null before the first check, and for retired keys.")


class SendingDomain(BaseModel):
    """A sending domain."""

    id: SendingDomainId
    domain: str = Field(description="In lower-case ASCII.", json_schema_extra={"example": EXAMPLE})
    mta_domain: str = Field(
        description="The domain of the envelope sender, to which bounces go.",
        json_schema_extra={"example": f"mta.{EXAMPLE}"},
    )
    dkim_selector: str = Field(
        description="Of the key that signs, or will.", json_schema_extra={"example": EXAMPLE_SELECTOR}
    )
    dkim_domain: str = Field(
        description="Where its record goes.", json_schema_extra={"example": f"{EXAMPLE_SELECTOR}._domainkey.{EXAMPLE}"}
    )
    dkim_public_record: str = Field(description="Its record.", json_schema_extra={"example": RECORD})
    required_cname: str = Field(
        description="What `mta_domain` must point to.", json_schema_extra={"example": "mta.gateway.example"}
    )
    dkim_verified: bool = Field(description="Whether mail may be sent: the record of the key was seen.")
    return_path_verified: bool
    spf_verified: bool
    dmarc_verified: bool
    tracking_verified: bool = Field(description="Whether `settings.tracking_host` leads here.")
    signing_domain: str | None = Field(description="`d=` of signatures: the domain, or its parent if the key is there.")
    dmarc_policy: DmarcPolicy | None = Field(description="What your DMARC record asks of receivers.")
    records: list[SendingRecord] = Field(description="What is to be in the DNS.")
    records_without_cname: list[SendingRecord] = Field(
        description="In place of the CNAME of `mta_domain`, where there can be none."
    )
    checks: SendingChecks
    keys: list[SendingKey]
    settings: SendingSettings
    paused_because: str | None = Field(description="Why its mail is held; null when it is not.")
    checked_at: Timestamp | None = Field(description="When the DNS was asked last.")
    next_check_at: Timestamp = Field(description="When it will be asked again without you.")
    created_at: Timestamp


class SendingDomainList(RootModel[list[SendingDomain]]):
    """Sending domains, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]
