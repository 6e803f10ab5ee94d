"""A relay that takes all mail: how it is named, who it must be, and how we log in to it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from core.clock import system_clock
from core.config import Settings
from core.delivery import Verdict
from core.errors import ConfigurationError
from core.fairness import HEALTHY, mail_health_after
from core.setting_values import Listen
from core.smart_host import MAX_LOGIN_OCTETS, Login, Relay, read_relay
from outbound.mail import RecipientResult
from outbound.mx import MxTransport, mx_transport_for
from outbound.pool import ConnectionPool
from outbound.timing import Timeouts
from outbound.tls import TlsLevel
from tests.certificate_authority import issue
from tests.conftest import NOW_MS
from tests.mx_support import MAIL, edge_to
from tests.raw_server import Certificate, running_raw_server
from tests.scripted_smtp import Peer, Script, Trick, running_peer
from tests.tls_support import Trust

SECRET = "s3cr%t/pass word"
SECRET_IN_URL = "s3cr%25t%2Fpass%20word"


@pytest.mark.parametrize(
    ("text", "relay"),
    [
        ("", None),
        ("relay.test:25", Relay(Listen("relay.test", 25))),
        ("[2001:db8::1]:25", Relay(Listen("2001:db8::1", 25))),
        ("smtp://relay.test", Relay(Listen("relay.test", 587))),
        ("smtps://relay.test/", Relay(Listen("relay.test", 465), True)),
        ("smtp://me:pw@relay.test:2525", Relay(Listen("relay.test", 2525), False, Login("me", "pw"))),
        (f"smtps://a%40b:{SECRET_IN_URL}@[::1]:465", Relay(Listen("::1", 465), True, Login("a@b", SECRET))),
    ],
)
def test_how_a_relay_is_named(text: str, relay: Relay | None) -> None:
    assert read_relay(text) == relay


@pytest.mark.parametrize(
    "text",
    [
        "relay.test",
        f"me:{SECRET}@relay.test:25",
        f"http://me:{SECRET}@relay.test",
        f"smtp://me:{SECRET}@relay.test:99999",
        f"smtp://me:{SECRET}@relay.test:x",
        f"smtp://me:{SECRET_IN_URL}@",
        f"smtp://:{SECRET_IN_URL}@relay.test",
        "smtp://s3cr@relay.test",
        f"smtp://s3cr:{'x' * (MAX_LOGIN_OCTETS + 1)}@relay.test",
        "smtp://me:s3cr%00@relay.test",
        "smtp://relay.test?s3cr",
    ],
)
def test_a_relay_that_cannot_be_read_is_an_error_that_shows_no_password(text: str) -> None:
    with pytest.raises(ConfigurationError, match="PILLARBOX_SMART_HOST") as refused:
        read_relay(text)
    assert "s3cr" not in str(refused.value)


def test_a_login_is_not_shown() -> None:
    relay = read_relay(f"smtp://me:{SECRET_IN_URL}@relay.test")
    assert "s3cr" not in repr(relay)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust.make(tmp_path_factory.mktemp("relay"))


@dataclass
class RelayWay:
    """A relay and the transport that goes through it."""

    peer: Peer
    transport: MxTransport

    def send(self) -> RecipientResult:
        return self.transport.deliver(MAIL)[0]


OFFERED = ("STARTTLS", "AUTH LOGIN PLAIN", "PIPELINING")
LOGIN_ONLY = ("STARTTLS", "AUTH LOGIN XOAUTH2", "PIPELINING")
TOLD_USER, TOLD_PASSWORD = (base64.b64encode(text.encode()).decode() for text in ("me", SECRET))


@contextmanager
def relay_way(
    trust: Trust, script: Script, login: str = f"me:{SECRET_IN_URL}@", name: str = "localhost", scheme: str = "smtp"
) -> Iterator[RelayWay]:
    certificate = issue(trust.root, name)
    if scheme == "smtps":
        peer = Peer(script, None)
        saved: Certificate = certificate.save(trust.folder)
        with running_raw_server(lambda connection, _: peer.serve(connection), saved) as port:
            yield RelayWay(peer, _relay_transport(trust, f"{scheme}://{login}localhost:{port}"))
    else:
        with running_peer(script, certificate.context(trust.folder)) as peer:
            yield RelayWay(peer, _relay_transport(trust, f"{scheme}://{login}localhost:{peer.port}"))


def _relay_transport(trust: Trust, smart_host: str) -> MxTransport:
    settings = Settings(data=trust.folder, smart_host=smart_host, ca_file=str(trust.ca_file), domain="us.test")
    return mx_transport_for(settings, system_clock, ConnectionPool())


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_we_log_in_once_per_connection_and_under_tls_only(trust: Trust, scheme: str) -> None:
    script = Script(features=OFFERED, answers={"AUTH": "235 2.7.0 welcome"})
    with relay_way(trust, script, scheme=scheme) as way:
        for _ in range(2):
            result = way.send()
            assert (result.outcome.verdict, result.tls) == (Verdict.ACCEPTED, TlsLevel.VERIFIED)
        told = base64.b64encode(f"\0me\0{SECRET}".encode()).decode()
        assert [line for line in way.peer.lines if line.startswith("AUTH")] == [f"AUTH PLAIN {told}"]
        expected = ["EHLO", "STARTTLS", "EHLO", "AUTH"] if scheme == "smtp" else ["EHLO", "AUTH"]
        assert way.peer.verbs()[: len(expected)] == expected


@pytest.mark.parametrize("reply", ["535 5.7.8 bad credentials", "534 5.7.9 too weak", "454 4.7.0 later", "500 what?"])
def test_a_login_that_is_refused_is_our_fault_and_temporary(trust: Trust, reply: str) -> None:
    script = Script(features=OFFERED, answers={"AUTH": reply})
    with relay_way(trust, script) as way, capture_logs() as logs:
        result = way.send()
    assert (result.outcome.verdict, result.outcome.is_our_fault) == (Verdict.TEMPORARY, True)
    assert (result.outcome.status, result.reply) == (int(reply[:3]), reply)
    assert result.enhanced.startswith("4.")
    assert mail_health_after(HEALTHY, result.outcome, NOW_MS) == HEALTHY
    assert "MAIL" not in way.peer.verbs()
    assert "s3cr" not in repr((result, logs))


def test_a_relay_that_only_has_login_is_logged_in_to(trust: Trust) -> None:
    answers: dict[str, Any] = {"AUTH": "334 VXNlcm5hbWU6", TOLD_USER: "334 UGFzc3dvcmQ6", TOLD_PASSWORD: "235 welcome"}
    with relay_way(trust, Script(features=LOGIN_ONLY, answers=answers)) as way:
        assert way.send().outcome.verdict is Verdict.ACCEPTED
        assert way.peer.lines[4:7] == ["AUTH LOGIN", TOLD_USER, TOLD_PASSWORD]


@pytest.mark.parametrize("answer", ["535 5.7.8 bad credentials", "334 more?", Trick.HANG_UP, Trick.STALL])
@pytest.mark.parametrize("step", ["AUTH", TOLD_USER, TOLD_PASSWORD])
def test_wherever_such_a_login_ends_no_password_is_shown(trust: Trust, step: str, answer: str | Trick) -> None:
    answers: dict[str, Any] = {"AUTH": "334 VXNlcm5hbWU6", TOLD_USER: "334 UGFzc3dvcmQ6", TOLD_PASSWORD: "535 no"}
    script = Script(features=LOGIN_ONLY, answers={**answers, step: answer})
    with relay_way(trust, script) as way, capture_logs() as logs:
        way.transport._timeouts = Timeouts(command_s=0.3)
        result = way.send()
    assert result.outcome.verdict is Verdict.TEMPORARY
    assert result.outcome.is_our_fault is isinstance(answer, str)
    assert "MAIL" not in way.peer.verbs()
    assert SECRET not in repr((result, logs))
    assert TOLD_PASSWORD not in repr((result, logs))


@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
@pytest.mark.parametrize("reply", ["530 5.7.0 Authentication required", "530 5.7.0 Must issue STARTTLS first"])
def test_a_relay_that_wants_a_login_makes_the_mail_wait(trust: Trust, step: str, reply: str) -> None:
    with relay_way(trust, Script(answers={step: reply}), login="") as way:
        result = way.send()
    assert (result.outcome.verdict, result.outcome.is_our_fault) == (Verdict.TEMPORARY, True)
    assert (result.outcome.status, result.enhanced, result.reply) == (530, "4.7.0", reply)


def test_a_stranger_that_wants_a_login_refuses_the_mail() -> None:
    """The host of a mistyped domain, for one: whoever sent the mail is to know at once."""
    script = Script(answers={"MAIL": "530 5.7.0 Authentication required"})
    with running_peer(script) as peer, edge_to(peer.port) as edge:
        assert edge.send().outcome.verdict is Verdict.PERMANENT


@pytest.mark.parametrize(("is_named", "verdict"), [(True, Verdict.ACCEPTED), (False, Verdict.TEMPORARY)])
def test_a_relay_that_is_named_by_its_address_shows_a_certificate_for_it(
    trust: Trust, is_named: bool, verdict: Verdict
) -> None:
    context = issue(trust.root, "127.0.0.1" if is_named else "127.0.0.2").context(trust.folder)
    with running_peer(Script(features=OFFERED, answers={"AUTH": "235 welcome"}), context) as peer:
        result = _relay_transport(trust, f"smtp://me:{SECRET_IN_URL}@127.0.0.1:{peer.port}").deliver(MAIL)[0]
    assert result.outcome.verdict is verdict


@pytest.mark.parametrize(
    "script",
    [
        Script(features=("AUTH PLAIN",)),
        Script(features=OFFERED, answers={"STARTTLS": "454 not now"}),
        Script(features=("STARTTLS", "AUTH CRAM-MD5")),
        Script(features=OFFERED, handshake=False),
    ],
    ids=["no TLS", "TLS taken back", "no PLAIN", "handshake fails"],
)
def test_no_password_is_told_in_clear(trust: Trust, script: Script) -> None:
    with relay_way(trust, script) as way:
        result = way.send()
    assert result.outcome.verdict is Verdict.TEMPORARY
    assert not {"AUTH", "MAIL"} & set(way.peer.verbs())


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_no_password_is_told_to_whoever_answers(trust: Trust, scheme: str) -> None:
    script = Script(features=OFFERED, answers={"AUTH": "235 welcome"})
    with relay_way(trust, script, name="elsewhere.test", scheme=scheme) as way:
        result = way.send()
    assert (result.outcome.verdict, result.enhanced) == (Verdict.TEMPORARY, "4.7.5")
    assert not {"AUTH", "MAIL"} & set(way.peer.verbs())


def test_a_relay_without_login_is_asked_for_none(trust: Trust) -> None:
    with relay_way(trust, Script(features=OFFERED), login="", name="elsewhere.test") as way:
        result = way.send()
    assert (result.outcome.verdict, result.tls) == (Verdict.ACCEPTED, TlsLevel.OPPORTUNISTIC)
    assert "AUTH" not in way.peer.verbs()


def test_a_relay_that_takes_no_mail_at_all_is_set_up_wrongly_and_loses_none(trust: Trust) -> None:
    with relay_way(trust, Script(greeting="521 5.3.2 no mail here"), login="") as way:
        result = way.send()
    assert (result.outcome.verdict, result.outcome.is_our_fault) == (Verdict.TEMPORARY, True)
    assert result.outcome.status == 521
