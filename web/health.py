"""`/healthz`: whether mail can come in and go out through this installation."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import nullcontext

import redis
import structlog
from flask import Response
from flask_openapi3.models.tag import Tag
from flask_openapi3.openapi import OpenAPI
from pydantic import BaseModel, Field

from core.clock import SECOND_MS
from core.config import Settings
from core.presence import WORKER_SIGN
from core.setting_values import Listen
from core.store.db import Database
from web.context import context
from web.errors import Error

CHECK_TIMEOUT_S = 1.0
REUSED_FOR_MS = SECOND_MS
"""Whoever asks more often gets the last answer: the page is open to all and must not become a load."""
GREETING_BYTES = 512
EXTENSION = "pillarbox_health"
log = structlog.get_logger("web")


class HealthCheck(BaseModel):
    """One part of the installation."""

    ok: bool
    reason: str | None = Field(default=None, description="What is wrong and what to look at.")


class Health(BaseModel):
    """The whole installation."""

    status: str = Field(description="`ok` or `unavailable`.", json_schema_extra={"enum": ["ok", "unavailable"]})
    checks: dict[str, HealthCheck] = Field(
        description="`receiver`, `submission` where it is not off, `database`, `redis` and `worker`."
    )


class NotReady(Exception):
    """A check that failed; the text says why."""


class HealthMonitor:
    """Runs the checks, one caller at a time."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._redis = redis.Redis.from_url(
            settings.redis_location, socket_timeout=CHECK_TIMEOUT_S, socket_connect_timeout=CHECK_TIMEOUT_S
        )
        self._checks: dict[str, Callable[[], None]] = {
            "receiver": lambda: check_receiver(settings.smtp),
            **_submission_checks(settings),
            "database": lambda: check_database(database),
            "redis": lambda: check_redis(self._redis),
            "worker": lambda: check_worker(self._redis),
        }
        self._lock = threading.Lock()
        self._last: tuple[int, Health] | None = None

    def look(self, now_ms: int) -> Health:
        """The state of things, not older than `REUSED_FOR_MS`."""
        with self._lock:
            if self._last is None or not 0 <= now_ms - self._last[0] < REUSED_FOR_MS:
                self._last = (now_ms, self._run())
            return self._last[1]

    def _run(self) -> Health:
        checks = {name: _outcome(check) for name, check in self._checks.items()}
        return Health(status="ok" if all(c.ok for c in checks.values()) else "unavailable", checks=checks)


def _outcome(check: Callable[[], None]) -> HealthCheck:
    try:
        check()
    except NotReady as error:
        return HealthCheck(ok=False, reason=str(error))
    return HealthCheck(ok=True)


def check_receiver(listen: Listen) -> None:
    """Raises `NotReady` unless the receiver greets with 220."""
    if not _greets(listen, "smtp"):
        raise NotReady(f"the receiver at {listen} does not take mail now; see its log")


def check_submission(settings: Settings) -> None:
    """Raises `NotReady` unless every place where customers submit mail greets with 220, the second kind in TLS."""
    in_clear = [(listen, None) for listen in settings.submission_places]
    in_tls = [(listen, _unverified()) for listen in settings.submission_tls_places]
    for listen, tls in (*in_clear, *in_tls):
        if not _greets(listen, "submission", tls):
            raise NotReady(f"submission at {listen} takes no mail now; see its log")


def _submission_checks(settings: Settings) -> dict[str, Callable[[], None]]:
    """None where both kinds of it are off: then it is not meant to run here."""
    if not (settings.submission_places or settings.submission_tls_places):
        return {}
    return {"submission": lambda: check_submission(settings)}


def _greets(listen: Listen, command: str, tls: ssl.SSLContext | None = None) -> bool:
    """Whether it greets with 220. Raises `NotReady` where nothing answers."""
    try:
        with (
            socket.create_connection((listen.reachable_host, listen.port), CHECK_TIMEOUT_S) as plain,
            nullcontext(plain) if tls is None else tls.wrap_socket(plain) as connection,
        ):
            greeting = connection.recv(GREETING_BYTES)
            connection.sendall(b"QUIT\r\n")
    except OSError as error:
        raise NotReady(f"nothing answers at {listen}; is `pillarbox {command}` running?") from error
    return greeting.startswith(b"220")


def _unverified() -> ssl.SSLContext:
    """Whether somebody speaks TLS is asked, not who: the certificate is for another name than that of this machine."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def check_database(database: Database) -> None:
    """Raises `NotReady` unless a query runs."""
    if not (database.is_ready() or database.is_ready()):  # the first may have met a connection that died meanwhile
        raise NotReady("no query can be run; is the database up, and DATABASE_URL right?")


def check_redis(connection: redis.Redis) -> None:
    """Raises `NotReady` unless Redis answers."""
    try:
        connection.ping()
    except redis.RedisError as error:
        raise NotReady("Redis does not answer; is it up, and REDIS_URL right?") from error


def check_worker(connection: redis.Redis) -> None:
    """Raises `NotReady` unless a worker has lately said that it is alive."""
    try:
        is_alive = connection.exists(WORKER_SIGN)
    except redis.RedisError as error:
        raise NotReady("Redis does not answer, so workers cannot be seen") from error
    if not is_alive:
        raise NotReady("no worker is running; start `pillarbox worker`")


def add_health(app: OpenAPI, settings: Settings, database: Database) -> None:
    """Serve `/healthz`, without a key."""
    app.extensions[EXTENSION] = HealthMonitor(settings, database)

    @app.get(
        "/healthz",
        tags=[Tag(name="health", description="Whether the installation is ready.")],
        summary="Say whether all parts are ready.",
        operation_id="healthz",
        description="Needs no key. 503 when a part is not ready.",
        responses={200: Health, 500: Error, 503: Health},
    )
    def healthz() -> Response:
        answer = app.extensions[EXTENSION].look(context().clock())
        body = answer.model_dump_json(exclude_none=True)
        return Response(body, 200 if answer.status == "ok" else 503, mimetype="application/json")
