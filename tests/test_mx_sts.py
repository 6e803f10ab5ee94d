"""MTA-STS as a sender: policies from a real HTTPS host, enforced at real SMTP hosts, and every way around them."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from core.config import Settings
from core.delivery import Verdict
from core.netguard import TargetPolicy
from outbound.mta_sts_cache import PAUSE_MS, REFRESH_MS, RETRY_MS
from outbound.mta_sts_fetch import FETCH_TIMEOUT_S, MAX_POLICY_BYTES
from outbound.mta_sts_policy import (
    MAX_AGE_LIMIT_S,
    MAX_PATTERNS,
    PolicyUnusable,
    StsMode,
    read_policy,
    read_record,
)
from outbound.mx import mx_transport_for
from outbound.pool import NO_REUSE, ConnectionPool
from outbound.timing import Deadline
from outbound.tls import TlsContexts, TlsLevel
from tests.certificate_authority import Issued, issue, make_root
from tests.mx_support import DOMAIN, HOST, MAIL, SECOND_HOST
from tests.scripted_smtp import Peer, Script, Trick, running_peer
from tests.tls_support import POLICY_HOST, SecureEdge, Trust, http_answer, policy_file, secure_edge

OFFERED = ("STARTTLS", "PIPELINING")
OTHER_DOMAIN = "other.test"
GOOD = "good"
PATIENCE_S = 1.0
"""For policy hosts that never come to an end."""
BAD_CERTIFICATES = {
    "wrong name": "is not valid for 'mx1.example.test'",
    "expired": "has expired",
    "not yet valid": "is not yet valid",
    "self-signed": "self-signed",
    "unknown authority": "unable to get local issuer",
}


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust.make(tmp_path_factory.mktemp("tls"))


def certificate(trust: Trust, kind: str = GOOD) -> Issued:
    """The certificate of the mail host."""
    root = trust.root
    makers = {
        GOOD: lambda: issue(root, HOST),
        "wildcard": lambda: issue(root, "*.example.test"),
        "wrong name": lambda: issue(root, "mx.elsewhere.test"),
        "expired": lambda: issue(root, HOST, days=(-9, -2)),
        "not yet valid": lambda: issue(root, HOST, days=(2, 9)),
        "self-signed": lambda: issue(None, HOST),
        "unknown authority": lambda: issue(make_root("Another Root"), HOST),
    }
    return makers[kind]()


@pytest.fixture
def peer(trust: Trust) -> Iterator[Peer]:
    with running_peer(Script(features=OFFERED), certificate(trust).context(trust.folder)) as running:
        yield running


@pytest.fixture
def edge(trust: Trust, peer: Peer) -> Iterator[SecureEdge]:
    with secure_edge(peer.port, trust) as running:
        yield running


# --- enforced ---


@pytest.mark.parametrize("kind", [GOOD, "wildcard"])
def test_a_host_with_a_valid_certificate_gets_the_mail(trust: Trust, kind: str) -> None:
    names: list[str | None] = []
    context = certificate(trust, kind).context(trust.folder)
    context.sni_callback = lambda session, name, given: names.append(name)  # type: ignore[assignment]
    with running_peer(Script(features=OFFERED), context) as peer, secure_edge(peer.port, trust) as edge:
        edge.serve(policy_file(), "1")
        result = edge.send()
    assert result.outcome.verdict is Verdict.ACCEPTED
    assert (result.tls, result.tls_version, result.tls_warning) == (TlsLevel.STS, "TLSv1.3", None)
    assert names == [HOST]
    assert peer.taken[0].is_tls


@pytest.mark.parametrize("kind", BAD_CERTIFICATES)
def test_a_certificate_that_is_not_valid_keeps_the_mail(trust: Trust, kind: str) -> None:
    context = certificate(trust, kind).context(trust.folder)
    with running_peer(Script(features=OFFERED), context) as peer, secure_edge(peer.port, trust) as edge:
        edge.serve(policy_file(), "1")
        result = edge.send()
    assert (result.outcome.verdict, result.outcome.status, result.enhanced) == (Verdict.TEMPORARY, 0, "4.7.5")
    assert BAD_CERTIFICATES[kind] in (result.outcome.error or "")
    assert f"the MTA-STS policy of {DOMAIN}" in (result.outcome.error or "")
    assert (peer.taken, peer.connections, result.tls) == ([], 1, TlsLevel.NONE)


@pytest.mark.parametrize(
    "script",
    [
        Script(),
        Script(features=OFFERED, answers={"STARTTLS": "454 4.7.0 not now"}),
        Script(features=OFFERED, answers={"EHLO": "502 what?"}),
    ],
    ids=["no offer", "offer taken back", "HELO only"],
)
def test_a_downgrade_to_clear_text_keeps_the_mail(trust: Trust, script: Script) -> None:
    with running_peer(script, certificate(trust).context(trust.folder)) as peer, secure_edge(peer.port, trust) as edge:
        edge.serve(policy_file(), "1")
        result = edge.send()
    assert (result.outcome.verdict, result.enhanced) == (Verdict.TEMPORARY, "4.7.10")
    assert "STARTTLS" in (result.outcome.error or "")
    assert peer.taken == []
    assert "MAIL" not in peer.verbs()


@pytest.mark.parametrize(
    "script",
    [
        Script(features=OFFERED, handshake=False),
        Script(answers={"EHLO": ["250-mx.test\r\n250 STARTTLS", Trick.HANG_UP, "250 mx.test"]}),
    ],
    ids=["in it", "right after it"],
)
def test_a_broken_handshake_keeps_the_mail(trust: Trust, script: Script) -> None:
    with running_peer(script, certificate(trust).context(trust.folder)) as peer, secure_edge(peer.port, trust) as edge:
        edge.serve(policy_file(), "1")
        assert edge.send().outcome.verdict is Verdict.TEMPORARY
    assert (peer.connections, peer.taken) == (1, [])


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(("version", "is_taken"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)])
def test_old_versions_of_tls_do_not_count(trust: Trust, version: ssl.TLSVersion, is_taken: bool) -> None:
    context = certificate(trust).context(trust.folder)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    with running_peer(Script(features=OFFERED), context) as peer, secure_edge(peer.port, trust) as edge:
        edge.serve(policy_file(), "1")
        result = edge.send()
    assert (result.outcome.verdict is Verdict.ACCEPTED) is is_taken
    assert result.tls_version == ("TLSv1.2" if is_taken else None)
    assert len(peer.taken) == is_taken


def test_a_common_name_is_no_name(trust: Trust) -> None:
    """RFC 8461 section 4.1: the subject alternative names count."""
    nameless = issue(trust.root, HOST, is_authority=True)  # has HOST as its common name only
    with (
        running_peer(Script(features=OFFERED), nameless.context(trust.folder)) as peer,
        secure_edge(peer.port, trust) as edge,
    ):
        edge.serve(policy_file(), "1")
        assert edge.send().outcome.verdict is Verdict.TEMPORARY


def test_hosts_that_the_policy_does_not_allow_are_passed_over(trust: Trust, peer: Peer, edge: SecureEdge) -> None:
    edge.zone.mx(DOMAIN, "mx.attacker.test", HOST)
    edge.serve(policy_file(), "1")
    result = edge.send()
    assert (result.outcome.verdict, result.host, result.tls) == (Verdict.ACCEPTED, HOST, TlsLevel.STS)
    edge.zone.mx(DOMAIN, "mx.attacker.test")
    result = edge.send()
    assert (result.outcome.verdict, result.host) == (Verdict.TEMPORARY, "mx.attacker.test")
    assert "not among the hosts" in (result.outcome.error or "")
    assert peer.connections == 1


def test_the_next_host_is_tried_when_one_has_no_valid_certificate(trust: Trust) -> None:
    with (
        running_peer(Script(features=OFFERED), certificate(trust, "expired").context(trust.folder)) as bad,
        running_peer(
            Script(features=OFFERED), issue(trust.root, SECOND_HOST).context(trust.folder), "127.0.0.2", bad.port
        ) as good,
        secure_edge(bad.port, trust) as edge,
    ):
        edge.zone.add(SECOND_HOST, "A", "127.0.0.2")
        edge.zone.mx(DOMAIN, HOST, SECOND_HOST)
        edge.serve(policy_file("enforce", "*.example.test"), "1")
        result = edge.send()
    assert (result.outcome.verdict, result.host, result.tls) == (Verdict.ACCEPTED, SECOND_HOST, TlsLevel.STS)
    assert (bad.taken, len(good.taken)) == ([], 1)


def test_a_connection_kept_from_before_does_not_serve_a_stricter_demand(trust: Trust) -> None:
    """Two domains with one host: what was opened without a check must not carry the mail of the one that wants one."""
    with (
        running_peer(Script(features=OFFERED), certificate(trust, "self-signed").context(trust.folder)) as peer,
        secure_edge(peer.port, trust, pool=ConnectionPool()) as edge,
    ):
        edge.zone.mx(OTHER_DOMAIN, HOST)
        edge.serve(policy_file(), "1")
        first = edge.send(recipients=(f"user@{OTHER_DOMAIN}",))
        assert (first.outcome.verdict, first.tls) == (Verdict.ACCEPTED, TlsLevel.OPPORTUNISTIC)
        assert edge.pool.idle == 1
        assert edge.send().outcome.verdict is Verdict.TEMPORARY


def test_a_checked_connection_is_kept(trust: Trust, peer: Peer) -> None:
    with secure_edge(peer.port, trust, pool=ConnectionPool()) as edge:
        edge.serve(policy_file(), "1")
        assert [edge.send().tls for _ in range(3)] == [TlsLevel.STS] * 3
    assert peer.connections == 1


# --- testing, none, no policy ---


@pytest.mark.parametrize(
    ("kind", "script", "level"),
    [
        (GOOD, Script(features=OFFERED), TlsLevel.STS),
        ("self-signed", Script(features=OFFERED), TlsLevel.OPPORTUNISTIC),
        (GOOD, Script(features=OFFERED, handshake=False), TlsLevel.NONE),
        (GOOD, Script(), TlsLevel.NONE),
    ],
    ids=["valid", "self-signed", "broken handshake", "no STARTTLS"],
)
def test_in_testing_mode_mail_goes_and_the_shortfall_is_said(
    trust: Trust, kind: str, script: Script, level: TlsLevel
) -> None:
    context = certificate(trust, kind).context(trust.folder)
    with running_peer(script, context) as peer, secure_edge(peer.port, trust) as edge:
        edge.serve(policy_file("testing"), "1")
        result = edge.send()
    assert (result.outcome.verdict, result.tls) == (Verdict.ACCEPTED, level)
    assert (result.tls_warning is None) is (level is TlsLevel.STS)
    assert len(peer.taken) == 1


def test_in_testing_mode_a_host_that_is_not_allowed_gets_the_mail(edge: SecureEdge) -> None:
    edge.serve(policy_file("testing", "mx.elsewhere.test"), "1")
    result = edge.send()
    assert (result.outcome.verdict, result.tls) == (Verdict.ACCEPTED, TlsLevel.OPPORTUNISTIC)
    assert "not among the hosts" in (result.tls_warning or "")


@pytest.mark.parametrize("mode", ["none", None])
def test_without_a_demand_tls_is_opportunistic(trust: Trust, mode: str | None) -> None:
    context = certificate(trust, "self-signed").context(trust.folder)
    with running_peer(Script(features=OFFERED), context) as peer, secure_edge(peer.port, trust) as edge:
        if mode is not None:
            edge.serve(policy_file(mode), "1")
        result = edge.send()
    assert (result.outcome.verdict, result.tls, result.tls_warning) == (
        Verdict.ACCEPTED, TlsLevel.OPPORTUNISTIC, None,
    )  # fmt: skip
    assert len(edge.host.requests) == (mode is not None)
    assert peer.connections == 1


# --- kept policies ---


def find(edge: SecureEdge) -> StsMode | None:
    """The mode that is in force."""
    policy = edge.policies.find(DOMAIN, Deadline(15))
    return None if policy is None else policy.mode


def test_a_policy_is_fetched_once_and_asked_for_properly(edge: SecureEdge) -> None:
    edge.serve(policy_file(), "1")
    assert [find(edge) for _ in range(3)] == [StsMode.ENFORCE] * 3
    (request,) = edge.host.requests
    assert request.startswith(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n")
    assert f"\r\nHost: {POLICY_HOST}\r\n".encode() in request


def test_another_id_makes_it_fetched_anew(edge: SecureEdge) -> None:
    edge.serve(policy_file(), "1")
    assert find(edge) is StsMode.ENFORCE
    edge.serve(policy_file("none"))
    edge.clock.advance(PAUSE_MS / 1000 + 1)
    assert find(edge) is StsMode.ENFORCE
    edge.announce("2")
    edge.clock.advance(PAUSE_MS / 1000 + 1)  # as long as the record is kept
    assert find(edge) is StsMode.NONE
    assert len(edge.host.requests) == 2


@pytest.mark.parametrize("fault", ["policy host", "record", "DNS"])
def test_a_kept_policy_holds_whatever_fails(trust: Trust, fault: str) -> None:
    context = certificate(trust, "self-signed").context(trust.folder)
    with running_peer(Script(features=OFFERED), context) as peer, secure_edge(peer.port, trust) as edge:
        edge.serve(policy_file(max_age=86_400), "1")
        assert find(edge) is StsMode.ENFORCE
        if fault == "policy host":
            edge.announce("2")
            edge.host.answer = http_answer(b"gone", status="404 Not Found")
        elif fault == "record":
            del edge.zone.records[(f"_mta-sts.{DOMAIN}", "TXT")]
        else:
            edge.zone.failing = {f"_mta-sts.{DOMAIN}"}
        edge.clock.advance(3600)
        assert edge.send().outcome.verdict is Verdict.TEMPORARY
        edge.clock.advance(86_400)
        assert edge.send().outcome.verdict is Verdict.ACCEPTED
    assert len(peer.taken) == 1


def test_a_policy_is_refreshed_before_it_ends(edge: SecureEdge) -> None:
    edge.serve(policy_file(max_age=10 * 86_400), "1")
    find(edge)
    edge.clock.advance(REFRESH_MS / 1000 - 1)
    find(edge)
    assert len(edge.host.requests) == 1
    edge.clock.advance(2)
    find(edge)
    assert len(edge.host.requests) == 2
    edge.host.answer = http_answer(b"", status="503 Down")
    edge.clock.advance(10 * 86_400 - 1)
    assert find(edge) is StsMode.ENFORCE
    edge.clock.advance(2)
    assert find(edge) is None


def test_after_a_failed_fetch_the_host_is_left_alone_for_a_while(edge: SecureEdge) -> None:
    edge.serve(b"nonsense", "1")
    assert [find(edge) for _ in range(3)] == [None] * 3
    assert len(edge.host.requests) == 1
    edge.serve(policy_file(), "2")
    edge.clock.advance(RETRY_MS / 1000 - 1)
    assert find(edge) is None
    edge.clock.advance(2)
    assert find(edge) is StsMode.ENFORCE


def test_a_policy_that_wants_not_to_be_kept_is_kept_for_a_minute(edge: SecureEdge) -> None:
    edge.serve(policy_file(max_age=0), "1")
    find(edge)
    edge.clock.advance(PAUSE_MS / 1000 - 1)
    assert find(edge) is StsMode.ENFORCE
    assert len(edge.host.requests) == 1
    edge.clock.advance(2)
    find(edge)
    assert len(edge.host.requests) == 2


def test_many_threads_fetch_once_and_all_wait_for_it(edge: SecureEdge) -> None:
    edge.serve(policy_file(), "1")
    answer, gate = edge.host.answer, threading.Event()

    def answer_late(connection: socket.socket) -> None:
        gate.wait(5)
        connection.sendall(answer)

    edge.host.act = answer_late
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(find, edge) for _ in range(8)]
        gate.set()
        assert {one.result(10) for one in found} == {StsMode.ENFORCE}
    assert len(edge.host.requests) == 1


def test_who_has_a_policy_does_not_wait_for_the_next(edge: SecureEdge) -> None:
    edge.serve(policy_file(), "1")
    find(edge)
    edge.announce("2")
    edge.clock.advance(61)
    asked, gate = threading.Event(), threading.Event()

    def stall(connection: socket.socket) -> None:
        asked.set()
        gate.wait(8)

    edge.host.act = stall
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(find, edge)
        assert asked.wait(5)
        assert find(edge) is StsMode.ENFORCE  # while the first is still at it
        assert not first.done()
        gate.set()
        assert first.result(10) is StsMode.ENFORCE


# --- hostile policy hosts: mail goes as if there were no policy ---


def drip(connection: socket.socket) -> None:
    """Headers without end, a byte now and then."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    with suppress(OSError):
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)


