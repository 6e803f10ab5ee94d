"""Connections to mail hosts: how many at once, and from which address of ours."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from core.clock import system_clock
from core.config import Settings
from core.delivery import MAIL_KINDS, Verdict
from core.fairness import HEALTHY, mail_health_after
from core.sending.send_settings import SendSettings
from core.sending.sending_domains import KeyAlgorithm
from core.services.accounts import create_account
from core.store.db import Database
from outbound import machines
from outbound.host_slots import SLOW_FOR_S, HostBusy, HostSlots
from outbound.mail import Urgency
from outbound.mx import MxTransport, mx_transport_for
from outbound.pool import NO_REUSE, ConnectionPool, PoolLimits
from outbound.smtp_client import SmtpConnection
from outbound.source_addresses import SourceAddresses
from outbound.timing import Deadline
from tests.conftest import NOW_MS
from tests.dkim_judges import signer
from tests.mx_support import DOMAIN, HOST, LONG, MAIL, SECOND_HOST, Edge, edge_to
from tests.scripted_smtp import Answer, Peer, Script, running_peer
from tests.send_support import Sends
from workers.transports import open_transports

THREADS = 32
MACHINE = ("192.0.2.1", 25)


class SlowScript(Script):
    """Takes its time over each message."""

    def pick(self, verb: str, line: str) -> Answer | None:
        if verb == ".":
            time.sleep(0.01)
        return super().pick(verb, line)


@dataclass
class Crowd:
    """The connections that we have, and how many there were at once at most."""

    open: set[int] = field(default_factory=set)
    most: int = 0


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Crowd:
    counted, lock = Crowd(), threading.Lock()
    connect, close = SmtpConnection._connect, SmtpConnection.close

    def counting_connect(connection: SmtpConnection, deadline: Deadline) -> None:
        with lock:
            counted.open.add(id(connection))
            counted.most = max(counted.most, len(counted.open))
        connect(connection, deadline)

    def counting_close(connection: SmtpConnection) -> None:
        close(connection)
        with lock:
            counted.open.discard(id(connection))

    monkeypatch.setattr(SmtpConnection, "_connect", counting_connect)
    monkeypatch.setattr(SmtpConnection, "close", counting_close)
    return counted


def transport(edge: Edge, slots: HostSlots | None = None, sources: SourceAddresses | None = None) -> MxTransport:
    """Over an edge, with what is tested here."""
    route = edge.transport._route
    return MxTransport(
        route, edge.guard, "mx.us.test", system_clock, edge.pool, edge.timeouts, slots=slots, sources=sources
    )


# --- how many at once ---


def test_many_threads_share_few_connections(crowd: Crowd) -> None:
    pool = ConnectionPool(PoolLimits(per_place=10))
    with running_peer(SlowScript()) as peer, edge_to(peer.port, pool=pool) as edge:
        way = transport(edge, HostSlots(10))
        with ThreadPoolExecutor(THREADS) as threads:
            results = list(threads.map(lambda _: way.deliver(MAIL)[0], range(300)))
        assert {result.outcome.verdict for result in results} == {Verdict.ACCEPTED}
        assert (len(peer.taken), crowd.most, peer.connections) == (300, 10, 10)


def test_names_and_sources_that_lead_to_one_machine_share_them_too(crowd: Crowd) -> None:
    domains = [f"d{number}.test" for number in range(6)]
    with running_peer(SlowScript(), address="0.0.0.0") as peer, edge_to(peer.port, pool=ConnectionPool()) as edge:
        for domain in domains:
            edge.zone.mx(domain, f"mx.{domain}")
        way = transport(edge, HostSlots(3), SourceAddresses(("127.0.0.2", "127.0.0.3")))
        mails = [replace(MAIL, recipients=(f"user@{domains[number % 6]}",)) for number in range(60)]
        with ThreadPoolExecutor(12) as threads:
            results = list(threads.map(lambda mail: way.deliver(mail)[0], mails))
        assert {result.outcome.verdict for result in results} == {Verdict.ACCEPTED}
        assert (len(peer.taken), crowd.most) == (60, 3)


def test_waiting_has_an_end_and_says_nothing_against_the_host() -> None:
    slots = HostSlots(1)
    timeouts = replace(LONG, wait_s=0.5)
    with running_peer(Script()) as peer, edge_to(peer.port, timeouts) as edge:
        with slots.place(("127.0.0.1", peer.port), Urgency.STANDARD, Deadline(1)):
            (result,) = transport(edge, slots).deliver(MAIL)
        assert peer.connections == 0
    assert (result.outcome.verdict, result.enhanced, result.outcome.is_our_fault) == (Verdict.BUSY, "4.4.5", True)
    assert mail_health_after(HEALTHY, result.outcome, NOW_MS) == HEALTHY
    assert result.outcome.duration_ms < 450  # waiting is no delay of the host's


def test_a_place_that_is_free_goes_to_the_most_urgent_then_to_who_came_first() -> None:
    slots, served = HostSlots(1), []
    order = [Urgency.DIGEST, Urgency.STANDARD, Urgency.PRIORITY, Urgency.STANDARD, Urgency.PRIORITY]

    def wait(number: int) -> None:
        with slots.place(MACHINE, order[number], Deadline(10)):
            served.append(number)

    with ThreadPoolExecutor(5) as threads, slots.place(MACHINE, Urgency.STANDARD, Deadline(1)):
        for number in range(5):
            threads.submit(wait, number)
            while len(slots._hosts[MACHINE].waiting) <= number:
                time.sleep(0.001)
    assert served == [2, 4, 1, 3, 0]


def test_places_are_given_back_whatever_happens() -> None:
    slots = HostSlots(2)
    with pytest.raises(RuntimeError), slots.place(MACHINE, Urgency.STANDARD, Deadline(1)):
        raise RuntimeError
    with slots.place(MACHINE, Urgency.STANDARD, Deadline(1)), slots.place(MACHINE, Urgency.STANDARD, Deadline(1)):
        assert slots.room(MACHINE) == 0
        with pytest.raises(HostBusy), slots.place(MACHINE, Urgency.PRIORITY, Deadline(0.01)):
            raise AssertionError
    assert slots.room(MACHINE) == 2
    assert slots._hosts == {}


def test_where_one_has_waited_in_vain_one_of_each_urgency_waits_for_a_while_and_nobody_else() -> None:
    now_s = 0.0
    slots, seen = HostSlots(1, lambda: now_s), []

    def wait(urgency: Urgency, patience_s: float) -> None:
        try:
            with slots.place(MACHINE, urgency, Deadline(patience_s)):
                seen.append(urgency)
        except HostBusy:
            seen.append(None)

    with ThreadPoolExecutor(8) as threads, slots.place(MACHINE, Urgency.STANDARD, Deadline(1)):
        wait(Urgency.STANDARD, 0.01)
        firsts = [threads.submit(wait, urgency, 30) for urgency in Urgency]
        while len(slots._hosts[MACHINE].waiting) < 3:
            time.sleep(0.001)
        begun = time.monotonic()
        for urgency in Urgency:
            wait(urgency, 30)
        assert time.monotonic() - begun < 0.5
        now_s = SLOW_FOR_S
        wait(Urgency.STANDARD, 0.01)  # it may wait again, and does so in vain
        assert len(slots._hosts[MACHINE].waiting) == 3
    for first in firsts:
        first.result(10)
    assert seen == [None] * 5 + [Urgency.PRIORITY, Urgency.STANDARD, Urgency.DIGEST]


def test_a_busy_host_sends_nobody_to_a_less_preferred_one_but_to_its_equals() -> None:
    slots = HostSlots(1)
    with running_peer(Script()) as peer, running_peer(Script(), address="127.0.0.2", port=peer.port) as second:
        with edge_to(peer.port, replace(LONG, wait_s=0.05)) as edge:
            edge.add_second_host()
            with slots.place(("127.0.0.1", peer.port), Urgency.STANDARD, Deadline(1)):
                assert transport(edge, slots).deliver(MAIL)[0].outcome.verdict is Verdict.BUSY
                edge.zone.add(DOMAIN, "MX", f"10 {HOST}.", f"10 {SECOND_HOST}.")
                assert transport(edge, slots).deliver(MAIL)[0].host == SECOND_HOST
        assert (peer.connections, second.connections) == (0, 1)


def test_what_a_host_said_counts_more_than_that_another_was_busy() -> None:
    slots = HostSlots(1)
    with running_peer(Script()) as peer:
        script = Script(greeting="450 4.3.2 later")
        with running_peer(script, address="127.0.0.2", port=peer.port), edge_to(peer.port) as edge:
            edge.zone.add(SECOND_HOST, "A", "127.0.0.2")
            edge.zone.mx(DOMAIN, SECOND_HOST, HOST)
            edge.timeouts = replace(LONG, wait_s=0.05)
            with slots.place(("127.0.0.1", peer.port), Urgency.STANDARD, Deadline(1)):
                (result,) = transport(edge, slots).deliver(MAIL)
    assert (result.outcome.verdict, result.outcome.status) == (Verdict.TEMPORARY, 450)


def test_the_machine_of_a_domain_is_known_after_its_first_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "REMEMBERED", 3)
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        way = transport(edge)
        assert way.machines.machine_of(f"mailto://{DOMAIN}") is None
        way.deliver(MAIL)
        machine = way.machines.machine_of(f"mailto://{DOMAIN}")
        assert machine == f"127.0.0.1 {peer.port}"
        for number in range(3):
            edge.zone.mx(f"d{number}.test", HOST)  # a host of many domains
            way.deliver(replace(MAIL, recipients=(f"user@D{number}.test",)))
        assert [way.machines.machine_of(f"mailto://d{number}.test") for number in range(3)] == [machine] * 3
        assert way.machines.machine_of(f"mailto://{DOMAIN}") is None  # forgotten


def test_with_a_relay_all_mail_goes_to_one_machine(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, smart_host="127.0.0.1:25", domain="us.test")
    way = mx_transport_for(settings, system_clock, ConnectionPool())
    assert way.machines.machine_of("mailto://a.test") == way.machines.machine_of("mailto://b.test") is not None


def test_all_mail_of_a_worker_is_counted_by_machine(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, smart_host="127.0.0.1:25", domain="us.test", connections_per_host=7)
    made = open_transports(settings, Database(f"sqlite:///{tmp_path / 'test.sqlite3'}"), system_clock)
    machine_of = {kind: one.line.machine_of("mailto://a.test") for kind, one in made.items()}
    assert {kind for kind, machine in machine_of.items() if machine is not None} == set(MAIL_KINDS)
    assert len({machine_of[kind] for kind in MAIL_KINDS}) == 1
    assert {made[kind].host_concurrency for kind in MAIL_KINDS} == {2 * 7}


def test_a_crowd_that_comes_and_gives_up_leaves_no_place_behind() -> None:
    slots = HostSlots(3)

    def hurry(number: int) -> None:
        try:
            with slots.place(MACHINE, Urgency(number % 3), Deadline(0.001 * (number % 5))):
                time.sleep(0.001)
        except HostBusy:
            pass

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(hurry, range(2_000)))
    assert slots._hosts == {}


# --- from which address ---


def test_a_domain_always_sees_the_same_address_and_all_are_used() -> None:
    sources = SourceAddresses(("192.0.2.1", "192.0.2.2", "2001:db8::1"))
    domains = [f"d{number}.test" for number in range(200)]
    chosen = {domain: sources.choose(domain, "198.51.100.1") for domain in domains}
    assert set(chosen.values()) == {"192.0.2.1", "192.0.2.2"}
    assert chosen == {domain: sources.choose(domain, "198.51.100.9") for domain in domains}
    more = SourceAddresses(("192.0.2.2", "192.0.2.3", "192.0.2.1"))
    moved = [domain for domain in domains if more.choose(domain, "198.51.100.1") != chosen[domain]]
    assert 40 < len(moved) < 95  # a third; and all of them to the new one
    assert {more.choose(domain, "198.51.100.1") for domain in moved} == {"192.0.2.3"}


def test_families_match_and_a_wish_counts_only_for_one_of_ours() -> None:
    sources = SourceAddresses(("192.0.2.1", "192.0.2.2", "2001:db8::1"))
    assert sources.choose("a.test", "2001:db8::99") == "2001:db8::1"
    assert {sources.choose(f"d{n}.test", "198.51.100.1", "192.0.2.2") for n in range(20)} == {"192.0.2.2"}
    assert sources.choose("a.test", "198.51.100.1", "2001:db8::1") in ("192.0.2.1", "192.0.2.2")
    assert sources.choose("a.test", "198.51.100.1", "10.0.0.1") in ("192.0.2.1", "192.0.2.2")
    assert SourceAddresses(("192.0.2.1",)).choose("a.test", "2001:db8::99") is None
    assert SourceAddresses().choose("a.test", "198.51.100.1", "192.0.2.1") is None


@pytest.fixture
def came_from(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses from which peers were connected to."""
    seen: list[str] = []
    serve = Peer.serve

    def noting(peer: Peer, connection: socket.socket) -> None:
        seen.append(connection.getpeername()[0])
        serve(peer, connection)

    monkeypatch.setattr(Peer, "serve", noting)
    return seen


