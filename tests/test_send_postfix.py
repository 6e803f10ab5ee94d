"""Postfix as the receiving MX, found by a local DNS: what arrives there bears signatures that others accept."""

from __future__ import annotations

from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from core.sending.sending_domains import KeyAlgorithm
from core.services.accounts import create_account
from core.store.db import Database
from outbound.host_slots import HostSlots
from outbound.pool import ConnectionPool
from tests.dkim_judges import PAST_MS, dkimpy_accepts, perl_says, signer
from tests.mx_support import DOMAIN, HOST, edge_to
from tests.postfix_server import Postfix, running_postfix
from tests.scripted_smtp import Peer, Script, running_peer
from tests.send_support import MESSAGE_ID, SENDER_DOMAIN, Sends
from tests.test_finishing import RICH

KEYS = [signer(KeyAlgorithm.RSA), signer(KeyAlgorithm.ED25519)]


@pytest.fixture(scope="module")
def behind() -> Iterator[Peer]:
    """What Postfix hands everything on to, so that it can be looked at."""
    with running_peer(Script()) as running:
        yield running


@pytest.fixture(scope="module")
def postfix(behind: Peer) -> Iterator[Postfix]:
    with running_postfix(behind.port) as running:
        yield running


@pytest.fixture
def sends(tmp_path: Path) -> Iterator[Sends]:
    database = Database(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    database.migrate()
    made = Sends(database, create_account(database, "test", PAST_MS), tmp_path, now_ms=PAST_MS)
    made.add_domain(KEYS)
    yield made
    database.close()


def test_postfix_takes_it_and_others_accept_its_signatures(
    sends: Sends, postfix: Postfix, behind: Peer, tmp_path: Path
) -> None:
    recipients = [f"user{number}@{DOMAIN}" for number in range(5)]
    pool = ConnectionPool()
    with edge_to(postfix.port, pool=pool) as edge:
        way = sends.transport(edge, slots=HostSlots(2))
        tracked = sends.attempt_with(way, track_opens=True, track_clicks=True, track_text_clicks=True)
        sends.store(*recipients, content=RICH)
        sends.go(tracked)
        assert {state for state, *_ in sends.states()} == {"delivered"}
        for recipient in recipients:
            postfix.wait_for_log(f"to=<{recipient}>", "status=sent")
        for key in KEYS:
            record = key.pair.public_record
            edge.zone.add(key.record_name, "TXT", f'"{record[:200]}" "{record[200:]}"')
        arrived = [taken.content for taken in behind.taken]
        paths = []
        for number, content in enumerate(arrived):
            paths.append(tmp_path / str(number))
            paths[-1].write_bytes(content)
        assert perl_says(edge.zone.port, *map(str, paths)) == ["pass"] * 5
    for content in arrived:
        assert content.startswith(b"Received:")
        assert dkimpy_accepts(content, KEYS[0])
        assert message_from_bytes(content)["Message-ID"] == f"<{MESSAGE_ID}>"
    assert all(f"@mta.{SENDER_DOMAIN}>" in taken.mail_from for taken in behind.taken)
    assert len({taken.mail_from for taken in behind.taken}) == 5
    log = [line for line in postfix.log().splitlines() if "connect from" in line and "disconnect" not in line]
    assert len(log) <= 3  # one to see whether it is there, and ours that was kept
    details = dict(sends.events())["delivery"]
    assert (details["reply_code"], details["remote_host"]) == (250, HOST)
    assert "queued as" in details["smtp_response"]
