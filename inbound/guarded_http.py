"""The one client for calls to customers' URLs: pinned to checked addresses, and over by its deadline.

`requests` alone bounds the silence between two bytes, not the whole answer, and resolves names after any check;
both are mended here, underneath it, in urllib3's connections.
"""

from __future__ import annotations

import heapq
import http.cookiejar
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from core.errors import TargetBlocked
from core.netguard import TargetPolicy

KEPT_HOSTS = 256
"""Hosts to which idle connections are kept."""


class Deadline:
    """The end of one call: whatever connection it uses by then is cut."""

    def __init__(self, seconds: float) -> None:
        self.ends_at = time.monotonic() + seconds
        self.is_over = False
        self.is_expired = False
        self.was_reused = False
        self._connection: HTTPConnection | None = None
        self._lock = threading.Lock()

    @property
    def remaining(self) -> float:
        """Seconds left, never less than a millisecond, so that it can serve as a socket timeout."""
        return max(0.001, self.ends_at - time.monotonic())

    def attach(self, connection: HTTPConnection, was_reused: bool) -> None:
        """This connection carries the call from now on. Raises `ConnectTimeoutError` when the end has come already:
        the cut is made only once, and must not have missed this connection."""
        with self._lock:
            self._connection = connection
            self.was_reused = was_reused
            if self.is_expired:
                raise ConnectTimeoutError(connection, "the time was over before the request was sent")

    def finish(self) -> None:
        """The call is over; its connection belongs to the pool again."""
        with self._lock:
            self.is_over = True
            self._connection = None

    def expire(self) -> None:
        """Cut the connection: a blocked read in another thread ends at once."""
        with self._lock:
            self.is_expired = not self.is_over
            sock = None if self._connection is None else self._connection.sock
            if sock is not None and not self.is_over:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket.shutdown would drop its state


class DeadlineWatch:
    """A thread that expires deadlines; calls that end in time cost it nothing."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Deadline]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="deadlines", daemon=True).start()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[Deadline]:
        """Everything inside is over after so many seconds."""
        deadline = Deadline(seconds)
        with self._changed:
            heapq.heappush(self._queue, (deadline.ends_at, next(self._order), deadline))
            if self._queue[0][2] is deadline:
                self._changed.notify()
        _current.deadline = deadline
        try:
            yield deadline
        finally:
            deadline.finish()
            _current.deadline = None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
                wait = self._queue[0][0] - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                deadline = heapq.heappop(self._queue)[2]
            deadline.expire()


class _Current(threading.local):
    deadline: Deadline | None = None


_current = _Current()


class _Guarded:
    """Resolves, checks and connects in one step, so that the address checked is the address called."""

    policy: TargetPolicy
    sock: socket.socket | None
    is_fresh = False
    """Whether no request has been made on it since it was opened."""

    def _new_conn(self: Any) -> socket.socket:
        return _connect(self, _allowed_addresses(self), _current_deadline())

    def connect(self: Any) -> None:
        super().connect()  # type: ignore[misc]
        self.is_fresh = True
        # During a TLS handshake there is no socket that could be cut: what expired then is noticed here.
        _current_deadline().attach(self, was_reused=False)

    def request(self: Any, *arguments: Any, **keywords: Any) -> None:
        _current_deadline().attach(self, was_reused=self.sock is not None and not self.is_fresh)
        super().request(*arguments, **keywords)  # type: ignore[misc]
        self.is_fresh = False


def _current_deadline() -> Deadline:
    assert _current.deadline is not None, "calls are made inside DeadlineWatch.limit"
    return _current.deadline


def _allowed_addresses(connection: Any) -> list[tuple[Any, ...]]:
    """Resolve, and drop what must not be called. Raises `TargetBlocked` when nothing is left."""
    host = connection._dns_host
    try:
        found = socket.getaddrinfo(host, connection.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
        raise NameResolutionError(host, connection, reason) from error
    allowed: list[tuple[Any, ...]] = []
    blocked: TargetBlocked | None = None
    for entry in found:
        try:
            connection.policy.check(entry[4][0])
            allowed.append(entry)
        except TargetBlocked as error:
            blocked = error
    if not allowed and blocked is not None:
        raise blocked
    return allowed


def _connect(connection: Any, addresses: list[tuple[Any, ...]], deadline: Deadline) -> socket.socket:
    """Connect to the first address that answers; none of them takes the time of those behind it."""
    failure: OSError | None = None
    for position, address in enumerate(addresses):
        try:
            sock = _open(address, deadline.remaining / (len(addresses) - position))
        except OSError as error:
            failure = error
        else:
            sock.settimeout(deadline.remaining)  # for the TLS handshake, which counts as one operation
            return sock
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, "no connection in time") from failure
    raise NewConnectionError(connection, f"no connection: {failure}") from failure


def _open(entry: tuple[Any, ...], timeout: float) -> socket.socket:
    family, kind, protocol, _, address = entry
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


class _NoCookies(http.cookiejar.DefaultCookiePolicy):
    """Targets of many customers share this client: nothing one sets is sent to another."""

    def set_ok(self, cookie: Any, request: Any) -> bool:
        return False

    def return_ok(self, cookie: Any, request: Any) -> bool:
        return False


class _GuardedSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Never anywhere: even when it does not follow, requests would read the whole body of a redirect, however
        long. `inbound.forward` follows them itself."""
        return None


def guarded_session(policy: TargetPolicy, connections_per_host: int, ca_file: str | None) -> requests.Session:
    """A session for any thread; calls must be made inside `DeadlineWatch.limit`."""
    session = _GuardedSession()
    session.trust_env = False  # no proxies, no .netrc: the environment is ours, the URL the customer's
    session.cookies.set_policy(_NoCookies())
    session.verify = ca_file or True
    adapter = _guarded_adapter(policy, connections_per_host)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _guarded_adapter(policy: TargetPolicy, connections_per_host: int) -> HTTPAdapter:
    adapter = HTTPAdapter(pool_connections=KEPT_HOSTS, pool_maxsize=connections_per_host, max_retries=0)
    plain = type("GuardedHTTPConnection", (_Guarded, HTTPConnection), {"policy": policy})
    secure = type("GuardedHTTPSConnection", (_Guarded, HTTPSConnection), {"policy": policy})
    adapter.poolmanager.pool_classes_by_scheme = {
        "http": type("GuardedHTTPPool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("GuardedHTTPSPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
    return adapter


TRANSPORT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ssl.SSLError)
"""What a call can raise when the target is at fault."""
