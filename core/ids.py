"""Identifiers and secrets: each made in one place, with the length its readers expect."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import time
import uuid

ADDRESS_ID_BYTES = 10  # 20 hex digits, as CloudMailin's API has them
DOMAIN_ID_BYTES = 8  # 16 hex digits, as CloudMailin's API has them
ACCOUNT_ID_BYTES = 8
WORKER_ID_BYTES = 8
API_KEY_BYTES = 24
SIGNING_SECRET_BYTES = 32  # Standard Webhooks asks for 24 to 64 bytes
_TIME_BITS_MAX = (1 << 48) - 1
SIGNING_SECRET_PREFIX = "whsec_"  # noqa: S105 (a public prefix, not a secret)


def new_time_ordered_id(now_ms: int | None = None) -> str:
    """A UUID version 7 (RFC 9562 section 5.7): sorts by creation time, so it serves as a stable cursor."""
    milliseconds = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & 0xFFFFFFFFFFFF) << 80 | random_bits
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))


def new_message_id(now_ms: int | None = None) -> str:
    """A time-ordered id that calls itself version 4.

    CloudMailin's ids are that, its own client's test refuses any other version, and so may its customers' columns and
    schemas. Nobody is to read anything from the bits of a version 4; that ours begin with the time is for us alone.
    """
    made = new_time_ordered_id(now_ms)
    return f"{made[:14]}4{made[15:]}"


def first_id_at(moment_ms: int) -> str:
    """No time-ordered id (UUID version 7) made at or after that moment sorts before this."""
    digits = f"{min(max(moment_ms, 0), _TIME_BITS_MAX):012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"


def new_address_id() -> str:
    """20 hex digits: the local part of an address's mailbox."""
    return secrets.token_hex(ADDRESS_ID_BYTES)


def new_domain_id() -> str:
    """16 hex digits."""
    return secrets.token_hex(DOMAIN_ID_BYTES)


def new_account_id() -> str:
    """16 hex digits."""
    return secrets.token_hex(ACCOUNT_ID_BYTES)


def new_worker_id() -> str:
    """16 hex digits."""
    return secrets.token_hex(WORKER_ID_BYTES)


def new_api_key() -> str:
    """A bearer token of 192 random bits."""
    return secrets.token_urlsafe(API_KEY_BYTES)


def new_signing_secret() -> str:
    """A Standard Webhooks secret: `whsec_` and base64."""
    return SIGNING_SECRET_PREFIX + base64.b64encode(os.urandom(SIGNING_SECRET_BYTES)).decode()


def secret_digest(secret: str) -> str:
    """Hex SHA-256 of a key we made. A slow hash would add nothing: the key has 192 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()
