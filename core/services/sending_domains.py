"""Domains that accounts send from: made, verified, asked for by whatever sends."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from core.sending.send_settings import SendSettings
from core.sending.sending_domains import KeyAlgorithm
from core.store.db import Database


@dataclass(frozen=True, slots=True)
class SenderKey:
    """A key that signs now."""

    selector: str
    algorithm: KeyAlgorithm
    private_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sender:
    """What sending needs to know of a sending domain."""

    sending_domain_id: str
    account_id: str
    domain: str
    """Lower-case A-labels."""
    is_verified: bool
    """Whether mail may be sent: a DKIM key of it was seen in the DNS."""
    has_return_path: bool
    """Whether `mta.<domain>` leads to us, so that bounces come back."""
    signing_domain: str | None
    """`d=` of signatures."""
    keys: tuple[SenderKey, ...]
    """RSA first; empty while none is active."""
    settings: SendSettings
    tracking_verified: bool
    """Whether `settings.tracking_host` leads to us."""
    paused_because: str | None
    """Why its mail is held, by its own pause or its account's; None when it is not."""


def find_sender(database: Database, account_id: str, domain: str) -> Sender | None:
    """The live sending domain of an account with this name (lower-case A-labels). Raises `StorageUnavailable`."""
    raise NotImplementedError


def load_senders(database: Database, sending_domain_ids: Collection[str]) -> dict[str, Sender]:
    """Sending domains by id, deleted ones too: what was accepted is still sent. Inside `reading` or a transaction."""
    raise NotImplementedError