def test_connections_come_from_there_and_are_kept_for_each(came_from: list[str]) -> None:
    with running_peer(Script()) as peer, edge_to(peer.port, pool=ConnectionPool()) as edge:
        way = transport(edge, sources=SourceAddresses(("127.0.0.5", "127.0.0.6")))
        for wish in ("127.0.0.6", "127.0.0.5", "127.0.0.6", "127.0.0.5"):
            assert way.deliver(replace(MAIL, source_ip=wish))[0].outcome.verdict is Verdict.ACCEPTED
        assert came_from == ["127.0.0.6", "127.0.0.5"]


def test_an_address_that_is_not_ours_is_our_fault() -> None:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        (result,) = transport(edge, sources=SourceAddresses(("192.0.2.77",))).deliver(MAIL)
    assert (result.outcome.verdict, result.outcome.is_our_fault) == (Verdict.TEMPORARY, True)
    assert "from 192.0.2.77" in (result.outcome.error or "")


def test_a_domain_that_has_an_address_of_its_own_sends_from_it(tmp_path: Path, came_from: list[str]) -> None:
    database = Database(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    database.migrate()
    sends = Sends(database, create_account(database, "test", NOW_MS), tmp_path)
    ours = SourceAddresses(tuple(f"127.0.0.{number}" for number in range(10, 30)))
    with running_peer(Script()) as peer, edge_to(peer.port, pool=ConnectionPool(NO_REUSE)) as edge:
        attempt = sends.attempt_with(sends.transport(edge, sources=ours))
        for number, wish in enumerate(("127.0.0.21", "127.0.0.12", None)):
            sends.add_domain([signer(KeyAlgorithm.RSA)], f"d{number}.example", settings=SendSettings(source_ip=wish))
            sends.execute("""UPDATE account SET settings = '{"source_ip":"127.0.0.29"}'""")
            sends.store(f"user@{DOMAIN}")
            sends.go(attempt)
            assert came_from[-1] == (wish or "127.0.0.29")
    database.close()


def test_the_way_to_a_relay_is_the_systems_choice(came_from: list[str]) -> None:
    with running_peer(Script()) as peer:
        settings = Settings(smart_host=f"127.0.0.1:{peer.port}", source_ips="127.0.0.9", domain="us.test")
        mx_transport_for(settings, system_clock, ConnectionPool(NO_REUSE)).deliver(MAIL)
    assert came_from == ["127.0.0.1"]


def test_the_settings_reach_the_transport(came_from: list[str]) -> None:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        settings = Settings(
            source_ips="127.0.0.9", domain="us.test", resolver=f"127.0.0.1:{edge.zone.port}", connections_per_host=7,
            allow_private_targets="loopback",
        )  # fmt: skip
        way = mx_transport_for(settings, system_clock, ConnectionPool(NO_REUSE), port=peer.port)
        assert way.deliver(MAIL)[0].host == HOST
        assert came_from == ["127.0.0.9"]
        assert way._slots.room(("127.0.0.1", peer.port)) == 7