def silence(connection: socket.socket) -> None:
    """Nothing until the client goes."""
    connection.recv(1)


def flood(connection: socket.socket) -> None:
    """A body without end and without a length."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    with suppress(OSError):
        while True:
            connection.sendall(b"mx: a.test\r\n" * 1000)


def interim(connection: socket.socket) -> None:
    """Interim answers without end."""
    with suppress(OSError):
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def cut(connection: socket.socket) -> None:
    """The end of the TCP stream without the end of TLS: the last lines may have been taken away."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + policy_file())
    assert isinstance(connection, ssl.SSLSocket)
    socket.socket.shutdown(connection, socket.SHUT_RDWR)


def shorten(connection: socket.socket) -> None:
    """Less than was promised, and a proper end of TLS."""
    connection.sendall(http_answer(POLICY)[:-20])
    assert isinstance(connection, ssl.SSLSocket)
    with suppress(OSError):
        connection.unwrap()


POLICY = policy_file()
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
MOVED = f"Location: https://{POLICY_HOST}/elsewhere\r\n"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (http_answer(POLICY + b"x: y\r\n" * 20_000), "longer than"),
        (http_answer(POLICY, status="301 Moved Permanently", more=MOVED), "301"),
        (http_answer(POLICY, status="302 Found", more=MOVED), "302"),
        (http_answer(POLICY, status="404 Not Found"), "404"),
        (http_answer(POLICY, status="500 Oops"), "500"),
        (http_answer(POLICY, "text/html"), "not text/plain"),
        (http_answer(POLICY, "nonsense"), "not text/plain"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(POLICY) + POLICY, "not text/plain"),
        (http_answer(POLICY, more="Content-Encoding: gzip\r\n"), "compressed"),
        (http_answer(POLICY)[:-20], "EOF"),
        (shorten, "hung up before the end"),
        (CHUNKED + b"40\r\n" + POLICY[:30], "EOF"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 150, "more than 100 headers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "header line"),
        (b"220 mx.test ESMTP\r\n", "220 mx.test"),
        (b"", "did not give it"),
        (drip, "too long"),
        (silence, "too long"),
        (flood, "longer than"),
        (interim, "the answer is too long"),
        (cut, "EOF"),
    ],
    ids=[
        "huge", "301", "302", "404", "500", "HTML", "odd type", "no type", "compressed", "broken off", "too short",
        "chunk cut", "many headers", "long header", "no HTTP", "empty", "drip", "silence", "flood", "interim",
        "TLS cut",
    ],
)  # fmt: skip
def test_an_unusable_answer_is_no_policy(
    edge: SecureEdge, answer: bytes | Callable[[socket.socket], None], problem: str
) -> None:
    if isinstance(answer, bytes):
        edge.host.answer = answer
    else:
        edge.host.act = answer
    started = time.monotonic()
    with pytest.raises(PolicyUnusable, match=problem):
        edge.fetcher.fetch(DOMAIN, PATIENCE_S)
    assert time.monotonic() - started < PATIENCE_S + 1
    assert len(edge.host.requests) == 1


