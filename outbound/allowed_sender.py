"""Whether an account may send from a domain, asked of every message, whichever way it came."""

from __future__ import annotations

from core.errors import InvalidField
from core.services.sending_domains import Sender, find_sender
from core.store.db import Database


def require_allowed(
    database: Database, account_id: str, domain: str, bound_to: str | None, requires_verified: bool
) -> Sender | None:
    """The sending domain that mail from this domain (lower-case A-labels) belongs to.

    None for a domain that the account has not added, which may be sent from only where `requires_verified` is false.
    `bound_to` is the one sending domain that the credential may use. Raises `InvalidField`, `StorageUnavailable`.
    """
    sender = find_sender(database, account_id, domain)
    if bound_to is not None and (sender is None or sender.sending_domain_id != bound_to):
        raise InvalidField("from", f"this login may not send from {domain}; send from its own domain, or use another")
    if not requires_verified:
        return sender
    if sender is None:
        problem = f"{domain} is no sending domain of this account; add it (POST /sending_domains), then verify it"
        raise InvalidField("from", problem)
    if not sender.is_verified:
        problem = f"{domain} is not verified: publish its DNS records, then call POST /sending_domains/"
        raise InvalidField("from", f"{problem}{sender.sending_domain_id}/verify")
    return sender
