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
    settings = peewee.TextField(default="{}")  # core.sending.send_settings.SendSettings, as JSON
    paused_ms = peewee.BigIntegerField(null=True)  # since when its mail is held
    paused_because = peewee.TextField(null=True)


class SendingDomain(_Table):
    """A domain that an account sends from; what is verified is what the DNS said last."""

    id = peewee.CharField(max_length=16, primary_key=True)
    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    domain = peewee.CharField(max_length=255)  # lower-case A-labels; once per account while live
    dkim_verified = peewee.BooleanField(default=False)
    return_path_verified = peewee.BooleanField(default=False)
    spf_verified = peewee.BooleanField(default=False)
    dmarc_verified = peewee.BooleanField(default=False)
    tracking_verified = peewee.BooleanField(default=False)
    signing_domain = peewee.CharField(max_length=255, null=True)  # `d=`: itself or its parent
    report = peewee.TextField(null=True)  # the checks in detail, as JSON
    checked_ms = peewee.BigIntegerField(null=True)
    next_check_ms = peewee.BigIntegerField()
    settings = peewee.TextField(default="{}")  # core.sending.send_settings.SendSettings, as JSON
    paused_ms = peewee.BigIntegerField(null=True)
    paused_because = peewee.TextField(null=True)
    created_ms = peewee.BigIntegerField()
    deleted_ms = peewee.BigIntegerField(null=True)


class DomainKey(_Table):
    """A signing key of a domain (`core.sending.key_rotation`)."""

    sending_domain = peewee.ForeignKeyField(SendingDomain, on_delete="CASCADE")
    selector = peewee.CharField(max_length=63)
    algorithm = peewee.CharField(max_length=16)
    state = peewee.CharField(max_length=16)
    since_ms = peewee.BigIntegerField()
    private_pem = peewee.TextField()  # empty once the key is retired
    public_record = peewee.TextField()

    class Meta:
        """One key a selector."""

        primary_key = peewee.CompositeKey("sending_domain", "selector")


class Credential(_Table):
    """A key of an account, kept as its SHA-256."""

    account = peewee.ForeignKeyField(Account, backref="credentials", on_delete="CASCADE")
    kind = peewee.CharField(max_length=16)  # core.services.accounts.CredentialKind
    username = peewee.CharField(max_length=64, unique=True)
    secret_sha256 = peewee.CharField(max_length=64, index=True)
    created_ms = peewee.BigIntegerField()
    name = peewee.TextField(default="")
    scopes = peewee.TextField(default="[]")  # JSON list; empty for all that its kind may do
    sending_domain = peewee.ForeignKeyField(SendingDomain, null=True, on_delete="CASCADE")  # may send from it only
    is_active = peewee.BooleanField(default=True)
    last_used_ms = peewee.BigIntegerField(null=True)


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


class SentMessage(_Table):
    """What is known of a message that a customer sends, beside its row in `message`."""

    message = peewee.ForeignKeyField(Message, primary_key=True, on_delete="CASCADE")
    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    username = peewee.CharField(max_length=64)  # of the credential it came with
    sending_domain = peewee.ForeignKeyField(SendingDomain, null=True, on_delete="SET NULL")
    header_to = peewee.TextField()  # JSON list
    header_cc = peewee.TextField()  # JSON list
    tags = peewee.TextField()  # JSON list
    metadata = peewee.TextField()  # JSON object of texts
    stream = peewee.CharField(max_length=64)
    priority = peewee.CharField(max_length=16)  # core.sending.priority.Priority
    is_test = peewee.BooleanField()
    needs_smtputf8 = peewee.BooleanField()
    send_at_ms = peewee.BigIntegerField(null=True)
    options = peewee.TextField()  # core.sending.send_settings.SendOptions, as JSON


class Webhook(_Table):
    """Where events are POSTed."""

    id = peewee.CharField(max_length=16, primary_key=True)
    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    url = peewee.TextField()
    kinds = peewee.TextField()  # JSON list of core.sending.events.EventKind; empty for all
    tags = peewee.TextField()  # JSON list; empty for all
    domains = peewee.TextField()  # JSON list of sending domains' ids; empty for all
    note = peewee.TextField(null=True)
    secret = peewee.TextField()  # Standard Webhooks
    previous_secret = peewee.TextField(null=True)
    previous_secret_until_ms = peewee.BigIntegerField(null=True)
    is_active = peewee.BooleanField()
    disabled_because = peewee.TextField(null=True)
    created_ms = peewee.BigIntegerField()
    updated_ms = peewee.BigIntegerField()
    deleted_ms = peewee.BigIntegerField(null=True)


