"""How many sessions are open, in all and by address."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from core.config import Settings


class OpenSession(Protocol):
    """What can be asked of any open session."""

    is_busy: bool
    """Whether it is in the middle of a command or a message."""

    def begin_shutdown(self) -> None:
        """End it: at once when idle, else after the reply to what it is doing."""

    def abort(self) -> None:
        """Cut its connection."""


class Connections:
    """The open sessions of a receiver process, counted by address."""

    def __init__(self, settings: Settings) -> None:
        self.sessions: set[OpenSession] = set()
        self._by_ip: Counter[str] = Counter()
        self._settings = settings

    def admit(self, session: OpenSession, ip: str) -> bool:
        """Count a new session, unless there are too many."""
        if len(self.sessions) >= self._settings.max_connections:
            return False
        if self._by_ip[ip] >= self._settings.max_connections_per_ip:
            return False
        self.sessions.add(session)
        self._by_ip[ip] += 1
        return True

    def leave(self, session: OpenSession, ip: str) -> None:
        """Forget a session that was admitted."""
        if session in self.sessions:
            self.sessions.remove(session)
            self._by_ip[ip] -= 1
            if self._by_ip[ip] <= 0:
                del self._by_ip[ip]
