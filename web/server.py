"""How the web application is served: gunicorn, one process with threads, configured from the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from core.config import Settings
from core.delivery import DeliveryKind
from core.store.db import Database
from web.app import create_app

GRACEFUL_TIMEOUT_S = 8
"""How long requests in flight may take to end after SIGTERM."""
STUCK_AFTER_S = 60
"""A process whose main loop has not moved for this long is replaced."""
KEEP_ALIVE_S = 5
MAX_REQUEST_LINE_BYTES = 8190  # as long as gunicorn allows: a search of 1,000 characters may need 9 bytes for each
BACKLOG = 512


class Bell(Protocol):
    """What tells the workers that deliveries are due."""

    def ring(self, kind: DeliveryKind) -> None:
        """Deliveries of this kind are due."""


OpenBell = Callable[[str], Bell]
"""Makes a bell from the URL of Redis."""


class WebServer(BaseApplication):
    """gunicorn with our configuration and nothing from its own files, variables or command line."""

    def __init__(self, settings: Settings, open_bell: OpenBell) -> None:
        self._settings = settings
        self._open_bell = open_bell
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        for name, value in server_options(self._settings).items():
            self.cfg.set(name, value)  # type: ignore[union-attr]

    def load(self) -> Flask:
        """Build the application; runs in the process that serves, so threads and connections belong to it."""
        bell = self._open_bell(self._settings.redis_location)
        return create_app(self._settings, Database(self._settings.database_location), bell.ring)


def server_options(settings: Settings) -> dict[str, Any]:
    """gunicorn's settings, by its names for them."""
    return {
        "bind": str(settings.http),
        "worker_class": ThreadWorker,
        "workers": 1,
        "threads": settings.web_threads,
        "timeout": STUCK_AFTER_S,
        "graceful_timeout": GRACEFUL_TIMEOUT_S,
        "keepalive": KEEP_ALIVE_S,
        "backlog": BACKLOG,
        "limit_request_line": MAX_REQUEST_LINE_BYTES,
        "loglevel": settings.log_level.lower(),
        "proc_name": "pillarbox-web",
        "control_socket_disable": True,  # a second way in that nobody asked for
    }


def serve(settings: Settings, open_bell: OpenBell) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    `open_bell` is called in the serving process, which is a child of this one: threads do not survive a fork.
    """
    WebServer(settings, open_bell).run()
