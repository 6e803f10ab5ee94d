"""Settings of an address, verdicts, rules, quarantine, inline mode, callbacks."""

from peewee import Database
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    "ALTER TABLE address ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'",
    "ALTER TABLE address DROP COLUMN attachments",
    "ALTER TABLE address ADD COLUMN previous_secret TEXT",
    "ALTER TABLE address ADD COLUMN previous_secret_until_ms BIGINT",
    "ALTER TABLE message ADD COLUMN verdicts TEXT",
    "ALTER TABLE delivery ADD COLUMN judgement TEXT",
    "ALTER TABLE delivery ADD COLUMN is_released BOOLEAN NOT NULL DEFAULT FALSE",
    "ALTER TABLE delivery ADD COLUMN fingerprint VARCHAR(64)",
    "ALTER TABLE delivery ADD COLUMN detail TEXT",
    "CREATE INDEX delivery_fingerprint ON delivery (fingerprint, id) WHERE fingerprint IS NOT NULL",
    """CREATE TABLE rule (
        id VARCHAR(16) PRIMARY KEY, account_id VARCHAR(16) NOT NULL REFERENCES account(id) ON DELETE CASCADE,
        address_id VARCHAR(20) REFERENCES address(id) ON DELETE CASCADE, position INTEGER NOT NULL,
        action VARCHAR(16) NOT NULL, conditions TEXT NOT NULL, note TEXT, created_ms BIGINT NOT NULL,
        updated_ms BIGINT NOT NULL)""",
    "CREATE INDEX rule_account ON rule (account_id, position, id)",
    "CREATE TABLE secret (name VARCHAR(40) PRIMARY KEY, value TEXT NOT NULL)",
)


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add what the checks, the modes and the rules need."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
