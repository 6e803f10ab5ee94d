"""MTA-STS and TLS reports for domains that we receive for: the policy we serve, and the records to publish.

With them, senders insist on TLS with a valid certificate of our host (RFC 8461) and report where that fails
(RFC 8460).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from core.config import Settings
from core.errors import ConfigurationError

POLICY_PATH = "/.well-known/mta-sts.txt"
HOST_PREFIX = "mta-sts."
MAX_AGE_S = 7 * 86_400
"""How long senders keep an `enforce` policy: RFC 8461 section 3.2 speaks of weeks or longer; a mistake in one binds
for as long."""
SHORT_MAX_AGE_S = 86_400
"""For policies that enforce nothing, so that the next one is seen soon; also what section 8.3 asks for to take one
back."""
ID_LENGTH = 32
ENFORCE = "enforce"
WILDCARD_PREFIX = "*."
_HTTPS = "https://"
_MAILTO = "mailto:"
_MAIL_ADDRESS = re.compile(r"[^\s@,;!]+@[^\s@,;!]+\Z")
_URI_SAFE = ":/?#[]@$&'()*+=%-._~"  # all that RFC 3986 has, but for the `,` `;` and `!` that RFC 8460 section 3 excepts


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """A record for the customer to publish."""

    name: str
    type: str
    value: str


def policy_text(mode: str, mx_hostname: str) -> str:
    """The policy (RFC 8461 section 3.2), the same for every domain: all have the same MX."""
    max_age = MAX_AGE_S if mode == ENFORCE else SHORT_MAX_AGE_S
    lines = ("version: STSv1", f"mode: {mode}", f"mx: {mx_hostname}", f"max_age: {max_age}")
    return "".join(f"{line}\r\n" for line in lines)


def policy_id(text: str) -> str:
    """The `id` by which senders notice another policy: 1 to 32 letters and digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def report_uri(text: str) -> str | None:
    """`PILLARBOX_TLS_RPT` as a URI for `rua`; None when it is empty. Raises `ConfigurationError`."""
    given = text.strip()
    if not given:
        return None
    if given.lower().startswith((_HTTPS, _MAILTO)) and not re.search(r"[\s\x00-\x1f\"]", given):
        return quote(given, safe=_URI_SAFE)
    if _MAIL_ADDRESS.match(given):
        return _MAILTO + quote(given, safe=_URI_SAFE)
    raise ConfigurationError(
        f"PILLARBOX_TLS_RPT: {given[:80]!r} is neither a mail address nor a URL that begins with https:// or mailto:"
    )


def records_for(domain: str, settings: Settings) -> tuple[DnsRecord, ...]:
    """What to publish for a domain, beside its MX. Raises `ConfigurationError`.

    For `*.example.com` nothing: both lie beside each single name, so they are published for `a.example.com` as
    `records_for("a.example.com", …)` says.
    """
    if domain.startswith(WILDCARD_PREFIX):
        return ()
    text = policy_text(settings.mta_sts, settings.mx_hostname)
    records = [
        DnsRecord(f"_mta-sts.{domain}", "TXT", f"v=STSv1; id={policy_id(text)};"),
        DnsRecord(f"{HOST_PREFIX}{domain}", "CNAME", policy_host(settings)),
    ]
    reports = report_uri(settings.tls_rpt)
    if reports is not None:
        records.append(DnsRecord(f"_smtp._tls.{domain}", "TXT", f"v=TLSRPTv1; rua={reports}"))
    return tuple(records)


def policy_host(settings: Settings) -> str:
    """The name of the host that serves policies: that of `PILLARBOX_PUBLIC_URL`, else the receiver's own."""
    return (urlsplit(settings.public_url).hostname or settings.mx_hostname).lower()


def policy_domain(host: str) -> str | None:
    """The domain whose policy is asked for at this host: `example.com` at `mta-sts.example.com`; else None.

    `host` is that of the request: in any case, perhaps with a port.
    """
    name = host.lower().partition(":")[0].removesuffix(".")
    return name.removeprefix(HOST_PREFIX) if name.startswith(HOST_PREFIX) and name != HOST_PREFIX else None
