"""Whether a domain's mail comes here: its MX records must name our receiver (RFC 5321 section 5.1)."""

from __future__ import annotations

import ipaddress
import secrets
from urllib.parse import urlsplit

import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from core.config import Settings
from core.errors import ConfigurationError, InvalidField, PillarboxError
from core.routing import WILDCARD_PREFIX

DNS_PORT = 53
SERVER_TIMEOUT_S = 2.0
"""How long one DNS server has to answer."""
TOTAL_TIMEOUT_S = 6.0
"""How long a check may take, all servers and repetitions together."""
MAX_SHOWN = 10
_FIELD = "domain"
_PROBE_BYTES = 6


class DnsUnavailable(PillarboxError):
    """The DNS gave no answer, which says nothing about the domain: to be tried again."""


class MxCheck:
    """Asks the DNS about custom domains before they are created. Safe for threads."""

    def __init__(self, expected_host: str, resolver: dns.resolver.Resolver) -> None:
        self._expected_host = expected_host
        self._resolver = resolver

    def require(self, domain: str) -> None:
        """Return when an MX record of the domain names our receiver.

        For `*.example.com` any name below will do, so a random one is asked for. Raises `InvalidField` saying what
        was looked for and found, and `DnsUnavailable` when there was no answer to judge by.
        """
        asked = _name_to_ask(domain)
        found = self._find_hosts(asked)
        if self._expected_host not in found:
            raise InvalidField(_FIELD, self._complaint(asked, found))

    def _find_hosts(self, asked: str) -> list[str]:
        """The hosts in MX records, best preference first, lower-case and without the final dot."""
        try:
            answer = self._resolver.resolve(
                dns.name.from_text(asked), dns.rdatatype.MX, search=False, raise_on_no_answer=False
            )
        except dns.resolver.NXDOMAIN:
            return []
        except (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel) as error:
            raise InvalidField(_FIELD, "is too long to be looked up in the DNS") from error
        except (dns.exception.DNSException, OSError) as error:
            raise DnsUnavailable(
                f"the DNS gave no answer for the MX records of {asked}; try again, or see to its name servers"
            ) from error
        records = sorted(answer.rrset or (), key=lambda record: record.preference)
        return [record.exchange.to_text(omit_final_dot=True).lower() for record in records]

    def _complaint(self, asked: str, found: list[str]) -> str:
        shown = ", ".join(found[:MAX_SHOWN]) if found else "none"
        return (
            f"needs an MX record that points to {self._expected_host}; looked for MX records of {asked} and found "
            f"{shown}. Add the record, wait until the DNS shows it, and try again"
        )


def mx_check_for(settings: Settings) -> MxCheck | None:
    """The check as configured; None when it is switched off. Raises `ConfigurationError`."""
    return MxCheck(settings.mx_hostname.lower(), make_resolver(settings.resolver)) if settings.mx_check else None


def make_resolver(servers: str) -> dns.resolver.Resolver:
    """A resolver with bounded patience.

    `servers` is a comma-separated list of `ip`, `ip:port` or `[v6]:port`; when empty the system's are asked.
    Raises `ConfigurationError` for a list that cannot be read.
    """
    resolver = dns.resolver.Resolver(configure=False) if servers.strip() else _system_resolver()
    if servers.strip():
        resolver.nameservers = [_read_server(item.strip()) for item in servers.split(",")]
    resolver.timeout = SERVER_TIMEOUT_S
    resolver.lifetime = TOTAL_TIMEOUT_S
    return resolver


def _system_resolver() -> dns.resolver.Resolver:
    try:
        return dns.resolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        return dns.resolver.Resolver(configure=False)  # every question then ends as `DnsUnavailable`


def _read_server(text: str) -> dns.nameserver.Nameserver:
    try:
        host, port = _split_port(text)
    except ValueError as error:
        raise ConfigurationError(
            f"PILLARBOX_RESOLVER: {text!r} is not an address; write 192.0.2.1, 192.0.2.1:53 or [2001:db8::1]:53"
        ) from error
    return dns.nameserver.Do53Nameserver(host, port)


def _split_port(text: str) -> tuple[str, int]:
    """Raises `ValueError`."""
    try:
        return str(ipaddress.ip_address(text)), DNS_PORT
    except ValueError:
        parts = urlsplit(f"//{text}")
        return str(ipaddress.ip_address(parts.hostname or "")), parts.port or DNS_PORT


def _name_to_ask(domain: str) -> str:
    if domain.startswith(WILDCARD_PREFIX):
        return f"pillarbox-{secrets.token_hex(_PROBE_BYTES)}.{domain.removeprefix(WILDCARD_PREFIX)}"
    return domain
