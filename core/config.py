"""Every setting: one frozen record, read from the environment; each field carries its variable, default and doc.

`pillarbox config` prints this list, and `docs/settings.md` is generated from it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from core.addresses import normalise_domain, parse_mailbox
from core.errors import ConfigurationError
from core.netguard import LOOPBACK, IPNetwork, TargetPolicy, parse_networks
from core.setting_values import ZERO_KEY, Listen, read_listen, read_switch, read_value

ENV_KEY = "env"
DOC_KEY = "doc"
DEFAULT_DOMAIN = "pillarbox.test"
AUTO = "auto"
DNSSEC_CHOICES = (AUTO, "on", "off")
MTA_STS_MODES = ("enforce", "testing", "none")
EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


_NAMED_OR = "`auto`, `none`, `loopback`, `all`, or networks"


def _setting(env: str, default: Any, doc: str) -> Any:
    return field(default=default, metadata={ENV_KEY: env, DOC_KEY: doc})


def _limit(env: str, default: int, doc: str) -> Any:
    """A number for which 0 means "no limit" or "off"."""
    return field(default=default, metadata={ENV_KEY: env, DOC_KEY: doc, ZERO_KEY: True})


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration of one process."""

    data: Path = _setting("PILLARBOX_DATA", Path("data"), "Folder for the database, messages, keys and logs.")
    http: Listen = _setting("PILLARBOX_HTTP", Listen("127.0.0.1", 8080), "Where the API listens, `host:port`.")
    smtp: Listen = _setting("PILLARBOX_SMTP", Listen("127.0.0.1", 2525), "Where mail is received, `host:port`.")
    domain: str = _setting(
        "PILLARBOX_DOMAIN",
        DEFAULT_DOMAIN,
        "Receiving domain: addresses are `<id>@` this. Its MX is the receiver.",
    )
    hostname: str = _setting(
        "PILLARBOX_HOSTNAME",
        "",
        "Name in the SMTP greeting, and the MX that custom domains point to. Default `mx.` and the receiving domain.",
    )
    public_url: str = _setting(
        "PILLARBOX_PUBLIC_URL",
        "",
        "URL at which others reach the API. Default `http://` and `PILLARBOX_HTTP`.",
    )
    database_url: str = _setting(
        "DATABASE_URL", "", "`postgresql://…` or `sqlite:///path`. Default: SQLite in the data folder."
    )
    redis_url: str = _setting(
        "REDIS_URL",
        "",
        "`redis://…`, `rediss://…` or `unix://…`. Default: `pillarbox up` starts a private server.",
    )
    blob_url: str = _setting(
        "BLOB_URL",
        "",
        "Where large messages lie: `file:///path`, `s3://bucket/prefix`, `gs://…`, `az://…`. "
        "Default: a folder inside the data folder.",
    )
    allow_private_targets: str = _setting(
        "PILLARBOX_ALLOW_PRIVATE_TARGETS",
        "auto",
        "Which non-public networks targets may be in: `auto` (loopback "
        "while HTTP and SMTP listen on loopback and the domain is the default one, else none), `none`, `loopback`, "
        "`all`, or networks such as `10.0.0.0/8,fd00::/8`.",
    )
    mx_check: bool = _setting(
        "PILLARBOX_MX_CHECK",
        True,
        "Whether a custom domain's MX must point here before it is created (`on`/`off`).",
    )
    resolver: str = _setting(
        "PILLARBOX_RESOLVER",
        "",
        "DNS servers to ask, `ip` or `ip:port`, separated by commas. Default: the system's.",
    )
    receivers: int = _setting("PILLARBOX_RECEIVERS", 1, "Receiver processes that `up` starts; they share the port.")
    workers: int = _setting("PILLARBOX_WORKERS", 1, "Worker processes that `up` starts.")
    worker_threads: int = _setting("PILLARBOX_WORKER_THREADS", 64, "Deliveries in flight at once in each worker.")
    host_concurrency: int = _setting(
        "PILLARBOX_HOST_CONCURRENCY", 32, "Deliveries in flight at once to one target host, over all workers."
    )
    web_threads: int = _setting("PILLARBOX_WEB_THREADS", 8, "Threads of the web process that `up` starts.")
    target_timeout: int = _setting(
        "PILLARBOX_TARGET_TIMEOUT", 20, "Seconds a target has to answer one attempt, redirects included."
    )
    ca_file: str = _setting(
        "PILLARBOX_CA_FILE",
        "",
        "PEM certificates that the TLS of targets, mail hosts and policy hosts is checked against. Default: the public "
        "ones.",
    )
    max_message_size: int = _setting(
        "PILLARBOX_MAX_MESSAGE_SIZE", 35 * 1024 * 1024, "Bytes of one message; larger ones get 552."
    )
    max_recipients: int = _setting("PILLARBOX_MAX_RECIPIENTS", 100, "Recipients of one message; more get 452.")
    max_connections: int = _setting("PILLARBOX_MAX_CONNECTIONS", 1000, "SMTP connections of one receiver process.")
    max_connections_per_ip: int = _setting(
        "PILLARBOX_MAX_CONNECTIONS_PER_IP", 100, "SMTP connections from one address to one receiver process."
    )
    max_commands: int = _setting(
        "PILLARBOX_MAX_COMMANDS", 500, "SMTP commands of one session since its last accepted message."
    )
    max_session_errors: int = _setting(
        "PILLARBOX_MAX_SESSION_ERRORS", 20, "Refused commands after which a session is closed with 421."
    )
    max_line_length: int = _setting(
        "PILLARBOX_MAX_LINE_LENGTH", 1024 * 1024, "Bytes of one line of a message; longer ones get 554."
    )
    idle_timeout: int = _setting(
        "PILLARBOX_IDLE_TIMEOUT",
        300,
        "Seconds a session may be silent between commands (RFC 5321: 5 minutes).",
    )
    data_timeout: int = _setting("PILLARBOX_DATA_TIMEOUT", 900, "Seconds one message may take to arrive.")
    authentication: str = _setting(
        "PILLARBOX_AUTHENTICATION",
        "auto",
        "Whether SPF, DKIM, DMARC and ARC are checked: `on`, `off`, or `auto` (off while HTTP and SMTP listen on "
        "loopback and the domain is the default one, else on).",
    )
    authentication_timeout: int = _setting(
        "PILLARBOX_AUTHENTICATION_TIMEOUT", 10, "Seconds the DNS has for all checks of one message; then `temperror`."
    )
    trusted_forwarders: str = _setting(
        "PILLARBOX_TRUSTED_FORWARDERS",
        "",
        "Networks of hosts that forward your mail here (a backup MX, a list server): SPF is judged at the host "
        "that handed the mail to them.",
    )
    trusted_sealers: str = _setting(
        "PILLARBOX_TRUSTED_SEALERS",
        "",
        "Domains whose ARC seals are believed, separated by commas.",
    )
    spamd: str = _setting("PILLARBOX_SPAMD", "", "SpamAssassin's spamd, `host:port` or the path of its socket.")
    rspamd: str = _setting("PILLARBOX_RSPAMD", "", "rspamd's worker, `http://host:11333`. Takes precedence over spamd.")
    clamd: str = _setting("PILLARBOX_CLAMD", "", "ClamAV's clamd, `host:port` or the path of its socket.")
    scan_timeout: int = _setting("PILLARBOX_SCAN_TIMEOUT", 15, "Seconds all scanners have for one message.")
    inspection_threads: int = _setting(
        "PILLARBOX_INSPECTION_THREADS", 16, "Messages that one receiver checks at once while their senders wait."
    )
    inline_threads: int = _setting(
        "PILLARBOX_INLINE_THREADS", 64, "Inline POSTs that one receiver makes at once; mail beyond gets 450."
    )
    proxy_networks: str = _setting(
        "PILLARBOX_PROXY_NETWORKS",
        "",
        "Networks of load balancers, which must begin each SMTP connection with a PROXY header (version 1 or 2).",
    )
    greeting_delay_ms: int = _limit(
        "PILLARBOX_GREETING_DELAY_MS",
        0,
        "Milliseconds before the greeting; a client that talks before it is refused. 0 greets at once.",
    )
    tarpit_ms: int = _limit(
        "PILLARBOX_TARPIT_MS",
        250,
        "Milliseconds by which each refusal of a session is held back longer than the one before, up to ten seconds; "
        "0 for none.",
    )
    rate_per_ip: int = _limit(
        "PILLARBOX_RATE_PER_IP", 0, "Messages a minute from one address (or IPv6 /64), per receiver; 0 for no limit."
    )
    rate_per_domain: int = _limit(
        "PILLARBOX_RATE_PER_DOMAIN", 0, "Messages a minute from one sender domain, per receiver; 0 for no limit."
    )
    max_hops: int = _setting(
        "PILLARBOX_MAX_HOPS", 50, "Received headers of a message; one with more is taken for a loop and gets 554."
    )
    postmaster: str = _setting(
        "PILLARBOX_POSTMASTER",
        "",
        "The mailbox of an address here that gets mail for `postmaster` at the receiving domain, which RFC 5321 asks "
        "every domain to take. Default: it is refused.",
    )
    smart_host: str = _setting(
        "PILLARBOX_SMART_HOST",
        "",
        "Relay for the mail we send, `host:port`. Default: the MX of each recipient.",
    )
    dnssec: str = _setting(
        "PILLARBOX_DNSSEC",
        "auto",
        "Whether the resolver's word on DNSSEC is believed, for DANE: `auto` (if every resolver is on this machine), "
        "`on` or `off`.",
    )
    mta_sts: str = _setting(
        "PILLARBOX_MTA_STS",
        "testing",
        "Mode of the MTA-STS policy served for custom domains: `enforce`, `testing` or `none`.",
    )
    tls_rpt: str = _setting(
        "PILLARBOX_TLS_RPT",
        "",
        "Mail address or URL for TLS reports, shown with each custom domain as the record to publish.",
    )
    stored_url_hours: int = _setting(
        "PILLARBOX_STORED_URL_HOURS", 168, "Hours for which URLs of the built-in store are good, at most 8760."
    )
    keep_raw_days: int = _limit(
        "PILLARBOX_KEEP_RAW_DAYS", 30, "Days raw messages are kept after their last delivery ended; 0 for ever."
    )
    keep_parsed_days: int = _limit(
        "PILLARBOX_KEEP_PARSED_DAYS",
        30,
        "Days what was read from messages is kept: searchable text, verdicts, files in the built-in store; 0 for ever.",
    )
    keep_attempts_days: int = _limit(
        "PILLARBOX_KEEP_ATTEMPTS_DAYS", 90, "Days attempts and their answers are kept; 0 for ever."
    )
    keep_statuses_days: int = _limit(
        "PILLARBOX_KEEP_STATUSES_DAYS", 90, "Days statuses, with all that belongs to them, are kept; 0 for ever."
    )
    tls_cert: str = _setting(
        "PILLARBOX_TLS_CERT",
        "",
        "PEM certificate chain for STARTTLS. Default: a self-signed one in the data folder.",
    )
    tls_key: str = _setting("PILLARBOX_TLS_KEY", "", "PEM private key that belongs to the certificate.")
    log_level: str = _setting("PILLARBOX_LOG_LEVEL", "info", "`debug`, `info`, `warning` or `error`.")

    @property
    def mx_hostname(self) -> str:
        """The name the receiver goes by."""
        return self.hostname or f"mx.{self.domain}"

    @property
    def api_url(self) -> str:
        """Where clients find the API, without a trailing slash."""
        return (self.public_url or f"http://{Listen(self.http.reachable_host, self.http.port)}").rstrip("/")

    @property
    def database_location(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.data.resolve() / 'pillarbox.sqlite3'}"

    @property
    def blob_location(self) -> str:
        """The blob URL in force."""
        return self.blob_url or f"file://{self.data.resolve() / 'messages'}"

    @property
    def redis_location(self) -> str:
        """The Redis URL in force: the given one, or the private server that `pillarbox up` runs."""
        return self.redis_url or f"unix://{private_redis_socket(self.data)}"

    @property
    def target_policy(self) -> TargetPolicy:
        """Which addresses targets may have."""
        return TargetPolicy(self._allowed_networks())

    @property
    def checks_authentication(self) -> bool:
        """Whether SPF, DKIM, DMARC and ARC are checked."""
        choice = self.authentication.lower()
        return not self._is_for_trying if choice == AUTO else read_switch("PILLARBOX_AUTHENTICATION", choice)

    @property
    def _is_for_trying(self) -> bool:
        """Whether nobody but this machine can reach it, and under no real name."""
        return self.http.is_loopback and self.smtp.is_loopback and self.domain == DEFAULT_DOMAIN

    def _allowed_networks(self) -> tuple[IPNetwork, ...]:
        choice = self.allow_private_targets.strip().lower()
        if choice == AUTO:
            return LOOPBACK if self._is_for_trying else ()
        named: dict[str, tuple[IPNetwork, ...]] = {"none": (), "loopback": LOOPBACK, "all": EVERYTHING}
        return (
            named[choice] if choice in named else parse_networks(choice, "PILLARBOX_ALLOW_PRIVATE_TARGETS", _NAMED_OR)
        )

    @property
    def trusted_forwarder_networks(self) -> tuple[IPNetwork, ...]:
        """Clients whose word on where a mail came from is taken."""
        return parse_networks(self.trusted_forwarders, "PILLARBOX_TRUSTED_FORWARDERS")

    @property
    def trusted_sealer_domains(self) -> frozenset[str]:
        """Lower-case domains whose ARC seals are believed."""
        return frozenset(filter(None, (name.strip().lower() for name in self.trusted_sealers.split(","))))

    @property
    def proxy_sources(self) -> tuple[IPNetwork, ...]:
        """Load balancers, which begin with a PROXY header."""
        return parse_networks(self.proxy_networks, "PILLARBOX_PROXY_NETWORKS")


