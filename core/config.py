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

from core.addresses import normalise_domain
from core.errors import ConfigurationError
from core.netguard import LOOPBACK, IPNetwork, TargetPolicy, parse_networks

ENV_KEY = "env"
DOC_KEY = "doc"
DEFAULT_DOMAIN = "pillarbox.test"
MAX_COUNT_DIGITS = 9
EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True, slots=True)
class Listen:
    """A host and port to listen on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or self.host.startswith("127.") or self.host == "::1"

    @property
    def reachable_host(self) -> str:
        """A host at which a process on this machine reaches the listener."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 (compared, not bound)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _setting(env: str, default: Any, doc: str) -> Any:
    return field(default=default, metadata={ENV_KEY: env, DOC_KEY: doc})


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
        "PILLARBOX_CA_FILE", "", "PEM certificates that targets' TLS is checked against. Default: the public ones."
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

    def _allowed_networks(self) -> tuple[IPNetwork, ...]:
        choice = self.allow_private_targets.strip().lower()
        if choice == "auto":
            is_private = self.http.is_loopback and self.smtp.is_loopback and self.domain == DEFAULT_DOMAIN
            return LOOPBACK if is_private else ()
        named: dict[str, tuple[IPNetwork, ...]] = {"none": (), "loopback": LOOPBACK, "all": EVERYTHING}
        return named[choice] if choice in named else parse_networks(choice)


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
            given[entry.name] = _read_value(name, text, entry.default)
    settings = Settings(**given)
    _check(settings)
    return settings


def _read_value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        return _read_switch(name, text)
    if isinstance(default, int):
        return _read_count(name, text)
    if isinstance(default, Listen):
        return read_listen(name, text)
    if isinstance(default, Path):
        return Path(text).expanduser()
    return text


def _read_switch(name: str, text: str) -> bool:
    switches = {
        "on": True,
        "true": True,
        "1": True,
        "yes": True,
        "off": False,
        "false": False,
        "0": False,
        "no": False,
    }
    if text.lower() not in switches:
        raise ConfigurationError(f"{name}: {text!r} is neither `on` nor `off`")
    return switches[text.lower()]


def _read_count(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > MAX_COUNT_DIGITS or int(text) == 0:
        raise ConfigurationError(f"{name}: {text[:80]!r} is not a whole number above 0 and below a billion")
    return int(text)


def read_listen(name: str, text: str) -> Listen:
    """Read `host:port` or `[v6]:port`. Raises `ConfigurationError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536 or not host:
        raise ConfigurationError(f"{name}: {text[:80]!r} is not `host:port`, such as 127.0.0.1:2525")
    return Listen(host.strip("[]"), int(port))


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
    settings.target_policy  # noqa: B018 (reads, and so checks, the list of networks)
