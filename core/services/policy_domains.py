"""Whether a domain is one that we receive for, as senders ask who want its MTA-STS policy."""

from __future__ import annotations

from core.addresses import normalise_domain
from core.routing import candidate_domains
from core.store.db import Database

_LIVE = """
SELECT 1 FROM custom_domain c JOIN address a ON a.id = c.address_id
WHERE c.domain IN ({places}) AND c.deleted_ms IS NULL AND a.deleted_ms IS NULL LIMIT 1"""


def is_received_for(database: Database, domain: str, receiving_domain: str) -> bool:
    """Whether it is the receiving domain or a live custom one, also by a wildcard. Raises `StorageUnavailable`."""
    name = normalise_domain(domain)
    if name is None or name.startswith("["):
        return False
    if name == receiving_domain:
        return True
    candidates = candidate_domains(name)
    statement = _LIVE.format(places=", ".join("?" for _ in candidates))
    with database.reading():
        return bool(database.execute(statement, candidates))
