"""How the web application is served: gunicorn, one process with threads, configured from the settings."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import TConn, ThreadWorker

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


_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What `accept` says when process or system have no file descriptor or memory left: it passes, requests go on."""
NO_ROOM_PAUSE_S = 0.05
QUIET_S = 10.0
"""Between two warnings of that."""
HEAD_S = 10.0
"""How long the head of a request may take from its first byte on."""


class Worker(ThreadWorker):
    """gunicorn's, but that no thread waits for clients who send nothing, or who do not end the head of a request.

    Browsers open connections that they may not use, and a handful of half requests would hold all threads for ever.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heads: dict[TConn, float] = {}
        """Connections whose head is being read, and until when."""
        self._quiet_until = 0.0

    def accept(self, listener: socket.socket) -> None:
        """Let the poller wait for the first byte, not a thread."""
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has gone again
            return
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._tell_no_room(error)
            time.sleep(NO_ROOM_PAUSE_S)  # else the loop asks again at once, while others would make room
            return
        self.nr_conns += 1
        conn = TConn(self.cfg, client, address, listener.getsockname())
        conn.set_timeout()
        self.pending_conns.append(conn)
        poller: Any = self.poller
        poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _tell_no_room(self, error: OSError) -> None:
        now = time.monotonic()
        if now > self._quiet_until:
            self.log.warning("no room for more connections; they wait: %s", error.strerror)
            self._quiet_until = now + QUIET_S

    def handle(self, conn: TConn) -> Any:
        """A request; in a thread."""
        self._heads[conn] = time.monotonic() + HEAD_S
        try:
            return super().handle(conn)
        finally:
            self._heads.pop(conn, None)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """The same, once its head has been read."""
        self._heads.pop(conn, None)
        return super().handle_request(req, conn)

    def murder_pending(self) -> None:
        """Called every second at least: end whoever takes too long."""
        super().murder_pending()
        now = time.monotonic()
        for conn, until in list(self._heads.items()):
            if until < now:
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)


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
        "worker_class": Worker,
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
