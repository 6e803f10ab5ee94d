"""The address book in the database."""

from __future__ import annotations

from core.address_settings import read_address_settings
from core.clock import Clock, system_clock
from core.routing import AddressEntry, DomainEntry
from core.rules import Rule
from core.services.rules import load_rules, rules_for
from core.store.db import Database

_ADDRESS = """
SELECT id, account_id, target, settings, secret, CASE WHEN previous_secret_until_ms > ? THEN previous_secret END
FROM address WHERE id = ? AND deleted_ms IS NULL"""
_DOMAINS = """
SELECT c.domain, c.id, c.auth_regex, c.domain_target, a.id, a.account_id, a.target, a.settings, a.secret,
       CASE WHEN a.previous_secret_until_ms > ? THEN a.previous_secret END
FROM custom_domain c JOIN address a ON a.id = c.address_id
WHERE c.domain IN ({places}) AND c.deleted_ms IS NULL AND a.deleted_ms IS NULL"""

SHARED_RULES = 1_000
"""Addresses whose rules are remembered for sharing."""


class StoredAddressBook:
    """Implements `core.routing.AddressBook`; raises `StorageUnavailable`, never guesses."""

    def __init__(self, database: Database, clock: Clock = system_clock) -> None:
        self._database = database
        self._clock = clock
        self._rules: dict[str, tuple[Rule, ...]] = {}

    def find_address(self, address_id: str) -> AddressEntry | None:
        """The live address of that id."""
        with self._database.reading():
            rows = self._database.execute(_ADDRESS, (self._clock(), address_id))
        return _entry(*rows[0]) if rows else None

    def find_domains(self, names: tuple[str, ...]) -> dict[str, DomainEntry]:
        """The live custom domains among `names`, by name."""
        statement = _DOMAINS.format(places=", ".join("?" for _ in names))
        with self._database.reading():
            rows = self._database.execute(statement, (self._clock(), *names))
        return {
            domain: DomainEntry(domain_id, _entry(*address), auth_regex, domain_target)
            for domain, domain_id, auth_regex, domain_target, *address in rows
        }

    def find_rules(self, account_id: str, address_id: str) -> tuple[Rule, ...]:
        """The rules that mail to an address is judged by."""
        with self._database.reading():
            found = rules_for(load_rules(self._database, [account_id]), account_id, address_id)
        return self._shared(address_id, found) if found else found

    def _shared(self, address_id: str, found: tuple[Rule, ...]) -> tuple[Rule, ...]:
        """The same objects for all routes of an address while its rules stay as they are: routes are kept in
        thousands."""
        known = self._rules.get(address_id)
        if known == found and known is not None:
            return known
        if len(self._rules) >= SHARED_RULES:
            self._rules.clear()
        self._rules[address_id] = found
        return found


def _entry(
    address_id: str, account_id: str, target: str, settings: str, secret: str, previous_secret: str | None
) -> AddressEntry:
    return AddressEntry(address_id, account_id, target, read_address_settings(settings), secret, previous_secret)
