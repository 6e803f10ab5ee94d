"""Whether what a customer says of a sending domain's settings can be had; errors name the field and the cure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from core.addresses import normalise_domain
from core.authentication.dmarc_record import organizational_domain
from core.errors import InvalidField
from core.sending.send_settings import SendSettings
from core.sending.sending_domains import mta_domain, sending_domain

MAX_LIMIT = 1_000_000_000
"""Mails an hour or a day; more is no limit."""
SWITCHES = ("track_opens", "track_clicks", "track_text_clicks", "unsubscribe", "ramp")
LIMITS = ("hourly_limit", "daily_limit")


def changed_settings(
    before: SendSettings, changes: Mapping[str, Any], domain: str, source_addresses: tuple[str, ...]
) -> SendSettings:
    """The settings after a merge (RFC 7396): null takes a choice back, what is not named stays.

    `source_addresses` are those of ours that mail may leave from. Raises `InvalidField`.
    """
    names = [entry.name for entry in fields(SendSettings)]
    unknown = next((name for name in changes if name not in names), None)
    if unknown is not None:
        raise InvalidField(f"settings.{unknown[:40]}", f"is no setting; there are {', '.join(names)}")
    merged = {name: changes.get(name, getattr(before, name)) for name in names}
    checked = {
        name: _checked(name, value, domain, source_addresses) for name, value in merged.items() if name in changes
    }
    return SendSettings(**{**merged, **checked})


def _checked(name: str, value: Any, domain: str, source_addresses: tuple[str, ...]) -> Any:
    field = f"settings.{name}"
    if value is None:
        return None
    if name in SWITCHES:
        if not isinstance(value, bool):
            raise InvalidField(field, "must be true, false, or null for the account's choice")
        return value
    if name in LIMITS:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT:
            raise InvalidField(field, f"must be a whole number from 1 to {MAX_LIMIT}, or null for no limit")
        return value
    if not isinstance(value, str):
        raise InvalidField(field, "must be a text, or null")
    if name == "tracking_host":
        return _tracking_host(field, value, domain)
    return _source_ip(field, value, source_addresses)


def _tracking_host(field: str, text: str, domain: str) -> str:
    """A name in the domain of its customer: the links of one are never made under the name of another."""
    home = organizational_domain(domain)
    host = normalise_domain(text.strip())
    if host is None or not (host == home or host.endswith(f".{home}")):
        raise InvalidField(field, f"{text[:80]!r} is no name in {home}; write one like links.{home}")
    try:
        host = sending_domain(host)  # the same letters and lengths
    except InvalidField as error:
        raise InvalidField(field, error.problem) from error
    if host == mta_domain(domain):
        raise InvalidField(field, f"{host} is where bounces go; take another name, like links.{home}")
    return host


def _source_ip(field: str, text: str, source_addresses: tuple[str, ...]) -> str:
    try:
        address = str(ipaddress.ip_address(text.strip()))
    except ValueError as error:
        raise InvalidField(field, f"{text[:80]!r} is no IP address; write one like 192.0.2.1") from error
    if address not in source_addresses:
        ours = ", ".join(source_addresses)
        cure = f"take one of {ours}" if ours else "it has named none (PILLARBOX_SOURCE_IPS); leave this out"
        raise InvalidField(field, f"{address} is no address that this gateway sends from; {cure}")
    return address
