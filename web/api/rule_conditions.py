"""The conditions of a rule, as requests and answers have them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, StrictBool, model_serializer

from core.rule_conditions import Conditions
from core.rule_reading import MAX_PATTERNS, MAX_SCORE, MAX_SIZE, MAX_VALUES
from core.verdicts import AuthResult
from web.api.fields import Text, drop_null_defaults

Number = Annotated[float, Field(strict=True, ge=-MAX_SCORE, le=MAX_SCORE, allow_inf_nan=False)]
Size = Annotated[int, Field(strict=True, ge=0, le=MAX_SIZE)]


def _values(description: str, example: list[Any], most: int = MAX_VALUES) -> Any:
    extra: Any = {"example": example, "minItems": 1, "maxItems": most}
    return Field(default=None, description=description, json_schema_extra=extra)


class RuleConditions(BaseModel):
    """When the rule matches: all conditions must be met, each by any of its values. `{}` matches every mail."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    sender: list[Text] | None = _values(
        "Envelope senders: `user@example.com`, `*@example.com`, or `<>` for the null sender of bounces.",
        ["*@example.com"],
    )
    sender_pattern: list[Text] | None = _values(
        "Regular expressions (RE2) that the whole envelope sender must match.",
        ["news[0-9]+@example\\.com"],
        MAX_PATTERNS,
    )
    sender_domain: list[Text] | None = _values(
        "Domains of the envelope sender: `example.com` alone, `*.example.com` for every domain below it.",
        ["example.com", "*.example.com"],
    )
    from_domain: list[Text] | None = _values(
        "Domains of the From header, written as in `sender_domain`. Not met when it names none or several.",
        ["example.com"],
    )
    ip: list[Text] | None = _values(
        "Addresses or networks of the client, IPv4 or IPv6. Behind a trusted forwarder: of the one who sent to it.",
        ["192.0.2.0/24"],
    )
    helo: list[Text] | None = _values(
        "Names the client gives in EHLO, written as in `sender_domain`.", ["*.dyn.example"]
    )
    recipient_pattern: list[Text] | None = _values(
        "Regular expressions (RE2) that a whole recipient must match.", ["(sales|info)@example\\.com"], MAX_PATTERNS
    )
    subject_pattern: list[Text] | None = _values(
        "Regular expressions (RE2) that the whole decoded subject must match.", ["(?i).*invoice.*"], MAX_PATTERNS
    )
    spf: list[AuthResult] | None = _values("Results of SPF.", ["fail", "softfail"])
    dkim: list[AuthResult] | None = _values("Results of DKIM: `pass` when any signature passes.", ["none"])
    dmarc: list[AuthResult] | None = _values("Results of DMARC.", ["fail"])
    attachment_type: list[Text] | None = _values(
        "Content types of an attachment as the mail declares them; `image/*` for all images.", ["application/zip"]
    )
    attachment_extension: list[Text] | None = _values("Ends of an attachment's file name.", ["exe", "tar.gz"])
    spam_score_min: Number | None = Field(default=None, description="The spam score is at least this.")
    size_min: Size | None = Field(default=None, description="The message has at least so many bytes.")
    virus_found: StrictBool | None = Field(
        default=None, description="True: a virus was found. False: everything was scanned and nothing found."
    )

    @model_serializer(mode="wrap")
    def _show_only_what_is_asked(self, write: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        """(Without a return type, or the reference would show that in place of the fields.)"""
        return {name: value for name, value in write(self).items() if value is not None}

    def to_mapping(self) -> dict[str, Any]:
        """For the services."""
        return {name: value for name in RuleConditions.model_fields if (value := getattr(self, name)) is not None}


def show_conditions(conditions: Conditions) -> RuleConditions:
    """For an answer."""
    return RuleConditions(**{name: _plain(getattr(conditions, name)) for name in conditions.given})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
