"""Every setting: one frozen record, read from the environment; each field carries its variable, default and doc.

`pillarbox config` prints this list, and `docs/settings.md` is generated from it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from core.addresses import normalise_domain, parse_mailbox
from core.errors import ConfigurationError, InvalidField
from core.netguard import LOOPBACK, IPNetwork, TargetPolicy, parse_networks
from core.sending.tracking_answers import PrivacySignals
from core.sending.tracking_base import checked_base_url
from core.sending_settings import SendingSettings
from core.setting_values import DEFAULT_DOMAIN, ENV_KEY, Listen, read_addresses, read_listen, read_switch, read_value
from core.smart_host import read_relay

AUTO = "auto"
DNSSEC_CHOICES = (AUTO, "on", "off")
MTA_STS_MODES = ("enforce", "testing", "none")
EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


_NAMED_OR = "`auto`, `none`, `loopback`, `all`, or networks"


@dataclass(frozen=True, slots=True)
class Settings(SendingSettings):
    """The whole configuration of one process, and what follows from it."""

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
        return not self.is_for_trying if choice == AUTO else read_switch("PILLARBOX_AUTHENTICATION", choice)

    @property
    def submission_places(self) -> tuple[Listen, ...]:
        """Where mail is submitted with STARTTLS."""
        return _read_places("PILLARBOX_SUBMISSION", self.submission)

    @property
    def submission_tls_places(self) -> tuple[Listen, ...]:
        """Where mail is submitted with TLS from the first byte."""
        return _read_places("PILLARBOX_SUBMISSION_TLS", self.submission_tls)

    @property
    def requires_verified(self) -> bool:
        """Whether mail may be sent from verified sending domains only."""
        choice = self.require_verified.lower()
        return not self.is_for_trying if choice == AUTO else read_switch("PILLARBOX_REQUIRE_VERIFIED", choice)

    @property
    def return_path_host(self) -> str:
        """What customers' `mta.<domain>` points to."""
        return self.return_host or f"mta.{self.domain}"

    @property
    def sending_addresses(self) -> tuple[str, ...]:
        """Addresses that mail leaves from, as others see them; empty where nobody has said."""
        return read_addresses("PILLARBOX_SENDING_IPS", self.sending_ips)

    @property
    def source_addresses(self) -> tuple[str, ...]:
        """Addresses of ours that connections to mail hosts are made from."""
        return read_addresses("PILLARBOX_SOURCE_IPS", self.source_ips)

    @property
    def tracking_base(self) -> str:
        """Where open pixels and tracked links lead, without a trailing slash."""
        return (self.tracking_url or self.api_url).rstrip("/")

    @property
    def privacy(self) -> PrivacySignals:
        """What becomes of hits by those who ask not to be tracked."""
        return PrivacySignals(self.privacy_signals)

    @property
    def is_for_trying(self) -> bool:
        """Whether nobody but this machine can reach it, and under no real name."""
        return self.http.is_loopback and self.smtp.is_loopback and self.domain == DEFAULT_DOMAIN

    def _allowed_networks(self) -> tuple[IPNetwork, ...]:
        choice = self.allow_private_targets.strip().lower()
        if choice == AUTO:
            return LOOPBACK if self.is_for_trying else ()
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
    if settings.privacy_signals not in set(PrivacySignals):
        named = ", ".join(f"`{signal}`" for signal in PrivacySignals)
        raise ConfigurationError(f"PILLARBOX_PRIVACY_SIGNALS: {settings.privacy_signals!r} is none of {named}")
    try:
        checked_base_url("PILLARBOX_TRACKING_URL", settings.tracking_base)
    except InvalidField as error:
        raise ConfigurationError(str(error)) from error
    if settings.dmarc_reports and parse_mailbox(settings.dmarc_reports) is None:
        raise ConfigurationError(f"PILLARBOX_DMARC_REPORTS: {settings.dmarc_reports!r} is not a mailbox")
    if settings.return_host and normalise_domain(settings.return_host) != settings.return_host:
        raise ConfigurationError(f"PILLARBOX_RETURN_HOST: {settings.return_host!r} must be a name in lower-case ASCII")
    read_relay(settings.smart_host)
    # Reading these checks them.
    settings.submission_places  # noqa: B018
    settings.submission_tls_places  # noqa: B018
    settings.requires_verified  # noqa: B018
    settings.sending_addresses  # noqa: B018
    settings.source_addresses  # noqa: B018
    settings.target_policy  # noqa: B018
    settings.checks_authentication  # noqa: B018
    settings.trusted_forwarder_networks  # noqa: B018
    settings.proxy_sources  # noqa: B018


def _read_places(name: str, text: str) -> tuple[Listen, ...]:
    if text.strip().lower() == "off":
        return ()
    return tuple(read_listen(name, part.strip()) for part in text.split(","))