UNIX_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 octets on Linux, 104 on macOS


def private_redis_socket(data: Path) -> Path:
    """The socket of the private Redis server: in the data folder, or in /tmp where that path is too long."""
    inside = data.resolve() / "redis.sock"
    if len(str(inside)) <= UNIX_SOCKET_PATH_LIMIT:
        return inside
    name = hashlib.sha256(str(inside).encode()).hexdigest()[:16]
    return Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp")) / f"pillarbox-{name}.sock"  # noqa: S108


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises `ConfigurationError` naming the variable and the cure."""
    given: dict[str, Any] = {}
    for entry in fields(Settings):
        name = entry.metadata[ENV_KEY]
        text = environment.get(name, "").strip()
        if text:
            given[entry.name] = read_value(name, text, entry)
    settings = Settings(**given)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    if normalise_domain(settings.domain) != settings.domain:
        raise ConfigurationError(f"PILLARBOX_DOMAIN: {settings.domain!r} must be a domain name in lower-case ASCII")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigurationError("PILLARBOX_TLS_CERT and PILLARBOX_TLS_KEY belong together: give both or neither")
    if settings.ca_file and not Path(settings.ca_file).is_file():
        raise ConfigurationError(f"PILLARBOX_CA_FILE: there is no file {settings.ca_file!r}; give one in PEM form")
    if settings.log_level.lower() not in {"debug", "info", "warning", "error"}:
        raise ConfigurationError(
            f"PILLARBOX_LOG_LEVEL: {settings.log_level!r} is none of `debug`, `info`, `warning` or `error`"
        )
    if settings.mta_sts not in MTA_STS_MODES:
        raise ConfigurationError(f"PILLARBOX_MTA_STS: {settings.mta_sts!r} is none of `enforce`, `testing` or `none`")
    if settings.dnssec not in DNSSEC_CHOICES:
        raise ConfigurationError(f"PILLARBOX_DNSSEC: {settings.dnssec!r} is none of `auto`, `on` or `off`")
    if settings.postmaster and parse_mailbox(settings.postmaster) is None:
        raise ConfigurationError(f"PILLARBOX_POSTMASTER: {settings.postmaster!r} is not a mailbox")
    if settings.smart_host:
        read_listen("PILLARBOX_SMART_HOST", settings.smart_host)
    # Reading these checks them.
    settings.target_policy  # noqa: B018
    settings.checks_authentication  # noqa: B018
    settings.trusted_forwarder_networks  # noqa: B018
    settings.proxy_sources  # noqa: B018
