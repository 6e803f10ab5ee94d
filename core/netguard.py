"""Which addresses may be called: a customer's URL must not reach our own network (server-side request forgery).

The check is made on the resolved address that is then connected to, so neither odd spellings (decimal, hex, octal)
nor a name that resolves differently the second time gets around it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.errors import ConfigurationError, InvalidField, TargetBlocked

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all that IANA has given out; `is_global` says yes to more
MAX_URL_LENGTH = 2_000
MAILTO = "mailto"
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """The networks that may be called although they are not public."""

    allowed: tuple[IPNetwork, ...] = ()

    def check(self, address_text: str) -> None:
        """Raises `TargetBlocked` when this address must not be connected to."""
        address = ipaddress.ip_address(address_text.partition("%")[0])
        if any(_contains(network, address) for network in self.allowed):
            return
        if not is_public(address):
            raise TargetBlocked(
                f"{address} is not a public address; to call it all the same, name its network in "
                "PILLARBOX_ALLOW_PRIVATE_TARGETS"
            )


def is_public(address: IPAddress) -> bool:
    """Whether an address is out on the internet, any IPv4 address embedded in it included."""
    if address.is_multicast or not address.is_global:
        return False
    if address.version == 6 and address not in _GLOBAL_UNICAST and address not in _NAT64:
        return False
    embedded = _embedded_ipv4(address)
    return embedded is None or (embedded.is_global and not embedded.is_multicast)


def parse_networks(text: str, setting: str = "networks", also: str = "networks") -> tuple[IPNetwork, ...]:
    """Read a comma-separated list of networks. Raises `ConfigurationError`, which names the setting and what else it
    takes."""
    networks: list[IPNetwork] = []
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(item))
        except ValueError as error:
            raise ConfigurationError(
                f"{setting}: {item!r} is not a network like 10.0.0.0/8 ({error}); use {also} separated by commas"
            ) from error
    return tuple(networks)


def check_url(field: str, url: str) -> str:
    """Check the form of a URL that will be called, and give it back. Raises `InvalidField`.

    Where it leads is checked when it is called: what a name resolves to today says nothing of tomorrow.
    """
    if len(url) > MAX_URL_LENGTH:
        raise InvalidField(field, f"is longer than {MAX_URL_LENGTH} characters")
    if any(character <= " " or character == "\x7f" for character in url):
        raise InvalidField(field, "must not contain spaces or control characters; percent-encode them")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidField(field, f"is not a URL ({error})") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise InvalidField(field, "must begin with http:// or https://")
    if not parts.hostname or port == 0:
        raise InvalidField(field, "must name a host, like https://example.com/incoming")
    return url


def target_host(url: str) -> str:
    """`scheme://host:port` of a checked URL: what fairness counts by. Holds no credentials.

    Of a mailbox it is its domain, `mailto://example.com`.
    """
    if is_mailbox(url):
        return f"{MAILTO}://{url.rpartition('@')[2].lower()}"
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or DEFAULT_PORTS[parts.scheme]}"


def webhook_place(url: str, webhook_id: str) -> str:
    """What fairness counts by for a webhook: itself. Many webhooks of strangers to each other share a host, and one
    that fails must not make the others wait; how many POSTs there are at once is bounded by the places for events."""
    return f"{target_host(url)}#{webhook_id}"


def is_mailbox(target: str) -> bool:
    """Whether a target is a mailbox that mail is forwarded to, not a URL it is POSTed to."""
    return target[: len(MAILTO) + 1].lower() == f"{MAILTO}:"


def _contains(network: IPNetwork, address: IPAddress) -> bool:
    candidate = getattr(address, "ipv4_mapped", None) or address
    return candidate.version == network.version and candidate in network


def _embedded_ipv4(address: IPAddress) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo_client = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo_client
