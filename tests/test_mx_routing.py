"""From domain to host: MX records of every kind, from a real DNS server, and hosts that are passed over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import Settings
from core.delivery import Verdict
from core.errors import ConfigurationError
from core.mx_check import make_resolver
from core.netguard import TargetPolicy
from core.smart_host import read_relay
from outbound.hosts import MAX_HOSTS, HostAddress, MxRoute, NoRoute, SmartHost, route_for
from outbound.mail import OutgoingMail
from outbound.mx import MAX_PLACES, MxTransport, mx_transport_for
from outbound.pool import NO_REUSE, ConnectionPool
from outbound.timing import Deadline
from tests.mx_support import CONTENT, DOMAIN, HOST, MAIL, RECIPIENT, SECOND_HOST, SENDER, SHORT, edge_to
from tests.scripted_smtp import Script, Trick, running_peer
from tests.zone_server import Zone, running_zone


@pytest.fixture
def zone() -> Iterator[Zone]:
    with running_zone() as running:
        yield running


def places(zone: Zone, domain: str = DOMAIN, seconds: float = 20.0) -> list[tuple[str, str]]:
    """Host and address of each place, in order."""
    route = MxRoute(make_resolver(f"127.0.0.1:{zone.port}"), 25, shuffle=lambda names: names.sort())
    return [(place.host, place.address) for place in route.places(domain, Deadline(seconds))]


def refusal(zone: Zone, domain: str = DOMAIN) -> tuple[Verdict, str]:
    """The verdict and status when there is no place."""
    with pytest.raises(NoRoute) as refused:
        places(zone, domain)
    return refused.value.judgement.verdict, refused.value.judgement.enhanced


def test_hosts_come_by_preference_with_ipv4_first(zone: Zone) -> None:
    zone.add(DOMAIN, "MX", "20 b.test.", "10 A.Test.", "20 c.test.")
    zone.add("a.test", "A", "192.0.2.1")
    zone.add("a.test", "AAAA", "2001:db8::1")
    zone.add("b.test", "AAAA", "2001:db8::2")
    zone.add("c.test", "A", "192.0.2.3")
    assert places(zone) == [
        ("a.test", "192.0.2.1"), ("a.test", "2001:db8::1"), ("b.test", "2001:db8::2"),
        ("c.test", "192.0.2.3"),
    ]  # fmt: skip


def test_equal_hosts_share_the_load(zone: Zone) -> None:
    zone.add(DOMAIN, "MX", "10 a.test.", "10 b.test.", "20 c.test.")
    for place, name in enumerate(("a", "b", "c")):
        zone.add(f"{name}.test", "A", f"192.0.2.{place}")
    route = MxRoute(make_resolver(f"127.0.0.1:{zone.port}"))
    seen = {tuple(place.host for place in route.places(DOMAIN, Deadline(20))) for _ in range(40)}
    assert seen == {("a.test", "b.test", "c.test"), ("b.test", "a.test", "c.test")}


def test_addresses_are_looked_up_when_they_are_needed(zone: Zone) -> None:
    zone.mx(DOMAIN, "a.test", "b.test")
    route = MxRoute(make_resolver(f"127.0.0.1:{zone.port}"))
    assert next(route.places(DOMAIN, Deadline(20))).host == "a.test"
    assert zone.asked == [(DOMAIN, "MX"), ("a.test", "A")]


def test_without_mx_the_domain_itself_is_the_host(zone: Zone) -> None:
    zone.add(DOMAIN, "A", "192.0.2.1")
    assert places(zone) == [(DOMAIN, "192.0.2.1")]


def test_with_mx_the_domain_itself_is_no_host(zone: Zone) -> None:
    zone.add(DOMAIN, "A", "192.0.2.1")
    zone.add(DOMAIN, "MX", "10 gone.test.")
    assert refusal(zone) == (Verdict.PERMANENT, "5.4.4")


def test_aliases_are_followed(zone: Zone) -> None:
    zone.add(DOMAIN, "CNAME", "real.test.")
    zone.mx("real.test", "alias.test")
    del zone.records[("alias.test", "A")]
    zone.add("alias.test", "CNAME", "host.test.")
    zone.add("host.test", "A", "192.0.2.9")
    assert places(zone) == [("alias.test", "192.0.2.9")]


def test_an_alias_without_mx_leads_to_the_address_behind_it(zone: Zone) -> None:
    zone.add(DOMAIN, "CNAME", "real.test.")
    zone.add("real.test", "A", "192.0.2.9")
    assert places(zone) == [(DOMAIN, "192.0.2.9")]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ({(DOMAIN, "MX"): ["0 ."]}, (Verdict.PERMANENT, "5.1.10")),
        ({}, (Verdict.PERMANENT, "5.1.2")),
        ({(DOMAIN, "TXT"): ["x"]}, (Verdict.PERMANENT, "5.4.4")),
        ({(DOMAIN, "MX"): ["10 mx.test."], ("mx.test", "TXT"): ["x"]}, (Verdict.PERMANENT, "5.4.4")),
        ({(DOMAIN, "MX"): ["10 mx.test."]}, (Verdict.PERMANENT, "5.4.4")),
    ],
    ids=["null MX", "unknown domain", "no address", "host without address", "unknown host"],
)
def test_a_domain_without_a_host(
    zone: Zone, records: dict[tuple[str, str], list[str]], expected: tuple[Verdict, str]
) -> None:
    zone.records.update(records)
    assert refusal(zone) == expected


def test_a_null_mx_beside_others_is_passed_over(zone: Zone) -> None:
    zone.mx(DOMAIN, "a.test")
    zone.records[(DOMAIN, "MX")].insert(0, "0 .")
    assert places(zone) == [("a.test", "127.0.0.1")]


def test_a_failing_dns_says_nothing_of_the_domain(zone: Zone) -> None:
    zone.failing = {DOMAIN}
    assert refusal(zone) == (Verdict.TEMPORARY, "4.4.3")


def test_hosts_of_which_one_may_yet_be_found_are_tried_later(zone: Zone) -> None:
    zone.add(DOMAIN, "MX", "10 gone.test.", "20 failing.test.", "30 gone2.test.")
    zone.failing = {"failing.test"}
    assert refusal(zone) == (Verdict.TEMPORARY, "4.4.3")


def test_a_host_that_is_not_found_is_passed_over(zone: Zone) -> None:
    zone.add(DOMAIN, "MX", "10 gone.test.", "20 failing.test.", "30 b.test.")
    zone.add("b.test", "A", "192.0.2.1")
    zone.failing = {"failing.test"}
    assert places(zone) == [("b.test", "192.0.2.1")]


@pytest.mark.parametrize("domain", ["[127.0.0.1]", "[IPv6:::1]"])
def test_address_literals_are_refused(zone: Zone, domain: str) -> None:
    assert refusal(zone, domain) == (Verdict.PERMANENT, "5.1.2")


def test_a_silent_dns_is_given_up_in_time(zone: Zone) -> None:
    resolver = make_resolver("127.0.0.1:9")
    with pytest.raises(NoRoute) as refused:
        list(MxRoute(resolver).places(DOMAIN, Deadline(0.2)))
    assert refused.value.judgement.verdict is Verdict.TEMPORARY


def test_the_number_of_hosts_is_limited(zone: Zone) -> None:
    zone.mx(DOMAIN, *(f"mx{number}.test" for number in range(30)))
    assert len(places(zone)) == MAX_HOSTS


def test_answers_are_kept_as_long_as_they_are_good(zone: Zone, tmp_path: Path) -> None:
    zone.mx(DOMAIN, HOST)
    route = route_for(Settings(data=tmp_path, resolver=f"127.0.0.1:{zone.port}"))
    for _ in range(3):
        assert [place.address for place in route.places(DOMAIN, Deadline(20))] == ["127.0.0.1"]
    assert zone.asked == [(DOMAIN, "MX"), (HOST, "A"), (HOST, "AAAA")]


# --- with hosts behind them ---


def test_an_international_domain_is_named_in_ascii() -> None:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        edge.zone.mx("xn--bcher-kva.test", HOST)
        assert edge.send(recipients=("user@Bücher.test",)).outcome.verdict is Verdict.ACCEPTED
    assert peer.taken[0].recipients == ["RCPT TO:<user@xn--bcher-kva.test>"]


@pytest.mark.parametrize(
    "first",
    [
        Script(greeting="421 busy"),
        Script(greeting="554 go away"),
        Script(greeting="521 no mail"),
        Script(greeting=Trick.HANG_UP),
        Script(greeting=Trick.STALL),
        Script(answers={"EHLO": "550 who are you"}),
        Script(answers={"MAIL": Trick.RESET}),
        Script(answers={"RCPT": "421 closing"}),
        Script(answers={"DATA": Trick.STALL}),
    ],
    ids=lambda script: f"{script.greeting} {script.answers}",
)
def test_the_next_host_is_tried_when_one_cannot_be_talked_with(first: Script) -> None:
    with (
        running_peer(first) as peer,
        running_peer(Script(), address="127.0.0.2", port=peer.port) as other,
        edge_to(peer.port, SHORT) as edge,
    ):
        edge.add_second_host()
        result = edge.send()
    assert peer.connections == 1
    assert (result.outcome.verdict, result.host) == (Verdict.ACCEPTED, SECOND_HOST)
    assert len(other.taken) == 1


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("answer", ["450 4.2.1 later", "550 5.7.1 never"])
def test_what_a_host_says_within_a_transaction_holds(step: str, answer: str) -> None:
    with (
        running_peer(Script(answers={step: answer})) as peer,
        running_peer(Script(), address="127.0.0.2", port=peer.port) as other,
        edge_to(peer.port) as edge,
    ):
        edge.add_second_host()
        assert edge.send().outcome.response == answer
    assert other.connections == 0


def test_a_mail_that_may_have_been_taken_is_not_given_to_another_host() -> None:
    with (
        running_peer(Script(answers={".": Trick.HANG_UP})) as peer,
        running_peer(Script(), address="127.0.0.2", port=peer.port) as other,
        edge_to(peer.port) as edge,
    ):
        edge.add_second_host()
        assert edge.send().outcome.verdict is Verdict.TEMPORARY
    assert other.connections == 0


def test_only_those_whom_no_host_has_judged_go_to_the_next() -> None:
    gone, last = f"gone@{DOMAIN}", f"last@{DOMAIN}"
    answers = {f"RCPT TO:<{gone}>": "550 5.1.1 unknown", f"RCPT TO:<{last}>": "421 closing"}
    with (
        running_peer(Script(answers=answers, features=())) as peer,
        running_peer(Script(), address="127.0.0.2", port=peer.port) as other,
        edge_to(peer.port) as edge,
    ):
        edge.add_second_host()
        results = edge.send_all(recipients=(RECIPIENT, last))
    assert {result.outcome.verdict for result in results} == {Verdict.ACCEPTED}
    assert [len(taken.recipients) for taken in other.taken] == [2]


def test_521_of_one_host_is_not_believed_while_another_is_down() -> None:
    with running_peer(Script(greeting="521 no mail")) as peer, edge_to(peer.port) as edge:
        assert edge.send().outcome.verdict is Verdict.PERMANENT
        edge.add_second_host()
        assert edge.send().outcome.verdict is Verdict.TEMPORARY


def test_the_number_of_connections_is_limited() -> None:
    with running_peer(Script(greeting="421 busy")) as peer, edge_to(peer.port) as edge:
        edge.zone.mx(DOMAIN, *(f"mx{number}.test" for number in range(10)))
        edge.send()
        assert peer.connections == MAX_PLACES


def test_a_round_of_slow_hosts_ends_in_time() -> None:
    with (
        running_peer(Script(greeting=Trick.STALL)) as peer,
        edge_to(peer.port, replace(SHORT, total_s=0.7)) as edge,
    ):
        edge.zone.mx(DOMAIN, *(f"mx{number}.test" for number in range(10)))
        result = edge.send()
        assert peer.connections == 3
    assert result.outcome.is_timeout


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1"])
def test_a_host_in_our_own_network_is_never_called(address: str) -> None:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        edge.guard = TargetPolicy()
        edge.zone.add(HOST, "A", address)
        result = edge.send()
        assert peer.connections == 0
    assert (result.outcome.verdict, result.outcome.status) == (Verdict.TEMPORARY, 0)
    assert "PILLARBOX_ALLOW_PRIVATE_TARGETS" in (result.outcome.error or "")


def test_a_blocked_address_does_not_keep_the_next_from_being_called() -> None:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        edge.add_second_host()
        edge.zone.add(HOST, "A", "10.0.0.1")
        edge.zone.add(SECOND_HOST, "A", "127.0.0.1")
        assert edge.send().outcome.verdict is Verdict.ACCEPTED


# --- the relay ---


def test_a_relay_takes_everything_though_it_is_in_our_network(tmp_path: Path) -> None:
    with running_peer(Script()) as peer:
        settings = Settings(
            data=tmp_path, smart_host=f"localhost:{peer.port}", allow_private_targets="none", domain="us.test"
        )
        transport = mx_transport_for(settings, lambda: 0, ConnectionPool(NO_REUSE))
        (result,) = transport.deliver(MAIL)
        assert (result.outcome.verdict, result.host) == (Verdict.ACCEPTED, "localhost")
        assert peer.lines[1] == "EHLO mx.us.test"


def test_a_relay_that_is_not_found_is_waited_for() -> None:
    relay = read_relay("no-such-host.invalid:25")
    assert relay is not None
    transport = MxTransport(SmartHost(relay), TargetPolicy(), "mx.us.test", lambda: 0, ConnectionPool(NO_REUSE))
    (result,) = transport.deliver(OutgoingMail(SENDER, (RECIPIENT,), CONTENT))
    assert result.outcome.verdict is Verdict.TEMPORARY
    assert "PILLARBOX_SMART_HOST" in (result.outcome.error or "")


def test_the_setting_of_the_relay() -> None:
    assert read_relay("") is None
    relay = read_relay("127.0.0.1:2525")
    assert relay is not None
    assert list(SmartHost(relay).places("x", Deadline(1))) == [
        HostAddress("127.0.0.1", "127.0.0.1", 2525, is_guarded=False)
    ]
    with pytest.raises(ConfigurationError, match="PILLARBOX_SMART_HOST"):
        read_relay("relay.example.com")