def test_where_no_policy_is_to_be_had_mail_goes(edge: SecureEdge) -> None:
    edge.serve(b"nonsense", "1")
    result = edge.send()
    assert (result.outcome.verdict, result.tls) == (Verdict.ACCEPTED, TlsLevel.OPPORTUNISTIC)


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(POLICY, "TEXT/Plain; charset=utf-8"),
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + POLICY,
        b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + POLICY,
        CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(POLICY), POLICY),
        http_answer(POLICY + b"x: y\r\n" * 10_000),
    ],
    ids=["with charset", "until the end", "HTTP/1.0", "chunked", "long"],
)
def test_usual_answers(edge: SecureEdge, answer: bytes) -> None:
    def say(connection: socket.socket) -> None:
        connection.sendall(answer)
        assert isinstance(connection, ssl.SSLSocket)
        with suppress(OSError):
            connection.unwrap()

    edge.announce("1")
    edge.host.act = say
    assert len(POLICY + b"x: y\r\n" * 10_000) < MAX_POLICY_BYTES
    assert find(edge) is StsMode.ENFORCE


@pytest.mark.parametrize("kind", ["wrong name", "expired", "self-signed", "of the domain"])
def test_a_policy_host_needs_a_valid_certificate(trust: Trust, peer: Peer, kind: str) -> None:
    made = {
        "wrong name": issue(trust.root, "mta-sts.other.test"),
        "expired": issue(trust.root, POLICY_HOST, days=(-9, -2)),
        "self-signed": issue(None, POLICY_HOST),
        "of the domain": issue(trust.root, DOMAIN),
    }
    with secure_edge(peer.port, trust, policy_certificate=made[kind]) as edge:
        edge.serve(POLICY, "1")
        assert find(edge) is None
        assert edge.host.requests == []
        assert edge.send().outcome.verdict is Verdict.ACCEPTED


