"""The gateway's own account: what passes through that is no customer's, such as bounces on their way back.

Nobody can log in to it, its address takes no mail, and its deliveries are in nobody's lists.
"""

from __future__ import annotations

from core.clock import Clock
from core.formats import TargetFormat
from core.ids import ACCOUNT_ID_BYTES, ADDRESS_ID_BYTES, new_signing_secret
from core.store.db import Database

GATEWAY_ACCOUNT_ID = "00" * ACCOUNT_ID_BYTES
GATEWAY_ADDRESS_ID = "00" * ADDRESS_ID_BYTES
_MAKE_ACCOUNT = """
INSERT INTO account (id, name, created_ms) VALUES (?, 'gateway', ?) ON CONFLICT (id) DO NOTHING"""
_MAKE_ADDRESS = """
INSERT INTO address (id, account_id, target, target_format, secret, created_ms, updated_ms, deleted_ms)
VALUES (?, ?, '', ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"""


def ensure_gateway_account(database: Database, clock: Clock) -> None:
    """Make it where it is missing. Raises `StorageUnavailable`."""
    now_ms = clock()
    values = (GATEWAY_ADDRESS_ID, GATEWAY_ACCOUNT_ID, TargetFormat.RAW.value, new_signing_secret())
    with database.transaction():
        database.execute(_MAKE_ACCOUNT, (GATEWAY_ACCOUNT_ID, now_ms))
        database.execute(_MAKE_ADDRESS, (*values, now_ms, now_ms, now_ms))
