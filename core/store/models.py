"""The tables, as peewee models. Times are milliseconds since the epoch (`core.clock`).

What is read and written for every message goes by hand-written statements (in `core.services`); these serve the
rest, and say what the columns mean.
"""

from __future__ import annotations

import peewee

database_proxy = peewee.DatabaseProxy()


class _Table(peewee.Model):
    class Meta:
        """Shared by all tables."""

        database = database_proxy
        legacy_table_names = False


class Account(_Table):
    """A customer: owns addresses, domains and credentials."""

    id = peewee.CharField(max_length=16, primary_key=True)
    name = peewee.TextField(default="")
    created_ms = peewee.BigIntegerField()


class Credential(_Table):
    """A key of an account, kept as its SHA-256."""

    account = peewee.ForeignKeyField(Account, backref="credentials", on_delete="CASCADE")
    kind = peewee.CharField(max_length=16)  # core.services.accounts.CredentialKind
    username = peewee.CharField(max_length=64, unique=True)
    secret_sha256 = peewee.CharField(max_length=64, index=True)
    created_ms = peewee.BigIntegerField()


class Address(_Table):
    """Where mail arrives and the URL it is POSTed to."""

    id = peewee.CharField(max_length=20, primary_key=True)
    account = peewee.ForeignKeyField(Account, backref="addresses", on_delete="CASCADE")
    target = peewee.TextField()
    target_format = peewee.CharField(max_length=16)  # core.formats.TargetFormat
    nickname = peewee.TextField(null=True)
    settings = peewee.TextField(default="{}")  # core.address_settings.AddressSettings, as JSON
    secret = peewee.TextField()  # Standard Webhooks
    previous_secret = peewee.TextField(null=True)  # signs as well, for a while after a rotation
    previous_secret_until_ms = peewee.BigIntegerField(null=True)
    created_ms = peewee.BigIntegerField()
    updated_ms = peewee.BigIntegerField()
    deleted_ms = peewee.BigIntegerField(null=True)  # no new mail; what was accepted is still delivered


class CustomDomain(_Table):
    """A domain whose mail all goes to one address."""

    id = peewee.CharField(max_length=16, primary_key=True)
    address = peewee.ForeignKeyField(Address, backref="custom_domains", on_delete="CASCADE")
    domain = peewee.CharField(max_length=255)  # unique while live; lower-case A-labels, perhaps with `*.` before
    auth_regex = peewee.TextField(null=True)
    domain_target = peewee.TextField(null=True)
    created_ms = peewee.BigIntegerField()
    deleted_ms = peewee.BigIntegerField(null=True)


class Message(_Table):
    """One accepted transaction: envelope, and what its headers say for the lists."""

    id = peewee.CharField(max_length=36, primary_key=True)
    mail_from = peewee.TextField()
    helo = peewee.TextField()
    remote_ip = peewee.TextField()
    tls_version = peewee.TextField(null=True)
    tls_cipher = peewee.TextField(null=True)
    size = peewee.BigIntegerField()
    md5 = peewee.CharField(max_length=32)
    subject = peewee.TextField(null=True)
    header_from = peewee.TextField(null=True)
    header_message_id = peewee.TextField(null=True)
    body_text = peewee.TextField(null=True)  # the beginning of the text, once parsed, to search in
    verdicts = peewee.TextField(null=True)  # core.verdicts.Verdicts, as JSON, once the checks were made
    received_ms = peewee.BigIntegerField()


class RawMessage(_Table):
    """The bytes of a message: in the row when small, else in the blob store under `blob_key`."""

    message = peewee.ForeignKeyField(Message, primary_key=True, on_delete="CASCADE")
    body = peewee.BlobField(null=True)
    blob_key = peewee.TextField(null=True)


class Delivery(_Table):
    """One thing to be delivered to one place; the state machine's row (`core.delivery`)."""

    id = peewee.CharField(max_length=36, primary_key=True)  # time-ordered: also the cursor, and `webhook-id`
    kind = peewee.CharField(max_length=16)
    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    message = peewee.ForeignKeyField(Message, on_delete="CASCADE")
    address = peewee.ForeignKeyField(Address, on_delete="CASCADE")
    custom_domain = peewee.ForeignKeyField(CustomDomain, null=True, on_delete="SET NULL")
    recipients = peewee.TextField()  # JSON list
    target_host = peewee.TextField()  # core.netguard.target_host of the target: fairness counts by it
    state = peewee.CharField(max_length=16)
    attempts = peewee.IntegerField(default=0)
    cycle_attempts = peewee.IntegerField(default=0)  # since accepted or last replayed
    cycle_started_ms = peewee.BigIntegerField()
    due_ms = peewee.BigIntegerField()  # while it is being worked on: the end of the lease
    lease_token = peewee.CharField(max_length=36, null=True)
    last_status = peewee.IntegerField(null=True)
    last_error = peewee.TextField(null=True)
    judgement = peewee.TextField(null=True)  # core.rules.Judgement, as JSON, once the rules were asked
    is_released = peewee.BooleanField(default=False)  # from quarantine, by a person: rules do not hold it again
    fingerprint = peewee.CharField(max_length=64, null=True)  # of envelope and bytes, where duplicates are recognised
    detail = peewee.TextField(null=True)  # what a delivery that is no mail carries, as JSON
    created_ms = peewee.BigIntegerField()
    finished_ms = peewee.BigIntegerField(null=True)


class Attempt(_Table):
    """One try at a delivery; never changed."""

    delivery = peewee.ForeignKeyField(Delivery, backref="attempt_log", on_delete="CASCADE")
    number = peewee.IntegerField()
    started_ms = peewee.BigIntegerField()
    duration_ms = peewee.IntegerField()
    status = peewee.IntegerField()
    error = peewee.TextField(null=True)
    response = peewee.TextField(null=True)


class TargetHealth(_Table):
    """A target host that fails or dawdles; healthy ones have no row."""

    target_host = peewee.TextField(primary_key=True)
    failures = peewee.IntegerField()  # consecutive
    open_until_ms = peewee.BigIntegerField()  # the breaker: nothing is claimed before
    is_slow = peewee.BooleanField()


class Rule(_Table):
    """A rule of an account, or of one of its addresses (`core.rules`)."""

    id = peewee.CharField(max_length=16, primary_key=True)
    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    address = peewee.ForeignKeyField(Address, null=True, on_delete="CASCADE")  # None: for all of the account's
    position = peewee.IntegerField()  # the lowest is asked first
    action = peewee.CharField(max_length=16)
    conditions = peewee.TextField()  # JSON
    note = peewee.TextField(null=True)
    created_ms = peewee.BigIntegerField()
    updated_ms = peewee.BigIntegerField()


class Secret(_Table):
    """A secret that all processes of the gateway share, made when it is first needed."""

    name = peewee.CharField(max_length=40, primary_key=True)
    value = peewee.TextField()


MODELS = (
    *(Account, Credential, Address, CustomDomain, Message, RawMessage, Delivery, Attempt, TargetHealth, Rule),
    Secret,
)
