"""The first schema: written out, so that later changes of the models cannot alter what this step meant."""

from peewee import Database
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    """CREATE TABLE account (
        id VARCHAR(16) PRIMARY KEY, name TEXT NOT NULL, created_ms BIGINT NOT NULL)""",
    """CREATE TABLE credential (
        id {auto_id}, account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        kind VARCHAR(16) NOT NULL, username VARCHAR(64) NOT NULL UNIQUE, secret_sha256 VARCHAR(64) NOT NULL,
        created_ms BIGINT NOT NULL)""",
    "CREATE INDEX credential_secret ON credential (secret_sha256)",
    "CREATE INDEX credential_account ON credential (account_id)",
    """CREATE TABLE address (
        id VARCHAR(20) PRIMARY KEY, account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        target TEXT NOT NULL, target_format VARCHAR(16) NOT NULL, nickname TEXT, attachments TEXT NOT NULL,
        secret TEXT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL, deleted_ms BIGINT)""",
    "CREATE INDEX address_account ON address (account_id)",
    """CREATE TABLE custom_domain (
        id VARCHAR(16) PRIMARY KEY, address_id VARCHAR(20) NOT NULL REFERENCES address(id) ON DELETE CASCADE,
        domain VARCHAR(255) NOT NULL, auth_regex TEXT, domain_target TEXT, created_ms BIGINT NOT NULL,
        deleted_ms BIGINT)""",
    "CREATE UNIQUE INDEX custom_domain_live ON custom_domain (domain) WHERE deleted_ms IS NULL",
    "CREATE INDEX custom_domain_address ON custom_domain (address_id)",
    """CREATE TABLE message (
        id VARCHAR(36) PRIMARY KEY, mail_from TEXT NOT NULL, helo TEXT NOT NULL, remote_ip TEXT NOT NULL,
        tls_version TEXT, tls_cipher TEXT, size BIGINT NOT NULL, md5 VARCHAR(32) NOT NULL, subject TEXT,
        header_from TEXT, header_message_id TEXT, body_text TEXT, received_ms BIGINT NOT NULL)""",
    """CREATE TABLE raw_message (
        message_id VARCHAR(36) PRIMARY KEY REFERENCES message(id) ON DELETE CASCADE, body {blob}, blob_key TEXT)""",
    """CREATE TABLE delivery (
        id VARCHAR(36) PRIMARY KEY, kind VARCHAR(16) NOT NULL,
        account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        message_id VARCHAR(36) NOT NULL REFERENCES message(id) ON DELETE CASCADE,
        address_id VARCHAR(20) NOT NULL REFERENCES address(id) ON DELETE CASCADE,
        custom_domain_id VARCHAR(16) REFERENCES custom_domain(id) ON DELETE SET NULL,
        recipients TEXT NOT NULL, target_host TEXT NOT NULL, state VARCHAR(16) NOT NULL,
        attempts INTEGER NOT NULL, cycle_attempts INTEGER NOT NULL, cycle_started_ms BIGINT NOT NULL,
        due_ms BIGINT NOT NULL, lease_token VARCHAR(36), last_status INTEGER, last_error TEXT,
        created_ms BIGINT NOT NULL, finished_ms BIGINT)""",
    "CREATE INDEX delivery_due ON delivery (kind, due_ms) WHERE state = 'pending'",
    "CREATE INDEX delivery_due_by_host ON delivery (kind, target_host, due_ms) WHERE state = 'pending'",
    "CREATE INDEX delivery_leased ON delivery (kind, target_host) WHERE lease_token IS NOT NULL",
    "CREATE INDEX delivery_account ON delivery (account_id, id)",
    "CREATE INDEX delivery_address ON delivery (address_id, id)",
    "CREATE INDEX delivery_message ON delivery (message_id)",
    """CREATE TABLE attempt (
        id {auto_id}, delivery_id VARCHAR(36) NOT NULL REFERENCES delivery(id) ON DELETE CASCADE,
        number INTEGER NOT NULL, started_ms BIGINT NOT NULL, duration_ms INTEGER NOT NULL, status INTEGER NOT NULL,
        error TEXT, response TEXT)""",
    "CREATE INDEX attempt_delivery ON attempt (delivery_id)",
    """CREATE TABLE target_health (
        target_host TEXT PRIMARY KEY, failures INTEGER NOT NULL, open_until_ms BIGINT NOT NULL,
        is_slow BOOLEAN NOT NULL)""",
)


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Create every table and index."""
    is_postgres = type(db).__name__.startswith("Postgres")
    types = {
        "auto_id": "BIGSERIAL PRIMARY KEY" if is_postgres else "INTEGER PRIMARY KEY AUTOINCREMENT",
        "blob": "BYTEA" if is_postgres else "BLOB",
    }
    for statement in STATEMENTS:
        db.execute_sql(statement.format(**types))