class Delivery(_Table):
    """One thing to be delivered to one place; the state machine's row (`core.delivery`)."""

    id = peewee.CharField(max_length=36, primary_key=True)  # time-ordered: also the cursor, and `webhook-id`
    kind = peewee.CharField(max_length=16)
    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    message = peewee.ForeignKeyField(Message, null=True, on_delete="CASCADE")  # None for a batch of events
    address = peewee.ForeignKeyField(Address, null=True, on_delete="CASCADE")  # None for what is sent
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
    webhook = peewee.ForeignKeyField(Webhook, null=True, on_delete="CASCADE")
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


class Event(_Table):
    """One step of a sent message for one recipient; never changed."""

    id = peewee.CharField(max_length=36, primary_key=True)  # time-ordered
    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    sending_domain_id = peewee.CharField(max_length=16, null=True)
    message = peewee.ForeignKeyField(Message, on_delete="CASCADE")
    delivery_id = peewee.CharField(max_length=36, null=True)
    kind = peewee.CharField(max_length=24)  # core.sending.events.EventKind
    recipient = peewee.TextField()
    at_ms = peewee.BigIntegerField()
    details = peewee.TextField()  # core.sending.events.EventDetails, as JSON


class Suppression(_Table):
    """An address that an account (or one of its domains) sends nothing to."""

    id = peewee.CharField(max_length=36, primary_key=True)  # time-ordered
    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    sending_domain = peewee.ForeignKeyField(SendingDomain, null=True, on_delete="CASCADE")  # None: all of the account
    address = peewee.TextField()  # lower case, domain as A-labels
    reason = peewee.CharField(max_length=24)  # core.sending.suppression.SuppressionReason
    detail = peewee.TextField(null=True)
    message_id = peewee.CharField(max_length=36, null=True)  # that brought it about
    created_ms = peewee.BigIntegerField()


class SoftBounce(_Table):
    """How often in a row mail to an address has ended without arriving."""

    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    address = peewee.TextField()
    count = peewee.IntegerField()  # negative: one mail was taken since, which a notice may take back
    first_ms = peewee.BigIntegerField()
    last_ms = peewee.BigIntegerField()

    class Meta:
        """One row an address."""

        primary_key = peewee.CompositeKey("account", "address")


class Layout(_Table):
    """A named HTML frame for messages."""

    id = peewee.CharField(max_length=16, primary_key=True)
    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    name = peewee.CharField(max_length=100)
    html = peewee.TextField()
    created_ms = peewee.BigIntegerField()
    updated_ms = peewee.BigIntegerField()


class Idempotency(_Table):
    """An answer to be given again to whoever asks again with the same key."""

    username = peewee.CharField(max_length=64)
    key = peewee.CharField(max_length=255)
    request_sha256 = peewee.CharField(max_length=64)
    message_id = peewee.CharField(max_length=36)
    response = peewee.TextField()  # JSON
    created_ms = peewee.BigIntegerField()

    class Meta:
        """One answer a key."""

        primary_key = peewee.CompositeKey("username", "key")


class SendRate(_Table):
    """When the next mail of an account or domain may go (`core.sending.pacing`)."""

    scope = peewee.CharField(max_length=64, primary_key=True)
    next_ms = peewee.BigIntegerField()


class SendTally(_Table):
    """How many events of a kind an hour has had: for health and limits."""

    account = peewee.ForeignKeyField(Account, on_delete="CASCADE")
    sending_domain_id = peewee.CharField(max_length=16)  # empty for none
    hour_ms = peewee.BigIntegerField()  # its beginning
    kind = peewee.CharField(max_length=24)
    count = peewee.BigIntegerField()

    class Meta:
        """One row an hour and kind."""

        primary_key = peewee.CompositeKey("account", "sending_domain_id", "hour_ms", "kind")


class TrackingHit(_Table):
    """One request for a pixel or a tracked link, by a person or a machine."""

    delivery = peewee.ForeignKeyField(Delivery, on_delete="CASCADE")
    link = peewee.IntegerField(null=True)  # None for the pixel
    url = peewee.TextField(null=True)
    at_ms = peewee.BigIntegerField()
    method = peewee.CharField(max_length=8)
    address = peewee.TextField()
    user_agent = peewee.TextField()
    headers = peewee.TextField()  # JSON: what else the judgement needs
    kind = peewee.CharField(max_length=16)  # core.sending.tracking_hits.HitKind
    reason = peewee.TextField()


class Secret(_Table):
    """A secret that all processes of the gateway share, made when it is first needed."""

    name = peewee.CharField(max_length=40, primary_key=True)
    value = peewee.TextField()


MODELS = (
    *(Account, SendingDomain, DomainKey, Credential, Address, CustomDomain, Message, RawMessage, SentMessage, Webhook),
    *(Delivery, Attempt, TargetHealth, Rule, Event, Suppression, SoftBounce, Layout, Idempotency, SendRate, SendTally),
    *(TrackingHit, Secret),
)
