"""When mail leaves, through a whole gateway: at its time, never, ahead of others, or after a pause."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from core.delivery import SEND_KINDS
from core.sending.pacing import DIGESTS_A_MINUTE
from tests.sending_world import ODD, PEOPLE, PacedScript, SendingWorld, path

SOON_S = 1.5
BACKLOG = 120
"""Mails that wait, in messages of 20 recipients."""
SLOW_S = 0.1
JUMPED = 30
"""At most so many of the backlog go between a priority mail's 202 and itself: those on their way, and some that finish
meanwhile."""
BURST = 60
DIGEST = 6
SENDING = ", ".join(f"'{kind}'" for kind in SEND_KINDS)
ON_THEIR_WAY = f"SELECT count(*) FROM delivery WHERE lease_token IS NOT NULL AND kind IN ({SENDING})"


@pytest.fixture
def world(sending: SendingWorld) -> Iterator[SendingWorld]:
    """Whose odd peer is slow for those who ask for it."""
    yield sending
    script(sending).pause_s = 0
    script(sending).gate.set()


def script(world: SendingWorld) -> PacedScript:
    found = world.odd.script
    assert isinstance(found, PacedScript)
    return found


def rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- at its time, or never --------------------------------------------------------------------------------------------


def test_scheduled_mail_leaves_at_its_time_and_not_before(world: SendingWorld) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=SOON_S)
    message_id = world.send(f"later@{PEOPLE}", send_at=rfc3339(moment))
    at_once = world.send(f"at-once@{PEOPLE}")
    assert world.kinds(message_id) == ["registration"]
    world.wait_for_kind(at_once, "delivery")
    event = world.wait_for_kind(message_id, "dispatch")
    assert datetime.fromisoformat(event["timestamp"]) >= moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert len(world.arrived(f"later@{PEOPLE}")) == 1


def test_mail_that_is_taken_back_never_leaves(world: SendingWorld) -> None:
    recipient = f"taken-back@{PEOPLE}"
    message_id = world.send(recipient, send_at=rfc3339(datetime.now(UTC) + timedelta(hours=1)))
    cancelled = world.gateway.api("DELETE", f"/messages/{message_id}", 202)
    assert [one["state"] for one in cancelled["recipients"]] == ["cancelled"]
    world.make_due()
    world.wait_for_kind(world.send(recipient), "delivery")
    assert len(world.arrived(recipient)) == 1
    assert world.kinds(message_id) == ["registration", "cancelled"]
    assert "cannot be taken back" in world.gateway.api("DELETE", f"/messages/{message_id}", 409)["error"]


def test_mail_in_test_mode_reaches_nobody(world: SendingWorld) -> None:
    seen = len(world.odd.lines)
    message_id = world.send([f"test-mode@{ODD}", f"test-mode-too@{ODD}"], test_mode=True)
    event = world.wait_for_kind(message_id, "delivery")
    assert event["details"]["is_test"] is True
    world.wait_until(
        lambda: {one["last_event"] for one in world.shown(message_id)["recipients"]} == {"delivery"}, "not both"
    )
    assert len(world.odd.lines) == seen


# --- ahead of others --------------------------------------------------------------------------------------------------


def test_priority_overtakes_a_backlog(world: SendingWorld) -> None:
    script(world).pause_s = SLOW_S
    before = len(world.odd.taken)
    for batch in range(BACKLOG // 20):
        world.send([f"backlog-{batch}-{number}@{ODD}" for number in range(20)])
    world.wait_until(lambda: len(world.odd.taken) > before, "the backlog does not move")
    world.send(f"urgent@{ODD}", priority="priority")
    accepted = len(world.odd.taken)
    world.arrived(f"urgent@{ODD}")
    order = [path(taken.recipients[0]) for taken in world.odd.taken]
    assert order.index(f"urgent@{ODD}") - accepted <= JUMPED
    script(world).pause_s = 0
    world.wait_until(lambda: len(world.odd.taken) == before + BACKLOG + 1, "the backlog has not gone")


def test_a_digest_is_spread_out(world: SendingWorld) -> None:
    message_id = world.send([f"digest-{number}@{ODD}" for number in range(DIGEST)], priority="digest")

    def moments(kind: str) -> list[datetime]:
        everyone = world.shown(message_id)["recipients"]
        told = [event for one in everyone for event in one["events"] if event["kind"] == kind]
        return sorted(datetime.fromisoformat(event["timestamp"]) for event in told)

    world.wait_until(lambda: len(moments("dispatch")) == DIGEST, "not all have left")
    accepted = moments("registration")[0]
    for number, moment in enumerate(moments("dispatch")):  # later is no fault: the machine may be busy
        assert (moment - accepted).total_seconds() >= number * 60 / DIGESTS_A_MINUTE - 0.002


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_nothing_leaves_in_a_pause_and_all_of_it_after(world: SendingWorld) -> None:
    """A customer sends without a break while his domain is paused and resumed."""
    script(world).gate.clear()  # so that many wait for a connection when the pause begins
    recipients = [f"burst-{number}@{ODD}" for number in range(BURST)]
    (domain,) = [one for one in world.gateway.api("GET", "/sending_domains") if one["domain"] == "shop.test"]
    place = f"?sending_domain_id={domain['id']}"
    sent: list[str] = []
    reached_half = threading.Event()

    def burst() -> None:
        for recipient in recipients:
            sent.append(world.send(recipient))
            if len(sent) == BURST // 2:
                reached_half.set()

    sender = threading.Thread(target=burst)
    sender.start()
    assert reached_half.wait(30)
    world.gateway.api("POST", f"/sending_pause{place}", reason="to see what happens")
    script(world).gate.set()
    try:
        world.wait_until(lambda: world.execute(ON_THEIR_WAY) == [(0,)], "mail is still on its way")
        left = len(world.odd.taken)
        assert set(recipients[: BURST // 2]) - set(received(world)), "all that was taken before had left"
        sender.join(30)
        assert len(sent) == BURST
        held = len(world.gateway.api("GET", "/held_messages?per_page=100"))
        assert held > BURST // 2
        assert world.kinds(sent[-1]) == ["registration", "held"]
        assert len(world.odd.taken) == left
    finally:  # the world is everyone's
        resumed = world.gateway.api("POST", f"/sending_resume{place}", 202)
    assert resumed["released"] >= held
    world.wait_until(lambda: set(recipients) <= set(received(world)), "not all have left")
    counts = received(world)
    assert {counts[recipient] for recipient in recipients} == {1}
    world.wait_for_kind(sent[-1], "delivery")
    assert world.kinds(sent[-1]) == ["registration", "held", "dispatch", "delivery"]


def received(world: SendingWorld) -> Counter[str]:
    """How often the odd peer has got something for whom."""
    return Counter(path(line) for taken in world.odd.taken for line in taken.recipients)
