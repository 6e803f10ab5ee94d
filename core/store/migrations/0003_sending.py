"""Sending: domains and keys, sent messages, events, webhooks, suppressions, layouts, limits, tracking."""

from peewee import Database
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    "ALTER TABLE account ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'",
    "ALTER TABLE account ADD COLUMN paused_ms BIGINT",
    "ALTER TABLE account ADD COLUMN paused_because TEXT",
    """CREATE TABLE sending_domain (
        id VARCHAR(16) PRIMARY KEY, account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        domain VARCHAR(255) NOT NULL, dkim_verified BOOLEAN NOT NULL DEFAULT FALSE,
        return_path_verified BOOLEAN NOT NULL DEFAULT FALSE, spf_verified BOOLEAN NOT NULL DEFAULT FALSE,
        dmarc_verified BOOLEAN NOT NULL DEFAULT FALSE, tracking_verified BOOLEAN NOT NULL DEFAULT FALSE,
        signing_domain VARCHAR(255), report TEXT, checked_ms BIGINT, next_check_ms BIGINT NOT NULL,
        settings TEXT NOT NULL DEFAULT '{}', paused_ms BIGINT, paused_because TEXT, created_ms BIGINT NOT NULL,
        deleted_ms BIGINT)""",
    "CREATE UNIQUE INDEX sending_domain_live ON sending_domain (account_id, domain) WHERE deleted_ms IS NULL",
    "CREATE INDEX sending_domain_check ON sending_domain (next_check_ms) WHERE deleted_ms IS NULL",
    """CREATE TABLE domain_key (
        sending_domain_id VARCHAR(16) NOT NULL REFERENCES sending_domain(id) ON DELETE CASCADE,
        selector VARCHAR(63) NOT NULL, algorithm VARCHAR(16) NOT NULL, state VARCHAR(16) NOT NULL,
        since_ms BIGINT NOT NULL, private_pem TEXT NOT NULL, public_record TEXT NOT NULL,
        PRIMARY KEY (sending_domain_id, selector))""",
    "ALTER TABLE credential ADD COLUMN name TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE credential ADD COLUMN scopes TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE credential ADD COLUMN sending_domain_id VARCHAR(16) REFERENCES sending_domain(id) ON DELETE CASCADE",
    "ALTER TABLE credential ADD COLUMN is_active BOOLEAN NOT NULL DEFAULT TRUE",
    "ALTER TABLE credential ADD COLUMN last_used_ms BIGINT",
    """CREATE TABLE sent_message (
        message_id VARCHAR(36) PRIMARY KEY REFERENCES message(id) ON DELETE CASCADE,
        account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE, username VARCHAR(64) NOT NULL,
        sending_domain_id VARCHAR(16) REFERENCES sending_domain(id) ON DELETE SET NULL, header_to TEXT NOT NULL,
        header_cc TEXT NOT NULL, tags TEXT NOT NULL, metadata TEXT NOT NULL, stream VARCHAR(64) NOT NULL,
        priority VARCHAR(16) NOT NULL, is_test BOOLEAN NOT NULL, needs_smtputf8 BOOLEAN NOT NULL, send_at_ms BIGINT,
        options TEXT NOT NULL)""",
    "CREATE INDEX sent_message_account ON sent_message (account_id, message_id)",
    "CREATE INDEX sent_message_domain ON sent_message (sending_domain_id, message_id)",
    """CREATE TABLE webhook (
        id VARCHAR(16) PRIMARY KEY, account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        url TEXT NOT NULL, kinds TEXT NOT NULL, tags TEXT NOT NULL, domains TEXT NOT NULL, note TEXT,
        secret TEXT NOT NULL, previous_secret TEXT, previous_secret_until_ms BIGINT,
        is_active BOOLEAN NOT NULL, disabled_because TEXT, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
        deleted_ms BIGINT)""",
    "CREATE INDEX webhook_account ON webhook (account_id)",
    "ALTER TABLE delivery ADD COLUMN webhook_id VARCHAR(16) REFERENCES webhook(id) ON DELETE CASCADE",
    "CREATE INDEX delivery_webhook ON delivery (webhook_id, id) WHERE webhook_id IS NOT NULL",
    "CREATE INDEX delivery_held ON delivery (account_id, id) WHERE state = 'quarantined'",
    """CREATE TABLE event (
        id VARCHAR(36) PRIMARY KEY, account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        sending_domain_id VARCHAR(16), message_id VARCHAR(36) NOT NULL REFERENCES message(id) ON DELETE CASCADE,
        delivery_id VARCHAR(36), kind VARCHAR(24) NOT NULL, recipient TEXT NOT NULL, at_ms BIGINT NOT NULL,
        details TEXT NOT NULL)""",
    "CREATE INDEX event_message ON event (message_id, id)",
    "CREATE INDEX event_account ON event (account_id, id)",
    """CREATE TABLE suppression (
        id VARCHAR(36) PRIMARY KEY, account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        sending_domain_id VARCHAR(16) REFERENCES sending_domain(id) ON DELETE CASCADE, address TEXT NOT NULL,
        reason VARCHAR(24) NOT NULL, detail TEXT, message_id VARCHAR(36), created_ms BIGINT NOT NULL)""",
    """CREATE UNIQUE INDEX suppression_address
        ON suppression (account_id, address, (coalesce(sending_domain_id, '')))""",
    "CREATE INDEX suppression_account ON suppression (account_id, id)",
    """CREATE TABLE soft_bounce (
        account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE, address TEXT NOT NULL,
        count INTEGER NOT NULL, first_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL,
        PRIMARY KEY (account_id, address))""",
    """CREATE TABLE layout (
        id VARCHAR(16) PRIMARY KEY, account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        name VARCHAR(100) NOT NULL, html TEXT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL)""",
    "CREATE UNIQUE INDEX layout_name ON layout (account_id, name)",
    """CREATE TABLE idempotency (
        username VARCHAR(64) NOT NULL, key VARCHAR(255) NOT NULL, request_sha256 VARCHAR(64) NOT NULL,
        message_id VARCHAR(36) NOT NULL, response TEXT NOT NULL, created_ms BIGINT NOT NULL,
        PRIMARY KEY (username, key))""",
    "CREATE INDEX idempotency_age ON idempotency (created_ms)",
    "CREATE TABLE send_rate (scope VARCHAR(64) PRIMARY KEY, next_ms BIGINT NOT NULL)",
    """CREATE TABLE send_tally (
        account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        sending_domain_id VARCHAR(16) NOT NULL, hour_ms BIGINT NOT NULL, kind VARCHAR(24) NOT NULL,
        count BIGINT NOT NULL, PRIMARY KEY (account_id, sending_domain_id, hour_ms, kind))""",
    """CREATE TABLE tracking_hit (
        id {auto_id}, delivery_id VARCHAR(36) NOT NULL REFERENCES delivery(id) ON DELETE CASCADE, link INTEGER,
        url TEXT, at_ms BIGINT NOT NULL, method VARCHAR(8) NOT NULL, address TEXT NOT NULL, user_agent TEXT NOT NULL,
        headers TEXT NOT NULL, kind VARCHAR(16) NOT NULL, reason TEXT NOT NULL)""",
    "CREATE INDEX tracking_hit_delivery ON tracking_hit (delivery_id)",
)
OPTIONAL_COLUMNS = ("address_id", "message_id")
"""Of a delivery: a sent mail has no address, a batch of events no message."""


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Create the tables, and let deliveries be without address and message."""
    is_postgres = type(db).__name__.startswith("Postgres")
    auto_id = "BIGSERIAL PRIMARY KEY" if is_postgres else "INTEGER PRIMARY KEY AUTOINCREMENT"
    for statement in STATEMENTS:
        db.execute_sql(statement.replace("{auto_id}", auto_id))
    if is_postgres:
        for column in OPTIONAL_COLUMNS:
            db.execute_sql(f"ALTER TABLE delivery ALTER COLUMN {column} DROP NOT NULL")
    else:
        _drop_not_null_in_sqlite(db)


def _drop_not_null_in_sqlite(db: Database) -> None:
    """As https://www.sqlite.org/lang_altertable.html section 7 has it for changes that leave the rows as they are.

    To copy the table instead would take long where it is large, and dropping the old one would take all attempts along.
    """
    written = db.execute_sql("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'delivery'").fetchone()[0]
    changed = written
    for column in OPTIONAL_COLUMNS:
        start = changed.index(f"{column} VARCHAR")
        changed = changed[:start] + changed[start:].replace(" NOT NULL", "", 1)
    version = db.execute_sql("PRAGMA schema_version").fetchone()[0]
    db.execute_sql("PRAGMA writable_schema = ON")
    db.execute_sql("UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = 'delivery'", (changed,))
    db.execute_sql(f"PRAGMA schema_version = {version + 1}")
    db.execute_sql("PRAGMA writable_schema = OFF")
