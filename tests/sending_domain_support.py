"""Sending domains of a gateway whose names are fixed, with a DNS server that a test fills as customers do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import Settings
from core.dns_lookup import DnsLookup
from core.mta_sts import DnsRecord
from core.sending.domain_inspection import DomainInspector, domain_inspector
from core.sending.key_rotation import KeyState
from core.sending.sending_domains import KeyAlgorithm, operator_records, required_records, sending_hosts
from core.services.accounts import NewAccount
from core.services.sending_domain_changes import create_domain
from core.services.sending_domain_checks import verify_domain
from core.services.sending_domain_records import SendingDomainRecord, get_domain
from core.store.db import Database
from tests.api_support import api_settings
from tests.authentication_support import lookup_at
from tests.authentication_zones import ZoneServer
from tests.conftest import NOW_MS

RETURNS = "returns.gateway.example"
MX = "mx.gateway.example"
TRACKING = "links.gateway.example"
PATIENCE_S = 1.0


def gateway_settings(folder: Path, zones: ZoneServer, **more: Any) -> Settings:
    """A gateway that asks this DNS server."""
    names = {"return_host": RETURNS, "hostname": MX, "sending_ips": "192.0.2.1,2001:db8::1"}
    where = {"resolver": f"127.0.0.1:{zones.port}", "tracking_url": f"https://{TRACKING}"}
    return api_settings(folder, **{**names, **where, **more})


def publish(zones: ZoneServer, record: DnsRecord) -> None:
    """What somebody does by copy and paste."""
    preference, _, host = record.value.partition(" ")
    zones.add(record.name, record.type, (int(preference), host) if record.type == "MX" else record.value)


def publish_shown(zones: ZoneServer, records: Iterable[dict[str, Any]]) -> None:
    """The same with records as the API shows them."""
    for shown in records:
        publish(zones, DnsRecord(shown["name"], shown["type"], shown["value"]))


def publish_operator(zones: ZoneServer, settings: Settings) -> None:
    """What the gateway's operator did long ago."""
    for record in operator_records(sending_hosts(settings)):
        publish(zones, record)
    zones.add(TRACKING, "A", "192.0.2.80")


@dataclass
class Customer:
    """An account, its gateway, a clock, and a DNS to publish in."""

    database: Database
    account: NewAccount
    settings: Settings
    zones: ZoneServer
    now_ms: int = NOW_MS
    patience_s: float = PATIENCE_S

    def clock(self) -> int:
        """The present moment."""
        return self.now_ms

    @property
    def lookup(self) -> DnsLookup:
        """A client of the DNS server."""
        return lookup_at(self.zones, query_timeout_s=self.patience_s)

    @property
    def inspector(self) -> DomainInspector:
        """What asks it."""
        return domain_inspector(self.lookup, self.settings, self.clock)

    def create(self, name: str = "example.com", *others: KeyAlgorithm) -> SendingDomainRecord:
        """Add a sending domain."""
        return create_domain(self.database, self.account.account_id, name, others, self.now_ms)

    def get(self, domain_id: str) -> SendingDomainRecord:
        """The domain as it stands."""
        return get_domain(self.database, self.account.account_id, domain_id)

    def verify(self, domain_id: str) -> SendingDomainRecord:
        """Look at it now."""
        return verify_domain(self.database, self.inspector, self.account.account_id, domain_id, self.clock)

    def publish_all(self, record: SendingDomainRecord) -> None:
        """Follow the instructions."""
        for needed in required_records(record.domain, record.published, sending_hosts(self.settings)):
            if (needed.record.name, needed.record.type) not in self.published_names():
                publish(self.zones, needed.record)

    def published_names(self) -> set[tuple[str, str]]:
        """Names and types that are in the DNS."""
        return {(b".".join(labels).decode(), kind) for labels, kind in self.zones.records}

    def verified(self, name: str = "example.com", *others: KeyAlgorithm) -> SendingDomainRecord:
        """A domain with all its records, seen."""
        made = self.create(name, *others)
        self.publish_all(made)
        return self.verify(made.domain_id)


def states(record: SendingDomainRecord) -> list[tuple[KeyAlgorithm, KeyState]]:
    """Of its keys, in the order they were made."""
    return [(key.algorithm, key.state) for key in record.state.keys]


def private_keys(customer: Customer) -> dict[str, str]:
    """Of all domains, by selector."""
    with customer.database.reading():
        return dict(customer.database.execute("SELECT selector, private_pem FROM domain_key"))