def test_a_policy_host_in_our_own_network_is_not_called(trust: Trust, peer: Peer) -> None:
    with secure_edge(peer.port, trust, guard=TargetPolicy()) as edge:
        edge.serve(POLICY, "1")
        assert find(edge) is None
        assert edge.host.requests == []


def test_the_next_address_is_tried(edge: SecureEdge) -> None:
    edge.zone.add(POLICY_HOST, "A", "127.0.0.9", "127.0.0.1")
    edge.serve(POLICY, "1")
    assert find(edge) is StsMode.ENFORCE


def test_a_policy_host_that_is_down(edge: SecureEdge) -> None:
    edge.announce("1")
    edge.zone.add(POLICY_HOST, "A", "127.0.0.9")
    assert find(edge) is None
    assert edge.send().outcome.verdict is Verdict.ACCEPTED


# --- reading ---


@pytest.mark.parametrize(
    ("texts", "version"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=a"], "a"),
        ([b"v=STSv1 ; more=x ;\tid=a ;"], "a"),
        ([b"v=spf1 -all", b"v=STSv1; id=a"], "a"),
        ([b"v=STSv1; id=a", b"v=STSv1; id=a"], None),
        ([b"v=STSv1; id=a; id=b"], "a"),
        ([b"v=STSv1;"], None),
        ([b"v=STSv1; id=" + b"a" * 33], None),
        ([b"v=STSv1; id=a-b"], None),
        ([b"v=STSv12; id=a"], None),
        ([b"id=a; v=STSv1"], None),
        ([b"v=STSv1; id=\xff"], None),
        ([], None),
    ],
)
def test_reading_records(texts: list[bytes], version: str | None) -> None:
    assert read_record(texts) == version


