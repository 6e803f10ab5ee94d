"""One recipient of a sent mail against real hosts that refuse, delay, greylist and drop at every phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from core.clock import MINUTE_MS
from core.delivery import DeliveryKind
from core.sending.priority import Priority
from core.sending.sending_domains import KeyAlgorithm
from core.sending.verp import RETURN_HEADER, SECRET_NAME, ReturnPaths
from core.services.accounts import create_account
from core.services.secrets import shared_secret
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.dkim_judges import dkimpy_accepts, signer
from tests.mx_support import DOMAIN, HOST, SHORT, Edge, edge_to
from tests.scripted_smtp import Peer, Script, Trick, running_peer
from tests.send_support import GATEWAY, MESSAGE, MESSAGE_ID, SENDER_DOMAIN, Sends
from tests.tls_support import Trust, policy_file, secure_edge
from workers.sending import NOT_SENT, SendAttempt

RECIPIENT = f"user@{DOMAIN}"
LONGEST_PAUSE_MS = 400 * MINUTE_MS


@dataclass
class Way:
    """A customer with a domain, a host, and the way between them."""

    sends: Sends
    edge: Edge
    peer: Peer
    attempt: SendAttempt

    def go(self) -> str:
        """One attempt at what is due; the state of the oldest delivery."""
        self.sends.go(self.attempt)
        return str(self.sends.states()[0][0])

    def later(self) -> None:
        """To the next attempt."""
        self.sends.now_ms += LONGEST_PAUSE_MS


@pytest.fixture
def sends(tmp_path: Path) -> Iterator[Sends]:
    """On SQLite: what is tested here is the way to the host, not the database."""
    database = Database(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    database.migrate()
    made = Sends(database, create_account(database, "test", NOW_MS), tmp_path)
    made.add_domain([signer(KeyAlgorithm.RSA)])
    yield made
    database.close()


@contextmanager
def way_to(sends: Sends, script: Script, **settings: Any) -> Iterator[Way]:
    with running_peer(script) as peer, edge_to(peer.port, SHORT) as edge:
        yield Way(sends, edge, peer, sends.attempt_with(sends.transport(edge), **settings))


@pytest.fixture
def way(sends: Sends) -> Iterator[Way]:
    with way_to(sends, Script()) as running:
        yield running


# --- what arrives ---


def test_a_mail_arrives_signed_and_with_a_return_path_of_its_own(way: Way) -> None:
    (delivery_id,) = way.sends.store(RECIPIENT)
    assert way.go() == "delivered"
    (taken,) = way.peer.taken
    paths = ReturnPaths(shared_secret(way.sends.database, SECRET_NAME), way.sends.clock)
    assert taken.mail_from.startswith(f"MAIL FROM:<{paths.make(delivery_id, f'mta.{SENDER_DOMAIN}')}>")
    assert taken.recipients == [f"RCPT TO:<{RECIPIENT}>"]
    arrived = message_from_bytes(taken.content)
    assert arrived[RETURN_HEADER] == paths.local_part(delivery_id)
    assert arrived["Message-ID"] == f"<{MESSAGE_ID}>"
    assert taken.content.endswith(MESSAGE)


def test_its_steps_are_events(way: Way) -> None:
    way.peer.script.answers["."] = "250 2.0.0 queued as 7"
    way.sends.store(RECIPIENT)
    way.go()
    assert way.sends.events() == [
        ("dispatch", {}),
        (
            "delivery",
            {
                "reply_code": 250, "delivery_status": "2.0.0", "smtp_response": "250 2.0.0 queued as 7",
                "remote_host": HOST, "attempt": 1,
            },
        ),
    ]  # fmt: skip


def test_both_keys_sign(sends: Sends) -> None:
    keys = [signer(KeyAlgorithm.RSA), signer(KeyAlgorithm.ED25519)]
    sends.add_domain(keys, "both.example")
    sends.now_ms = 1_700_000_000_000
    with way_to(sends, Script()) as way:
        sends.store(RECIPIENT)
        way.go()
        content = way.peer.taken[0].content
    assert content.count(b"DKIM-Signature:") == 2
    assert content.index(b"a=rsa-sha256") < content.index(b"a=ed25519-sha256")


def test_bounces_come_to_the_gateway_where_the_domains_own_name_does_not_lead_here(sends: Sends) -> None:
    sends.add_domain([signer(KeyAlgorithm.RSA)], "new.example", has_return_path=False)
    with way_to(sends, Script()) as way:
        sends.store(RECIPIENT)
        way.go()
        assert f"@{GATEWAY}>" in way.peer.taken[0].mail_from


# --- what hosts do ---

PHASES = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", ".")
TROUBLES = {
    "greylisted": "451 4.7.1 come again",
    "closing": "421 4.3.2 shutting down",
    "hangs up": Trick.HANG_UP,
    "resets": Trick.RESET,
    "silent": Trick.STALL,
    "talks without end": Trick.FLOOD,
    "no SMTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("phase", PHASES)
def test_trouble_at_any_phase_is_temporary_and_the_mail_arrives_afterwards(
    sends: Sends, phase: str, trouble: str
) -> None:
    answer: Any = TROUBLES[trouble]
    usual = {"greeting": "220 hi", "EHLO": "250 mx.test", "DATA": "354 go on"}.get(phase, "250 2.0.0 ok")
    script = Script()
    if phase == "greeting":
        script.greeting = [answer, usual]
    else:
        script.answers[phase] = [answer, usual]
    with way_to(sends, script) as way:
        sends.store(RECIPIENT)
        assert way.go() == "pending"
        way.later()
        assert way.go() == "delivered"
        arrived = [message_from_bytes(taken.content)["Message-ID"] for taken in way.peer.taken]
    # After the final dot the host may have kept it, whatever it said: then it gets it twice, and can tell.
    assert arrived == [f"<{MESSAGE_ID}>"] * (2 if phase == "." else 1)
    assert sends.kinds() == ["dispatch", "dispatch_soft_bounce", "delivery"]
    details = dict(sends.events())["dispatch_soft_bounce"]
    assert details["attempt"] == 1
    assert details["delivery_status"].startswith("4.")
    assert details["next_attempt_at"].startswith("2026-")
    assert sends.suppressed() == []


def test_a_host_that_drops_in_the_middle_of_the_body_gets_it_again(sends: Sends) -> None:
    with way_to(sends, Script(content_limit=50, answers={".": Trick.HANG_UP})) as way:
        sends.store(RECIPIENT, content=MESSAGE + b"x" * 70 + b"\r\n")
        assert way.go() == "pending"
        way.peer.script.content_limit = None
        way.peer.script.answers.clear()
        way.later()
        assert way.go() == "delivered"
        assert len(way.peer.taken) == 1


@pytest.mark.parametrize("answer", ["454 4.7.0 TLS not available", Trick.HANG_UP, "220 go on"])
def test_a_starttls_that_fails_is_no_reason_to_keep_the_mail(sends: Sends, answer: Any) -> None:
    script = Script(features=("STARTTLS",), answers={"STARTTLS": [answer, "454 no"]})
    with way_to(sends, script) as way:
        sends.store(RECIPIENT)
        state = way.go()
        if state == "pending":
            way.later()
            state = way.go()
        assert state == "delivered"
        assert len(way.peer.taken) == 1


@pytest.mark.parametrize(
    ("reply", "kind", "suppressed"),
    [
        ("550 5.1.1 no such user", "bounce", [(RECIPIENT, "hard_bounce", None)]),
        ("550 5.7.1 your mail is spam", "soft_bounce", []),
        ("552 5.2.2 mailbox full", "soft_bounce", []),
        ("554 no", "soft_bounce", []),
    ],
)
def test_a_refusal_for_good_ends_it(sends: Sends, reply: str, kind: str, suppressed: list[Any]) -> None:
    with way_to(sends, Script(answers={"RCPT": reply})) as way:
        sends.store(RECIPIENT)
        assert way.go() == "rejected"
    (last, details) = sends.events()[-1]
    assert (last, details["smtp_response"], details["remote_host"]) == (kind, reply, HOST)
    assert sends.suppressed() == suppressed


@pytest.mark.parametrize("reply", ["553 no", "550 5.1.2 no such host", "550 5.2.1 disabled"])
def test_a_refusal_of_the_sender_is_no_word_against_the_recipient(sends: Sends, reply: str) -> None:
    with way_to(sends, Script(answers={"MAIL": reply})) as way:
        sends.store(RECIPIENT)
        assert way.go() == "rejected"
    (last, details) = sends.events()[-1]
    assert (last, details["severity"], sends.suppressed()) == ("soft_bounce", "block", [])


def test_one_recipients_refusal_does_not_hurt_another(sends: Sends) -> None:
    script = Script(answers={f"RCPT TO:<gone@{DOMAIN}>": "550 5.1.1 unknown", f"RCPT TO:<slow@{DOMAIN}>": "450 later"})
    with way_to(sends, script) as way:
        stored = sends.store(f"gone@{DOMAIN}", f"slow@{DOMAIN}", RECIPIENT)
        way.go()
        assert [sends.state(one)[0] for one in stored] == ["rejected", "pending", "delivered"]
        (taken,) = way.peer.taken
        assert taken.recipients == [f"RCPT TO:<{RECIPIENT}>"]
        (again,) = sends.store(f"gone@{DOMAIN}")
        assert sends.state(again) == ("suppressed", 0)


def test_what_was_queued_before_the_suppression_is_not_sent_either(sends: Sends) -> None:
    with way_to(sends, Script(answers={"RCPT": "550 5.1.1 unknown"})) as way:
        (first,) = sends.store(RECIPIENT)
        claimed = sends.claim().deliveries
        (second,) = sends.store(RECIPIENT)
        sends.record(*map(way.attempt, claimed))
        way.go()
        assert way.peer.connections == 1
    assert (sends.state(first), sends.state(second)) == (("rejected", 1), ("suppressed", 0))
    assert sends.events(second) == [
        ("suppressed", {"reason": "the recipient is on the suppression list (hard_bounce)"})
    ]


# --- what keeps it back ---


@pytest.mark.parametrize("table", ["account", "sending_domain"])
def test_what_is_paused_is_held(way: Way, table: str) -> None:
    way.sends.store(RECIPIENT)
    way.sends.execute(f"UPDATE {table} SET paused_ms = 1, paused_because = 'too many bounces'")
    assert way.go() == "quarantined"
    assert way.sends.states("attempts, last_error") == [(0, "sending is paused: too many bounces")]
    assert way.sends.events() == [("held", {"reason": "sending is paused: too many bounces"})]
    assert way.peer.connections == 0


def test_test_mode_sends_nothing(way: Way) -> None:
    way.sends.store(RECIPIENT, is_test=True)
    assert way.go() == "delivered"
    assert way.peer.connections == 0
    assert way.sends.events() == [
        ("dispatch", {"is_test": True}),
        ("delivery", {"reason": NOT_SENT, "attempt": 1, "is_test": True}),
    ]
    assert way.sends.execute("SELECT count(*) FROM target_health") == [(0,)]


@pytest.mark.parametrize("is_test", [False, True])
def test_a_message_that_cannot_be_signed_is_an_error(way: Way, is_test: bool) -> None:
    way.sends.store(RECIPIENT, content=b"From: a@sender.example\r\nno field\r\n\r\nHi\r\n", is_test=is_test)
    assert way.go() == "rejected"
    assert way.sends.kinds() == ["dispatch", "error"]
    assert "of the header is no field" in way.sends.events()[-1][1]["reason"]
    assert way.sends.suppressed() == []
    assert way.peer.connections == 0


def test_mail_waits_for_a_key_where_every_mail_must_be_signed(way: Way) -> None:
    way.sends.execute("UPDATE domain_key SET state = 'retired'")
    way.sends.store(RECIPIENT)
    assert way.go() == "pending"
    assert "no active DKIM key" in way.sends.events()[-1][1]["reason"]
    assert way.peer.connections == 0
    way.sends.execute("UPDATE domain_key SET state = 'active'")
    way.later()
    assert way.go() == "delivered"


def test_on_loopback_mail_goes_unsigned(sends: Sends) -> None:
    sends.domain_id = None
    with way_to(sends, Script(), require_verified="off") as way:
        sends.store(RECIPIENT)
        assert way.go() == "delivered"
        assert b"DKIM-Signature" not in way.peer.taken[0].content
        assert f"@{GATEWAY}>" in way.peer.taken[0].mail_from


def test_content_that_cannot_be_read_is_our_fault_and_waits(way: Way) -> None:
    way.sends.store(RECIPIENT, content=None)
    assert way.go() == "pending"
    assert way.sends.kinds() == ["dispatch", "dispatch_soft_bounce"]
    assert way.sends.execute("SELECT count(*) FROM target_health") == [(0,)]
    assert way.peer.connections == 0


def test_large_content_comes_from_the_blob_store(way: Way, tmp_path: Path) -> None:
    (message_id,) = ("01990000-0000-7000-8000-00000000abcd",)
    content = MESSAGE + b"y" * 70 + b"\r\n"
    way.sends.store(RECIPIENT, content=None, message_id=message_id)
    shard = tmp_path / "messages" / message_id[-2:]
    shard.mkdir(parents=True)
    (shard / message_id).write_bytes(content)
    assert way.go() == "delivered"
    assert way.peer.taken[0].content.endswith(content)


def test_a_key_that_cannot_be_used_is_our_fault_and_waits(way: Way) -> None:
    way.sends.execute("UPDATE domain_key SET private_pem = 'rubbish'")
    way.sends.store(RECIPIENT)
    assert way.go() == "pending"
    assert way.sends.events()[-1][1]["reason"].startswith("an error of ours")


def test_a_row_of_another_version_is_left_and_the_others_go(way: Way) -> None:
    (odd,) = way.sends.store(RECIPIENT)
    (usual,) = way.sends.store(RECIPIENT)
    way.sends.execute("UPDATE sent_message SET options = '{' WHERE message_id = ?", (way.sends.stored[0],))
    way.go()
    assert (way.sends.state(odd)[0], way.sends.state(usual)[0]) == ("pending", "delivered")


# --- where it goes ---


def test_a_domain_that_takes_no_mail_is_a_bounce(way: Way) -> None:
    way.edge.zone.add(DOMAIN, "MX", "0 .")
    way.sends.store(RECIPIENT)
    assert way.go() == "rejected"
    assert way.sends.events()[-1][0] == "bounce"
    assert way.sends.events()[-1][1]["delivery_status"] == "5.1.10"
    assert way.sends.suppressed() == [(RECIPIENT, "hard_bounce", None)]


def test_a_domain_without_mx_gets_it_at_its_own_address(way: Way) -> None:
    del way.edge.zone.records[(DOMAIN, "MX")]
    way.edge.zone.add(DOMAIN, "A", "127.0.0.1")
    way.sends.store(RECIPIENT)
    assert way.go() == "delivered"


def test_an_international_domain_is_found_by_its_a_labels(way: Way) -> None:
    way.edge.zone.mx("xn--bcher-kva.test", HOST)
    way.sends.store("user@xn--bcher-kva.test")
    assert way.go() == "delivered"
    assert way.peer.taken[0].recipients == ["RCPT TO:<user@xn--bcher-kva.test>"]


def test_a_dns_that_fails_delays(way: Way) -> None:
    way.edge.zone.failing.add(DOMAIN)
    way.sends.store(RECIPIENT)
    assert way.go() == "pending"
    way.edge.zone.failing.clear()
    way.later()
    assert way.go() == "delivered"


def test_an_mta_sts_policy_that_is_not_met_keeps_the_mail(sends: Sends, tmp_path: Path) -> None:
    with running_peer(Script()) as peer, secure_edge(peer.port, Trust.make(tmp_path)) as edge:
        edge.serve(policy_file(), "1")
        sends.store(RECIPIENT)
        sends.go(sends.attempt_with(edge.transport))
        assert peer.taken == []
    assert sends.states("state")[0] == ("pending",)
    assert sends.events()[-1][1]["delivery_status"] == "4.7.10"


def test_each_priority_has_its_queue(way: Way) -> None:
    for priority in Priority:
        way.sends.store(RECIPIENT, priority=priority)
    way.sends.go(way.attempt, DeliveryKind.SEND_PRIORITY)
    way.sends.go(way.attempt, DeliveryKind.SEND_DIGEST)
    assert sorted(way.sends.states("kind, state")) == [
        ("send", "pending"), ("send_digest", "delivered"), ("send_priority", "delivered"),
    ]  # fmt: skip


def test_dkimpy_accepts_what_arrives(sends: Sends) -> None:
    sends.now_ms = 1_700_000_000_000
    with way_to(sends, Script()) as way:
        sends.store(RECIPIENT)
        way.go()
        assert dkimpy_accepts(way.peer.taken[0].content, signer(KeyAlgorithm.RSA))
        tampered = way.peer.taken[0].content.replace(b"Your order", b"Your ardor")
        assert not dkimpy_accepts(tampered, signer(KeyAlgorithm.RSA))
