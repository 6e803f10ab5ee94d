"""`pillarbox up`: the whole gateway in the foreground."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request

import click
import redis
import structlog

from cli.redis_server import redis_command
from cli.setup import CREDENTIALS_FILE, prepare
from cli.supervisor import POLL_S, Program, Supervisor, child_environment, pillarbox_command
from core.config import Settings
from core.errors import ConfigurationError
from workers.doorbell import open_redis

REDIS_START_S = 10.0
READY_S = 60.0
HEALTH_TIMEOUT_S = 3.0

log = structlog.get_logger("up")


def run_everything(settings: Settings) -> None:
    """Set up, start, wait until ready, and look after it all until SIGINT or SIGTERM."""
    prepare(settings).close()
    supervisor = Supervisor(_programs(settings), child_environment())
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: supervisor.request_stop())
    try:
        if not settings.redis_url:
            supervisor.start("redis")
            _wait_for_redis(settings, supervisor)
        supervisor.start_all()
        _announce_when_ready(settings, supervisor)
        supervisor.run()
    finally:
        click.echo("Stopping; mail in flight is finished first.")
        supervisor.stop()
        click.echo("Stopped.")


def _programs(settings: Settings) -> list[Program]:
    """No new mail first, then no new work; Redis goes last, since the others use it."""
    receivers = [Program(f"smtp-{n}", pillarbox_command("smtp"), 0) for n in range(1, settings.receivers + 1)]
    workers = [Program(f"worker-{n}", pillarbox_command("worker"), 0) for n in range(1, settings.workers + 1)]
    rest = [Program("web", pillarbox_command("web"), 0), Program("scheduler", pillarbox_command("scheduler"), 0)]
    own_redis = [] if settings.redis_url else [Program("redis", redis_command(settings), 1)]
    return [*own_redis, *receivers, *workers, *rest]


def _wait_for_redis(settings: Settings, supervisor: Supervisor) -> None:
    connection = open_redis(settings.redis_location)
    deadline = time.monotonic() + REDIS_START_S
    while not supervisor.is_stopping:
        try:
            connection.ping()
            return
        except redis.RedisError as error:
            if time.monotonic() > deadline:
                raise ConfigurationError(f"the private Redis server does not start; see redis.log ({error})") from error
        supervisor.watch_once()
        time.sleep(POLL_S)


def _announce_when_ready(settings: Settings, supervisor: Supervisor) -> None:
    deadline = time.monotonic() + READY_S
    problem = ""
    while not supervisor.is_stopping and time.monotonic() < deadline:
        problem = _health_problem(settings)
        if not problem:
            _announce(settings)
            return
        supervisor.watch_once()
        time.sleep(POLL_S)
    if not supervisor.is_stopping:
        log.error("not ready yet; still trying", reason=problem)


def _health_problem(settings: Settings) -> str:
    """Why `/healthz` is not content; empty when it is."""
    url = f"http://{settings.http.reachable_host}:{settings.http.port}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=HEALTH_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        checks = json.loads(error.read() or b"{}").get("checks", {})
        return ", ".join(name for name, check in checks.items() if not check.get("ok")) or str(error)
    except (OSError, ValueError) as error:
        return f"web: {error}"


def _announce(settings: Settings) -> None:
    click.echo(
        f"""
Pillarbox is ready.
  API           {settings.api_url}/api/v0.1/   (try it: {settings.api_url}/openapi/)
  Mail          smtp://{settings.smtp} for <address id>@{settings.domain}
  Credentials   {settings.data / CREDENTIALS_FILE}
Press Ctrl-C to stop.
"""
    )