def test_reading_a_policy() -> None:
    text = (
        "version: STSv1\nmode:enforce \nmx: Mail.Example.com\r\nmx:\t*.Example.NET.\nfuture: x\nmode: none\n"
        "max_age: 604800\nmax_age: 1\n\n"
    )
    policy = read_policy(text.encode())
    assert (policy.mode, policy.max_age_s) == (StsMode.ENFORCE, 604_800)
    assert (policy.hosts, policy.parents) == ({"mail.example.com"}, {"example.net"})


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("mail.example.com", True),
        ("MAIL.example.com.", True),
        ("a.mail.example.com", False),
        ("example.com", False),
        ("mx.example.net", True),
        ("a.mx.example.net", False),
        ("example.net", False),
        (".example.net", True),  # no host name: the DNS gives none such
        ("mxexample.net", False),
        ("mx.example.net.evil.test", False),
        ("", False),
    ],
)
def test_an_asterisk_is_one_label(host: str, is_allowed: bool) -> None:
    policy = read_policy(policy_file("enforce", "mail.example.com", "*.example.net"))
    assert policy.allows(host) is is_allowed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"mode: enforce\nmx: a.test\nmax_age: 1",
        b"version: STSv2\nmode: enforce\nmx: a.test\nmax_age: 1",
        b"version: STSv1\nmode: strict\nmx: a.test\nmax_age: 1",
        b"version: STSv1\nmx: a.test\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: a.test",
        b"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: -1",
        b"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 12345678901",
        b"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: \xd9\xa1",
        b"version: STSv1\nmode: enforce\nmx: *\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: *.*.test\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: mx.*.test\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: .test\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: a b\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: \nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: " + b"a." * 200 + b"test\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 1\nnonsense",
        b"version: STSv1\nmode: enforce\nmx: \xff.test\nmax_age: 1",
        policy_file("enforce", *(f"mx{number}.test" for number in range(MAX_PATTERNS + 1))),
    ],
)
def test_what_is_no_policy(content: bytes) -> None:
    with pytest.raises(PolicyUnusable):
        read_policy(content)


