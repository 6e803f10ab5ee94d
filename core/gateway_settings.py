"""Settings of the gateway as a whole and of receiving: each with its variable, default and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.setting_values import DEFAULT_DOMAIN, Listen, limit, setting


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """All but those of sending."""

    data: Path = setting("PILLARBOX_DATA", Path("data"), "Folder for the database, messages, keys and logs.")
    http: Listen = setting("PILLARBOX_HTTP", Listen("127.0.0.1", 8080), "Where the API listens, `host:port`.")
    smtp: Listen = setting("PILLARBOX_SMTP", Listen("127.0.0.1", 2525), "Where mail is received, `host:port`.")
    domain: str = setting(
        "PILLARBOX_DOMAIN",
        DEFAULT_DOMAIN,
        "Receiving domain: addresses are `<id>@` this. Its MX is the receiver.",
    )
    hostname: str = setting(
        "PILLARBOX_HOSTNAME",
        "",
        "Name in the SMTP greeting, and the MX that custom domains point to. Default `mx.` and the receiving domain.",
    )
    public_url: str = setting(
        "PILLARBOX_PUBLIC_URL",
        "",
        "URL at which others reach the API. Default `http://` and `PILLARBOX_HTTP`.",
    )
    database_url: str = setting(
        "DATABASE_URL", "", "`postgresql://…` or `sqlite:///path`. Default: SQLite in the data folder."
    )
    redis_url: str = setting(
        "REDIS_URL",
        "",
        "`redis://…`, `rediss://…` or `unix://…`. Default: `pillarbox up` starts a private server.",
    )
    blob_url: str = setting(
        "BLOB_URL",
        "",
        "Where large messages lie: `file:///path`, `s3://bucket/prefix`, `gs://…`, `az://…`. "
        "Default: a folder inside the data folder.",
    )
    allow_private_targets: str = setting(
        "PILLARBOX_ALLOW_PRIVATE_TARGETS",
        "auto",
        "Which non-public networks targets may be in: `auto` (loopback "
        "while HTTP and SMTP listen on loopback and the domain is the default one, else none), `none`, `loopback`, "
        "`all`, or networks such as `10.0.0.0/8,fd00::/8`.",
    )
    mx_check: bool = setting(
        "PILLARBOX_MX_CHECK",
        True,
        "Whether a custom domain's MX must point here before it is created (`on`/`off`).",
    )
    resolver: str = setting(
        "PILLARBOX_RESOLVER",
        "",
        "DNS servers to ask, `ip` or `ip:port`, separated by commas. Default: the system's.",
    )
    receivers: int = setting("PILLARBOX_RECEIVERS", 1, "Receiver processes that `up` starts; they share the port.")
    workers: int = setting("PILLARBOX_WORKERS", 1, "Worker processes that `up` starts.")
    worker_threads: int = setting("PILLARBOX_WORKER_THREADS", 64, "Deliveries in flight at once in each worker.")
    host_concurrency: int = setting(
        "PILLARBOX_HOST_CONCURRENCY", 32, "Deliveries in flight at once to one target host, over all workers."
    )
    web_threads: int = setting("PILLARBOX_WEB_THREADS", 8, "Threads of the web process that `up` starts.")
    target_timeout: int = setting(
        "PILLARBOX_TARGET_TIMEOUT", 20, "Seconds a target has to answer one attempt, redirects included."
    )
    ca_file: str = setting(
        "PILLARBOX_CA_FILE",
        "",
        "PEM certificates that the TLS of targets, mail hosts and policy hosts is checked against. Default: the public "
        "ones.",
    )
    max_message_size: int = setting(
        "PILLARBOX_MAX_MESSAGE_SIZE", 35 * 1024 * 1024, "Bytes of one message; larger ones get 552."
    )
    max_recipients: int = setting("PILLARBOX_MAX_RECIPIENTS", 100, "Recipients of one message; more get 452.")
    max_connections: int = setting("PILLARBOX_MAX_CONNECTIONS", 1000, "SMTP connections of one receiver process.")
    max_connections_per_ip: int = setting(
        "PILLARBOX_MAX_CONNECTIONS_PER_IP", 100, "SMTP connections from one address to one receiver process."
    )
    max_commands: int = setting(
        "PILLARBOX_MAX_COMMANDS", 500, "SMTP commands of one session since its last accepted message."
    )
    max_session_errors: int = setting(
        "PILLARBOX_MAX_SESSION_ERRORS", 20, "Refused commands after which a session is closed with 421."
    )
    max_line_length: int = setting(
        "PILLARBOX_MAX_LINE_LENGTH", 1024 * 1024, "Bytes of one line of a message; longer ones get 554."
    )
    idle_timeout: int = setting(
        "PILLARBOX_IDLE_TIMEOUT",
        300,
        "Seconds a session may be silent between commands (RFC 5321: 5 minutes).",
    )
    data_timeout: int = setting("PILLARBOX_DATA_TIMEOUT", 900, "Seconds one message may take to arrive.")
    authentication: str = setting(
        "PILLARBOX_AUTHENTICATION",
        "auto",
        "Whether SPF, DKIM, DMARC and ARC are checked: `on`, `off`, or `auto` (off while HTTP and SMTP listen on "
        "loopback and the domain is the default one, else on).",
    )
    authentication_timeout: int = setting(
        "PILLARBOX_AUTHENTICATION_TIMEOUT", 10, "Seconds the DNS has for all checks of one message; then `temperror`."
    )
    trusted_forwarders: str = setting(
        "PILLARBOX_TRUSTED_FORWARDERS",
        "",
        "Networks of hosts that forward your mail here (a backup MX, a list server): SPF is judged at the host "
        "that handed the mail to them.",
    )
    trusted_sealers: str = setting(
        "PILLARBOX_TRUSTED_SEALERS",
        "",
        "Domains whose ARC seals are believed, separated by commas.",
    )
    spamd: str = setting("PILLARBOX_SPAMD", "", "SpamAssassin's spamd, `host:port` or the path of its socket.")
    rspamd: str = setting("PILLARBOX_RSPAMD", "", "rspamd's worker, `http://host:11333`. Takes precedence over spamd.")
    clamd: str = setting("PILLARBOX_CLAMD", "", "ClamAV's clamd, `host:port` or the path of its socket.")
    scan_timeout: int = setting("PILLARBOX_SCAN_TIMEOUT", 15, "Seconds all scanners have for one message.")
    inspection_threads: int = setting(
        "PILLARBOX_INSPECTION_THREADS", 16, "Messages that one receiver checks at once while their senders wait."
    )
    inline_threads: int = setting(
        "PILLARBOX_INLINE_THREADS", 64, "Inline POSTs that one receiver makes at once; mail beyond gets 450."
    )
    proxy_networks: str = setting(
        "PILLARBOX_PROXY_NETWORKS",
        "",
        "Networks of load balancers, which must begin each SMTP connection with a PROXY header (version 1 or 2), "
        "and of proxies in front of the web process, whose X-Forwarded-For is believed.",
    )
    greeting_delay_ms: int = limit(
        "PILLARBOX_GREETING_DELAY_MS",
        0,
        "Milliseconds before the greeting; a client that talks before it is refused. 0 greets at once.",
    )
    tarpit_ms: int = limit(
        "PILLARBOX_TARPIT_MS",
        250,
        "Milliseconds by which each refusal of a session is held back longer than the one before, up to ten seconds; "
        "0 for none.",
    )
    rate_per_ip: int = limit(
        "PILLARBOX_RATE_PER_IP", 0, "Messages a minute from one address (or IPv6 /64), per receiver; 0 for no limit."
    )
    rate_per_domain: int = limit(
        "PILLARBOX_RATE_PER_DOMAIN", 0, "Messages a minute from one sender domain, per receiver; 0 for no limit."
    )
    max_hops: int = setting(
        "PILLARBOX_MAX_HOPS", 50, "Received headers of a message; one with more is taken for a loop and gets 554."
    )
    postmaster: str = setting(
        "PILLARBOX_POSTMASTER",
        "",
        "The mailbox of an address here that gets mail for `postmaster` at the receiving domain, which RFC 5321 asks "
        "every domain to take. Default: it is refused.",
    )
    smart_host: str = setting(
        "PILLARBOX_SMART_HOST",
        "",
        "Relay for the mail we send: `host:port`, or `smtp://user:password@host:port`, or `smtps://…`. Default: the "
        "MX of each recipient.",
    )
    dnssec: str = setting(
        "PILLARBOX_DNSSEC",
        "auto",
        "Whether the resolver's word on DNSSEC is believed, for DANE: `auto` (if every resolver is on this machine), "
        "`on` or `off`.",
    )
    mta_sts: str = setting(
        "PILLARBOX_MTA_STS",
        "testing",
        "Mode of the MTA-STS policy served for custom domains: `enforce`, `testing` or `none`.",
    )
    tls_rpt: str = setting(
        "PILLARBOX_TLS_RPT",
        "",
        "Mail address or URL for TLS reports, shown with each custom domain as the record to publish.",
    )
    stored_url_hours: int = setting(
        "PILLARBOX_STORED_URL_HOURS", 168, "Hours for which URLs of the built-in store are good, at most 8760."
    )
    keep_raw_days: int = limit(
        "PILLARBOX_KEEP_RAW_DAYS", 30, "Days raw messages are kept after their last delivery ended; 0 for ever."
    )
    keep_parsed_days: int = limit(
        "PILLARBOX_KEEP_PARSED_DAYS",
        30,
        "Days what was read from messages is kept: searchable text, verdicts, files in the built-in store; 0 for ever.",
    )
    keep_attempts_days: int = limit(
        "PILLARBOX_KEEP_ATTEMPTS_DAYS", 90, "Days attempts and their answers are kept; 0 for ever."
    )
    keep_statuses_days: int = limit(
        "PILLARBOX_KEEP_STATUSES_DAYS", 90, "Days statuses, with all that belongs to them, are kept; 0 for ever."
    )
    tls_cert: str = setting(
        "PILLARBOX_TLS_CERT",
        "",
        "PEM certificate chain for STARTTLS. Default: a self-signed one in the data folder.",
    )
    tls_key: str = setting("PILLARBOX_TLS_KEY", "", "PEM private key that belongs to the certificate.")
    log_level: str = setting("PILLARBOX_LOG_LEVEL", "info", "`debug`, `info`, `warning` or `error`.")
