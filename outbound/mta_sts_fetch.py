"""Fetch a domain's MTA-STS policy over HTTPS (RFC 8461 section 3.3), from servers that may be slow or hostile.

No use of `inbound.guarded_http`: rooms do not import each other, and this needs far less. One GET, its own connection
to an address that was checked, no redirects, no cookies; everything is read through a stream that ends by a deadline
and after so many bytes, whatever the pace.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from core.dns_lookup import DnsLookup, LookupBudget, LookupFailed, RecordType
from core.errors import TargetBlocked
from core.mta_sts import HOST_PREFIX, POLICY_PATH
from core.netguard import TargetPolicy
from outbound.mta_sts_policy import PolicyUnusable, StsPolicy, read_policy
from outbound.timing import Deadline
from outbound.tls import TlsContexts

FETCH_TIMEOUT_S = 10.0
"""For all of it; RFC 8461 section 3.3 suggests a minute, but a mail waits meanwhile."""
MAX_POLICY_BYTES = 64 * 1024
"""As RFC 8461 section 3.3 suggests."""
MAX_HEAD_BYTES = 16 * 1024
MAX_ADDRESSES = 4
MAX_LOOKUPS = 2
"""Its IPv4 and its IPv6 addresses."""
HTTPS_PORT = 443
_MEDIA_TYPE = "text/plain"


class PolicyFetcher:
    """Fetches policies, from any thread."""

    def __init__(self, lookup: DnsLookup, guard: TargetPolicy, contexts: TlsContexts, port: int = HTTPS_PORT) -> None:
        self._lookup = lookup
        self._guard = guard
        self._contexts = contexts
        self._port = port

    def fetch(self, domain: str, seconds: float = FETCH_TIMEOUT_S) -> StsPolicy:
        """The policy that is published now. Raises `PolicyUnusable`, whatever goes wrong at their side."""
        host = HOST_PREFIX + domain
        deadline = Deadline(min(seconds, FETCH_TIMEOUT_S))
        try:
            with self._connect(host, deadline) as connection:
                return read_policy(_get(connection, host, deadline))
        except ssl.SSLCertVerificationError as error:
            raise PolicyUnusable(f"the certificate of {host} is not valid: {error.verify_message}") from error
        except TimeoutError as error:
            raise PolicyUnusable(f"{host} took too long") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PolicyUnusable(f"{host} did not give it: {error}") from error

    def _connect(self, host: str, deadline: Deadline) -> ssl.SSLSocket:
        """A secured connection to the first address that answers."""
        trouble: Exception | None = None
        for address in self._addresses(host, deadline):
            try:
                self._guard.check(address)
                plain = socket.create_connection((address, self._port), deadline.remaining / 2)
            except (OSError, TargetBlocked) as error:
                trouble = error
                continue
            try:
                plain.settimeout(deadline.remaining)  # of the whole handshake
                # A stream that ends without TLS's own end may have been cut by somebody else.
                return self._contexts.checked.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False)
            except BaseException:
                plain.close()
                raise
        raise PolicyUnusable(f"no connection to {host}: {trouble or 'it has no address'}")

    def _addresses(self, host: str, deadline: Deadline) -> Iterator[str]:
        budget = LookupBudget(deadline.remaining, MAX_LOOKUPS)
        left = MAX_ADDRESSES
        for kind in (RecordType.A, RecordType.AAAA):
            with suppress(LookupFailed):
                for address in self._lookup.find(host, kind, budget).addresses[:left]:
                    left -= 1
                    yield address


class _BoundedStream(io.RawIOBase):
    """What comes over a connection, until the deadline and up to a number of bytes."""

    def __init__(self, connection: ssl.SSLSocket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._left = MAX_HEAD_BYTES + MAX_POLICY_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._deadline.is_over:
            raise TimeoutError
        self._connection.settimeout(self._deadline.remaining)
        received = self._connection.recv_into(buffer)
        self._left -= received
        if self._left < 0:
            raise PolicyUnusable("the answer is too long")
        return received


class _Answerer:
    """The little of a socket that `http.client` reads from."""

    def __init__(self, connection: ssl.SSLSocket, deadline: Deadline) -> None:
        self._stream = _BoundedStream(connection, deadline)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._stream)


def _get(connection: ssl.SSLSocket, host: str, deadline: Deadline) -> bytes:
    lines = (
        f"GET {POLICY_PATH} HTTP/1.1", f"Host: {host}", "User-Agent: Pillarbox", f"Accept: {_MEDIA_TYPE}",
        "Accept-Encoding: identity", "Connection: close", "", "",
    )  # fmt: skip
    connection.settimeout(deadline.remaining)
    connection.sendall("\r\n".join(lines).encode("ascii"))
    response = http.client.HTTPResponse(_Answerer(connection, deadline), method="GET")  # type: ignore[arg-type]
    response.begin()
    if response.status != http.client.OK:  # redirects too: RFC 8461 section 3.3 forbids to follow them
        raise PolicyUnusable(f"{host} answered with {response.status}")
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _MEDIA_TYPE:
        raise PolicyUnusable(f"what {host} gave is not {_MEDIA_TYPE}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise PolicyUnusable(f"what {host} gave is compressed, which was not asked for")
    content = response.read(MAX_POLICY_BYTES + 1)
    if len(content) > MAX_POLICY_BYTES:
        raise PolicyUnusable(f"it is longer than {MAX_POLICY_BYTES} bytes")
    if response.length:
        raise PolicyUnusable(f"{host} hung up before the end of it")
    return content
