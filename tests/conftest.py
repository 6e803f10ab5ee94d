"""Fixtures shared by all tests: a migrated database of either kind, emptied for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest

from core.logs import configure_logging
from core.services.accounts import NewAccount, create_account
from core.store.db import Database
from tests.authentication_zones import ZoneServer, running_zones
from tests.postgres_server import running_postgres
from tests.sending_world import SendingWorld, sending_world

NOW_MS = 1_790_000_000_000
"""The moment at which most tests happen."""
TABLES = (
    "account, credential, address, custom_domain, message, raw_message, delivery, attempt, target_health, rule, "
    "secret, sending_domain, domain_key, sent_message, webhook, event, suppression, soft_bounce, layout, "
    "idempotency, send_rate, send_tally, tracking_hit"
)

# Continuous integration tries the same examples each time: what it says is about the change, not about the day. Whoever
# runs the tests by hand tries others.
hypothesis.settings.register_profile("same each time", derandomize=True)
if os.environ.get("PILLARBOX_TEST_NO_SKIP") == "1":
    hypothesis.settings.load_profile("same each time")


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """Log as the product does: structlog's default prints tracebacks with all local variables, which takes seconds."""
    configure_logging("info")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server for this test process."""
    with running_postgres() as url:
        database = Database(url)
        database.migrate()
        database.close()
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty, migrated database: each test that asks for it runs on both kinds."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'test.sqlite3'}"
        _migrate(url)
        return url
    url = request.getfixturevalue("postgres_url")
    _empty(url)
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty, migrated database of either kind."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def sending(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SendingWorld]:
    """A whole gateway with all that sending needs around it, on either database; all tests of this process share it,
    and use recipients of their own."""
    url = None
    if request.param == "postgres":
        url = _further_database(request.getfixturevalue("postgres_url"), "sending")
    with sending_world(tmp_path_factory.mktemp("sending"), url) as started:
        started.verified_domain()
        yield started


@pytest.fixture
def account(database: Database) -> NewAccount:
    """An account with its keys in clear."""
    return create_account(database, "test", NOW_MS)


@pytest.fixture(scope="module")
def zone_server() -> Iterator[ZoneServer]:
    """A DNS server of one test module; ask for `zones`."""
    with running_zones() as running:
        yield running


@pytest.fixture
def zones(zone_server: ZoneServer) -> ZoneServer:
    """A DNS server with nothing in it."""
    zone_server.clear()
    return zone_server


def _further_database(url: str, name: str) -> str:
    """Another database on the same server."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return url.replace("/postgres?", f"/{name}?")


def _migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


def _empty(url: str) -> None:
    database = Database(url)
    with database.transaction():
        database.execute(f"TRUNCATE {TABLES} CASCADE")
    database.close()
