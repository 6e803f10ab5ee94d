"""`pillarbox up`: the whole gateway in the foreground.

This process lives as long as the gateway and does next to nothing, so it imports little: what needs the database is
done by `pillarbox migrate` in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import fields

import click
import structlog

from cli.data_folder import CREDENTIALS_FILE, held_alone, make_data_folder
from cli.file_limit import raise_open_file_limit
from cli.listening import check_ports
from cli.redis_server import private_redis_answers, redis_command
from cli.supervisor import POLL_S, Program, Supervisor, child_environment, pillarbox_command
from core.config import Settings
from core.errors import ConfigurationError
from core.setting_values import ENV_KEY, Listen

REDIS_START_S = 10.0
READY_S = 60.0
HEALTH_TIMEOUT_S = 3.0
REDIS = "redis"
STOPPED_FIRST, STOPPED_LAST = 0, 1

log = structlog.get_logger("up")


def run_everything(settings: Settings) -> None:
    """Set up, start, and look after it all until SIGINT or SIGTERM. Raises `ConfigurationError`."""
    _warn_of_unknown_settings()
    make_data_folder(settings.data)
    supervisor = Supervisor(_programs(settings), child_environment())
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: supervisor.request_stop())
    with held_alone(settings.data):
        check_ports(_listens(settings))
        raise_open_file_limit()
        _prepare_elsewhere(supervisor)
        _run(settings, supervisor)


def _listens(settings: Settings) -> list[tuple[str, Listen]]:
    """Every place that some process of ours listens at."""
    return [
        ("PILLARBOX_HTTP", settings.http),
        ("PILLARBOX_SMTP", settings.smtp),
        *(("PILLARBOX_SUBMISSION", listen) for listen in settings.submission_places),
        *(("PILLARBOX_SUBMISSION_TLS", listen) for listen in settings.submission_tls_places),
    ]


def _prepare_elsewhere(supervisor: Supervisor) -> None:
    """Set up in a process of its own, which says itself what is wrong."""
    status = subprocess.run(pillarbox_command("migrate"), check=False).returncode  # noqa: S603 (our own command)
    if status and not supervisor.is_stopping:  # Ctrl-C ends it too
        sys.exit(1)


def _run(settings: Settings, supervisor: Supervisor) -> None:
    try:
        if not settings.redis_url:
            _start_redis(settings, supervisor)
        supervisor.run(each_time=_Readiness(settings).look)
    finally:
        click.echo("Stopping; mail in flight is finished first.")
        supervisor.stop()
        click.echo("Stopped.")


def _programs(settings: Settings) -> list[Program]:
    """No new mail first, then no new work; Redis goes last, since the others use it."""
    receivers = [Program(f"smtp-{n}", pillarbox_command("smtp"), STOPPED_FIRST) for n in _numbers(settings.receivers)]
    workers = [Program(f"worker-{n}", pillarbox_command("worker"), STOPPED_FIRST) for n in _numbers(settings.workers)]
    others = ["web", "scheduler"]
    if settings.submission_places or settings.submission_tls_places:
        others.append("submission")
    rest = [Program(name, pillarbox_command(name), STOPPED_FIRST) for name in others]
    if settings.redis_url:
        return [*receivers, *workers, *rest]
    # An orphaned Redis is killed, not asked: it would take its time, and then remove the socket of its successor.
    own_redis = Program(REDIS, redis_command(settings), STOPPED_LAST, orphan_signal=signal.SIGKILL)
    return [own_redis, *receivers, *workers, *rest]


def _numbers(count: int) -> range:
    return range(1, count + 1)


def _start_redis(settings: Settings, supervisor: Supervisor) -> None:
    """Start the private Redis and wait until it answers: the others would fail without it."""
    deadline = time.monotonic() + REDIS_START_S
    while not supervisor.is_stopping:
        supervisor.watch_once(only=REDIS)
        if private_redis_answers(settings):
            return
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"the private Redis server does not start; see {settings.data / 'redis.log'}, or set REDIS_URL"
            )
        time.sleep(POLL_S)


class _Readiness:
    """Says once that the gateway is ready, and once that it takes long."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started_at = time.monotonic()
        self._is_announced = False
        self._is_late = False

    def look(self) -> None:
        """Ask `/healthz` until it was content once."""
        if self._is_announced:
            return
        problem = _health_problem(self._settings)
        if not problem:
            self._is_announced = True
            _announce(self._settings)
        elif not self._is_late and time.monotonic() > self._started_at + READY_S:
            self._is_late = True
            log.error("not ready yet; still trying", reason=problem)


def _health_problem(settings: Settings) -> str:
    """Why `/healthz` is not content; empty when it is."""
    url = f"http://{_host_in_url(settings)}:{settings.http.port}/healthz"
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with without_proxy.open(url, timeout=HEALTH_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return _failed_checks(error.read()) or str(error)
    except (OSError, ValueError) as error:
        return f"web: {error}"


def _host_in_url(settings: Settings) -> str:
    host = settings.http.reachable_host
    return f"[{host}]" if ":" in host else host


def _failed_checks(body: bytes) -> str:
    try:
        return ", ".join(name for name, check in json.loads(body)["checks"].items() if not check["ok"])
    except (ValueError, KeyError, TypeError, AttributeError):  # not our page
        return ""


def _warn_of_unknown_settings() -> None:
    known = {entry.metadata[ENV_KEY] for entry in fields(Settings)}
    for name in sorted(os.environ):
        if name.startswith("PILLARBOX_") and name not in known:
            log.warning("no such setting; see `pillarbox config`", name=name)


def _announce(settings: Settings) -> None:
    click.echo(
        f"""
Pillarbox is ready.
  API           {settings.api_url}/api/v0.1/   (try it: {settings.api_url}/docs)
  Mail          smtp://{settings.smtp} for <address id>@{settings.domain}
  Submission    {_submission_shown(settings)}
  Credentials   {settings.data / CREDENTIALS_FILE}
Press Ctrl-C to stop.
"""
    )


def _submission_shown(settings: Settings) -> str:
    in_clear = [f"smtp://{listen} (STARTTLS)" for listen in settings.submission_places]
    in_tls = [f"smtps://{listen}" for listen in settings.submission_tls_places]
    return ", ".join([*in_clear, *in_tls]) or "off"
