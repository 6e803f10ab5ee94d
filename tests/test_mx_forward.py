"""Mail forwarded to a mailbox: what is put before it, what is left alone, and that real hosts take it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy

import pytest

from core.addresses import Mailbox, parse_mailbox
from core.clock import DAY_MS, HOUR_MS, system_clock
from core.delivery import Verdict
from core.dsn import DsnReport, FailedRecipient, compose_dsn
from core.envelope import Envelope
from core.errors import InvalidField
from core.mailto import parse_mailto
from core.netguard import is_mailbox
from core.srs import SrsRewriter, bounce_destination
from core.verdicts import AuthResult, DmarcVerdict, SpfVerdict, Verdicts
from outbound.forward_mail import Forward, MailForwarder, bears_mark
from outbound.mail import OutgoingMail, RecipientResult
from outbound.policy import SMTP_POLICY
from tests.mx_support import DOMAIN, OUR_NAME, RECIPIENT, Edge, edge_to
from tests.postfix_server import Postfix, running_postfix
from tests.scripted_smtp import Peer, Script, running_peer

OURS = "in.us.test"
BOX = f"0123456789abcdef0123@{OURS}"
RAW = (
    b"From: A <a@origin.test>\r\nDate: Mon, 21 Sep 2026 14:13:20 +0000\r\nMessage-ID: <1@origin.test>\r\n"
    b"DKIM-Signature: v=1; b=abc\r\nSubject:  odd   spacing\r\n\t kept\r\n\r\n.Hi.\r\n"
)
ENVELOPE = Envelope(
    mail_from="a@origin.test",
    recipients=(BOX,),
    helo="client.origin.test",
    remote_ip="192.0.2.7",
    tls_version="TLSv1.3",
    tls_cipher="TLS_AES_256_GCM_SHA384",
    md5="0" * 32,
    received_at=datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC),
)
SRS = SrsRewriter(b"secret", OURS, system_clock)


def mailbox(text: str) -> Mailbox:
    found = parse_mailbox(text)
    assert found is not None
    return found


FORWARD = Forward("0199-delivery", ENVELOPE, mailbox(RECIPIENT), BOX, RAW)


@dataclass
class Way:
    """A peer and the way to it."""

    peer: Peer
    edge: Edge

    def forward(self, forward: Forward = FORWARD) -> RecipientResult:
        """Forward one mail."""
        return MailForwarder(self.edge.transport, SRS, OUR_NAME, system_clock).send(forward)


@pytest.fixture
def way() -> Iterator[Way]:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        yield Way(peer, edge)


def test_trace_headers_come_first_and_the_rest_is_as_it_was(way: Way) -> None:
    assert way.forward().outcome.verdict is Verdict.ACCEPTED
    (taken,) = way.peer.taken
    assert taken.content.endswith(RAW)
    assert taken.content.removesuffix(RAW).decode().split("\r\n") == [
        f"X-Pillarbox-Forwarded: {BOX}",
        "Received: from client.origin.test ([192.0.2.7])",
        f"\tby {OUR_NAME} with ESMTPS id 0199-delivery for <{BOX}>;",
        "\tMon, 21 Sep 2026 14:13:20 +0000",
        "",
    ]
    assert taken.recipients == [f"RCPT TO:<{RECIPIENT}>"]


def test_the_sender_becomes_ours_and_a_bounce_finds_back(way: Way) -> None:
    way.forward()
    sender = way.peer.taken[0].mail_from.removeprefix("MAIL FROM:<").partition(">")[0]
    assert sender.endswith(f"@{OURS}")
    original = bounce_destination(SRS, mailbox(sender), "")
    assert original == mailbox("a@origin.test")


def test_a_bounce_is_forwarded_with_the_null_sender(way: Way) -> None:
    way.forward(replace(FORWARD, envelope=replace(ENVELOPE, mail_from="")))
    assert way.peer.taken[0].mail_from.startswith("MAIL FROM:<>")


def test_several_recipients_are_not_told_of_each_other(way: Way) -> None:
    way.forward(replace(FORWARD, envelope=replace(ENVELOPE, recipients=(BOX, f"secret@{OURS}"))))
    assert b"secret" not in way.peer.taken[0].content
    assert b" for <" not in way.peer.taken[0].content


@pytest.mark.parametrize(
    ("helo", "remote_ip", "line"),
    [
        ("a\r\nX-Evil: 1", "192.0.2.7", b"Received: from a??X-Evil:?1 ([192.0.2.7])\r\n"),
        ("(a) <b>; \x00\u00e9", "2001:db8::1", b"Received: from ?a???b????? ([IPv6:2001:db8::1])\r\n"),
        ("", "nonsense\r\nX-Evil: 1", b"Received: from unknown (unknown)\r\n"),
        ("[192.0.2.7]", "192.0.2.7", b"Received: from [192.0.2.7] ([192.0.2.7])\r\n"),
    ],
)
def test_what_a_client_said_makes_no_header(way: Way, helo: str, remote_ip: str, line: bytes) -> None:
    way.forward(replace(FORWARD, envelope=replace(ENVELOPE, helo=helo, remote_ip=remote_ip)))
    assert line in way.peer.taken[0].content
    assert b"\r\nX-Evil" not in way.peer.taken[0].content


@pytest.mark.parametrize(
    ("headers", "bears"),
    [
        (f"X-Pillarbox-Forwarded: {BOX}\r\n", True),
        (f"Subject: x\r\nx-pillarbox-forwarded:\t{BOX.upper()} \r\n", True),
        (f"Subject: x\nX-Pillarbox-Forwarded: {BOX}\n", True),
        (f"X-Pillarbox-Forwarded: other@{OURS}\r\nX-Pillarbox-Forwarded: {BOX}\r\n", True),
        (f"X-Pillarbox-Forwarded: other@{OURS}\r\n", False),
        (f"Subject: X-Pillarbox-Forwarded: {BOX}\r\n", False),
        (f"Subject: x\r\n\r\nX-Pillarbox-Forwarded: {BOX}\r\n", False),
        ("", False),
    ],
)
def test_the_mark_is_looked_for_in_the_headers_only(headers: str, bears: bool) -> None:
    assert bears_mark(headers.encode() + b"\r\nbody", BOX) == bears


def test_a_mail_that_was_here_before_is_not_forwarded_again(way: Way) -> None:
    way.forward()
    result = way.forward(replace(FORWARD, content=way.peer.taken[0].content))
    assert (result.outcome.verdict, result.enhanced) == (Verdict.PERMANENT, "5.4.6")
    assert BOX in (result.outcome.error or "")
    assert len(way.peer.taken) == 1


NEARBY = ("ceo@us.test", "ceo@in.us.test", "ceo@sub.US.test", "x <ceo@us.\r\n test>", '"a" <ceo@ us.test>')


@pytest.mark.parametrize("author", NEARBY)
def test_our_name_is_not_lent_to_strangers(way: Way, author: str) -> None:
    """With our sender, SPF would pass and be aligned with this From: DMARC would pass for whoever wrote it."""
    forward = replace(FORWARD, content=f"From: {author}\r\n\r\nPay!\r\n".encode())
    way.forward(forward)
    assert way.peer.taken[0].mail_from.startswith("MAIL FROM:<a@origin.test>")
    authentic = Verdicts(dmarc=DmarcVerdict(AuthResult.PASS, "us.test"))
    way.forward(replace(forward, envelope=replace(ENVELOPE, verdicts=authentic)))
    assert way.peer.taken[1].mail_from.startswith("MAIL FROM:<SRS0=")


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (AuthResult.FAIL, Verdict.PERMANENT),
        (AuthResult.SOFTFAIL, Verdict.PERMANENT),
        (AuthResult.PASS, Verdict.ACCEPTED),
        (AuthResult.NONE, Verdict.ACCEPTED),
    ],
)
def test_a_forged_sender_of_ours_is_not_forwarded(way: Way, result: AuthResult, verdict: Verdict) -> None:
    verdicts = Verdicts(spf=SpfVerdict(result, OURS))
    outcome = way.forward(replace(FORWARD, envelope=replace(ENVELOPE, mail_from=f"x@{OURS}", verdicts=verdicts)))
    assert outcome.outcome.verdict is verdict
    assert len(way.peer.taken) == (verdict is Verdict.ACCEPTED)


# --- targets ---


@pytest.mark.parametrize(
    ("url", "text", "domain"),
    [
        ("mailto:user@example.com", "user@example.com", "example.com"),
        ("MAILTO:User@Example.COM", "User@Example.COM", "example.com"),
        ("mailto:a%2Bb@example.com", "a+b@example.com", "example.com"),
        ("mailto:a+b@example.com", "a+b@example.com", "example.com"),
        ("mailto:user@bücher.example", "user@bücher.example", "xn--bcher-kva.example"),
        ("mailto:%22a%20b%22@example.com", '"a b"@example.com', "example.com"),
    ],
)
def test_a_target_that_is_a_mailbox(url: str, text: str, domain: str) -> None:
    found = parse_mailto("target", url)
    assert (found.text, found.domain) == (text, domain)
    assert is_mailbox(url)


@pytest.mark.parametrize(
    "url",
    [
        "mailto:",
        "mailto:user",
        "mailto:user@example.com?subject=x",
        "mailto:user@example.com#x",
        "mailto:a@example.com,b@example.com",
        "mailto:user@example.com%0d%0aRCPT%20TO:<x@y>",
        "mailto:user@example.com%0A",
        "mailto:user@[127.0.0.1]",
        "mailto:user@localhost",
        "mailto:%ff@example.com",
        "mailto://user@example.com",
        "mailto:Name <user@example.com>",
        f"mailto:{'x' * 250}@example.com",
        "https://example.com/",
        "",
    ],
)
def test_a_target_that_names_no_single_mailbox(url: str) -> None:
    with pytest.raises(InvalidField, match=r"^target: must |^target: holds "):
        parse_mailto("target", url)


def test_the_schedule_ends_within_its_limit() -> None:
    total = sum(SMTP_POLICY.schedule_ms)
    assert total > 36 * HOUR_MS
    assert total * (1 + SMTP_POLICY.jitter) < SMTP_POLICY.give_up_after_ms <= 3 * DAY_MS
    assert sum(pause <= 15 * 60_000 for pause in SMTP_POLICY.schedule_ms) >= 3


# --- with Postfix ---


@dataclass
class RealHost:
    """Postfix as the MX of the domain, and where it sends everything on to."""

    postfix: Postfix
    sink: Peer
    edge: Edge


@pytest.fixture(scope="module")
def real_host() -> Iterator[RealHost]:
    with running_peer(Script()) as sink, running_postfix(sink.port) as postfix, edge_to(postfix.port) as edge:
        yield RealHost(postfix, sink, edge)


def arrived(host: RealHost) -> bytes:
    """The mail that Postfix has sent on."""
    host.postfix.wait_until_empty()
    return host.sink.taken[-1].content


def test_postfix_takes_a_forwarded_mail_whole(real_host: RealHost) -> None:
    forwarder = MailForwarder(real_host.edge.transport, SRS, OUR_NAME, system_clock)
    result = forwarder.send(FORWARD)
    assert result.outcome.verdict is Verdict.ACCEPTED
    assert "queued as" in (result.reply or "")
    content = arrived(real_host)
    assert content.endswith(RAW)
    assert content.startswith(b"Received: ")
    assert real_host.sink.taken[-1].mail_from.startswith("MAIL FROM:<SRS0=")


def test_postfix_takes_our_notification(real_host: RealHost) -> None:
    failed = FailedRecipient(BOX, "5.1.1", "the target refused it", "550 5.1.1 No such user")
    now_ms = system_clock()
    report = DsnReport("user@example.test", (failed,), RAW, now_ms, now_ms, OUR_NAME, OURS, "0199-one")
    (result,) = real_host.edge.transport.deliver(OutgoingMail("", (RECIPIENT,), compose_dsn(report)))
    assert result.outcome.verdict is Verdict.ACCEPTED
    content = arrived(real_host)
    assert real_host.sink.taken[-1].mail_from.startswith("MAIL FROM:<>")
    message = message_from_bytes(content, policy=policy.SMTP)
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "text/plain", "message/delivery-status", "text/rfc822-headers",
    ]  # fmt: skip


def test_postfix_takes_a_large_mail_with_odd_lines(real_host: RealHost) -> None:
    content = b"Subject: x\n\n" + b".\r..\n.x\r\n" * 200_000 + b"\xff\xfe" * 10 + b"end"
    (result,) = real_host.edge.transport.deliver(OutgoingMail("a@origin.test", (RECIPIENT,), content))
    assert result.outcome.verdict is Verdict.ACCEPTED
    body = arrived(real_host).partition(b"\r\n\r\n")[2]
    assert body.count(b"\r\n") == body.count(b"\n") == body.count(b"\r")
    assert body.startswith(b".\r\n..\r\n.x\r\n")
    assert len(body) == len(b".\r\n..\r\n.x\r\n") * 200_000 + 25


def test_postfix_refuses_a_relay_to_elsewhere_for_good(real_host: RealHost) -> None:
    (result,) = real_host.edge.transport.deliver(OutgoingMail("a@origin.test", (f'"@x"@{DOMAIN}',), RAW))
    assert result.outcome.verdict in (Verdict.ACCEPTED, Verdict.PERMANENT)
    (result,) = real_host.edge.transport.deliver(OutgoingMail("a@origin.test", (RECIPIENT,), b"x" * 61_000_000))
    assert (result.outcome.verdict, result.enhanced) == (Verdict.PERMANENT, "5.3.4")
