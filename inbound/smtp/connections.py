"""How many sessions are open, in all and by client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Protocol

from core.config import Settings
from inbound.clients import client_group


class OpenSession(Protocol):
    """What can be asked of any open session."""

    is_busy: bool
    """Whether it is in the middle of a command or a message."""

    def begin_shutdown(self) -> None:
        """End it: at once when idle, else after the reply to what it is doing."""

    def abort(self) -> None:
        """Cut its connection."""


class Connections:
    """The open sessions of a receiver process, counted by client: an IPv4 address, or the /64 of an IPv6 one."""

    def __init__(self, settings: Settings) -> None:
        self._groups: dict[OpenSession, str | None] = {}
        self._by_group: Counter[str] = Counter()
        self._settings = settings

    @property
    def sessions(self) -> Collection[OpenSession]:
        """All that are open."""
        return self._groups.keys()

    def hold(self, session: OpenSession) -> bool:
        """Give a place to a connection whose client is not known yet, unless all are taken."""
        if len(self._groups) >= self._settings.max_connections:
            return False
        self._groups[session] = None
        return True

    def admit(self, session: OpenSession, ip: str) -> bool:
        """Count a session, held already or new, for its client; false when there are too many."""
        group = client_group(ip)
        if self._by_group[group] >= self._settings.max_connections_per_ip:
            return False
        if session not in self._groups and not self.hold(session):
            return False
        self._groups[session] = group
        self._by_group[group] += 1
        return True

    def leave(self, session: OpenSession) -> None:
        """Forget a session, if it was ever let in."""
        group = self._groups.pop(session, None)
        if group is not None:
            self._by_group[group] -= 1
            if self._by_group[group] <= 0:
                del self._by_group[group]
