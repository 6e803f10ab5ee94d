"""Which of our addresses a connection is made from.

A recipient's domain always sees the same one, so that what it thinks of us stays with it: greylisting counts pairs of
hosts, and reputation is an address's. When addresses are added or taken away, few domains change theirs
(D. G. Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates", 1998).
"""

from __future__ import annotations

import hashlib
import ipaddress


class SourceAddresses:
    """The addresses of this machine that connections to mail hosts are made from."""

    def __init__(self, addresses: tuple[str, ...] = ()) -> None:
        self._by_version: dict[int, list[str]] = {4: [], 6: []}
        for address in addresses:
            self._by_version[ipaddress.ip_address(address).version].append(address)

    def choose(self, domain: str, destination: str, preferred: str | None = None) -> str | None:
        """For mail to this domain at this address; None for the system's choice, where we have none of its family.

        `preferred` counts if it is one of ours.
        """
        ours = self._by_version[ipaddress.ip_address(destination.partition("%")[0]).version]
        if preferred in ours:
            return preferred
        return max(ours, key=lambda address: _weight(address, domain), default=None)


def _weight(address: str, domain: str) -> bytes:
    return hashlib.sha256(f"{address} {domain}".encode()).digest()
