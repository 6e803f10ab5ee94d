"""The address book in the database."""

from __future__ import annotations

from core.routing import AddressEntry, DomainEntry
from core.store.db import Database

_ADDRESS = "SELECT id, account_id, target FROM address WHERE id = ? AND deleted_ms IS NULL"
_DOMAINS = """
SELECT c.domain, c.id, c.auth_regex, c.domain_target, a.id, a.account_id, a.target
FROM custom_domain c JOIN address a ON a.id = c.address_id
WHERE c.domain IN ({places}) AND c.deleted_ms IS NULL AND a.deleted_ms IS NULL"""


class StoredAddressBook:
    """Implements `core.routing.AddressBook`; raises `StorageUnavailable`, never guesses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_address(self, address_id: str) -> AddressEntry | None:
        """The live address of that id."""
        with self._database.reading():
            rows = self._database.execute(_ADDRESS, (address_id,))
        return AddressEntry(*rows[0]) if rows else None

    def find_domains(self, names: tuple[str, ...]) -> dict[str, DomainEntry]:
        """The live custom domains among `names`, by name."""
        statement = _DOMAINS.format(places=", ".join("?" for _ in names))
        with self._database.reading():
            rows = self._database.execute(statement, names)
        return {
            domain: DomainEntry(domain_id, AddressEntry(address_id, account_id, target), auth_regex, domain_target)
            for domain, domain_id, auth_regex, domain_target, address_id, account_id, target in rows
        }