def test_the_longest_age() -> None:
    assert read_policy(policy_file(max_age=9_999_999_999)).max_age_s == MAX_AGE_LIMIT_S
    assert read_policy(b"version: STSv1\nmode: none\nmax_age: 0").max_age_s == 0


def test_reading_takes_linear_time() -> None:
    content = policy_file("enforce", "a-" * (MAX_POLICY_BYTES // 2 - 100))
    started = time.monotonic()
    with pytest.raises(PolicyUnusable):
        read_policy(content)
    read_record([b"v=STSv1; " + b"a" * 60_000 + b"=" * 60_000])
    assert time.monotonic() - started < 0.2


# --- as configured ---


def test_the_transport_as_configured_enforces(trust: Trust, peer: Peer, tmp_path: Path) -> None:
    """All but the port of the policy host, which cannot be 443 here: so what is seen is that it was asked for."""
    with secure_edge(peer.port, trust) as edge:
        edge.announce("1")
        settings = Settings(
            data=tmp_path, resolver=f"127.0.0.1:{edge.zone.port}", ca_file=str(trust.ca_file), domain="us.test",
            allow_private_targets="loopback",
        )  # fmt: skip
        transport = mx_transport_for(settings, edge.clock, ConnectionPool(NO_REUSE), peer.port)
        (result,) = transport.deliver(MAIL)
        assert (result.outcome.verdict, result.tls) == (Verdict.ACCEPTED, TlsLevel.OPPORTUNISTIC)
        assert (POLICY_HOST, "A") in edge.zone.asked


def test_without_a_file_the_roots_of_the_public_web_are_there() -> None:
    context = TlsContexts().checked
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.get_ca_certs()


def test_a_fetch_takes_seconds_at_most() -> None:
    assert FETCH_TIMEOUT_S <= 10
