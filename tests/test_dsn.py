"""Delivery status notifications: to whom, and in a form that mail programs read."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

import pytest

from core.clock import to_datetime
from core.dsn import MAX_RETURNED_BYTES, DsnReport, FailedRecipient, compose_dsn, may_bounce
from core.verdicts import AuthResult, DkimSignature, DkimVerdict, SpfVerdict, Verdicts
from inbound.reading.trace import is_automatic

NOW_MS = 1_790_000_000_123
ORIGINAL = b"From: a@example.com\r\nSubject: Hello\r\nMessage-ID: <one@example.com>\r\n\r\nSecret body.\r\n"
FAILED = FailedRecipient(
    "box@in.us.test", "5.1.1", "the target refused it with 404", "550 5.1.1 No such user", remote_host="mx.example.net"
)
REPORT = DsnReport(
    sender="sender@example.com",
    failed=(FAILED,),
    original=ORIGINAL,
    arrived_ms=NOW_MS - 60_000,
    now_ms=NOW_MS,
    reporting_host="mx.us.test",
    from_domain="in.us.test",
    identifier="0199-unguessable",
)


def read(dsn: bytes) -> EmailMessage:
    """As a mail program would; what is not as it should be is a failure."""
    message = message_from_bytes(dsn, policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert part.defects == []
    return message


def parts(message: EmailMessage) -> list[EmailMessage]:
    return [part for part in message.iter_parts() if isinstance(part, EmailMessage)]


def test_the_headers() -> None:
    message = read(compose_dsn(REPORT))
    assert message["To"] == "sender@example.com"
    assert message["From"].addresses[0].addr_spec == "mailer-daemon@in.us.test"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["In-Reply-To"] == message["References"] == "<one@example.com>"
    assert message["Message-ID"] == "<0199-unguessable@mx.us.test>"
    assert parsedate_to_datetime(message["Date"]) == to_datetime(NOW_MS).replace(microsecond=0)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"


def test_the_three_parts() -> None:
    text, status, returned = parts(read(compose_dsn(REPORT)))
    assert text.get_content_type() == "text/plain"
    assert "<box@in.us.test>" in text.get_content()
    assert "the target refused it with 404" in text.get_content()
    assert status.get_content_type() == "message/delivery-status"
    of_message, of_recipient = status.get_payload()
    assert of_message["Reporting-MTA"] == "dns; mx.us.test"
    assert parsedate_to_datetime(of_message["Arrival-Date"]).timestamp() == (NOW_MS - 60_000) // 1000
    assert dict(of_recipient.items()) == {
        "Final-Recipient": "rfc822; box@in.us.test",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.net",
        "Diagnostic-Code": "smtp; 550 5.1.1 No such user",
    }
    assert returned.get_content_type() == "text/rfc822-headers"
    content = returned.get_payload(decode=True)
    assert content.split() == ORIGINAL.partition(b"\r\n\r\n")[0].split()


def test_the_body_is_not_returned() -> None:
    assert b"Secret body" not in compose_dsn(REPORT)


def test_each_recipient_has_its_block() -> None:
    failed = tuple(replace(FAILED, address=f"box{number}@in.us.test") for number in range(5))
    status = parts(read(compose_dsn(replace(REPORT, failed=failed))))[1]
    blocks = status.get_payload()
    assert [block["Final-Recipient"] for block in blocks[1:]] == [f"rfc822; {one.address}" for one in failed]


def test_an_answer_of_http_is_said_to_be_one() -> None:
    failed = FailedRecipient("box@in.us.test", "5.0.0", "refused", "404 Not Found", diagnostic_type="x-http")
    status = parts(read(compose_dsn(replace(REPORT, failed=(failed,)))))[1]
    assert status.get_payload()[1]["Diagnostic-Code"] == "x-http; 404 Not Found"
    assert "Remote-MTA" not in status.get_payload()[1]


@pytest.mark.parametrize(
    "original",
    [
        ORIGINAL,
        b"",
        b"\r\nbody only\r\n",
        b"no end of headers",
        b"Subject: " + b"x" * 100_000 + b"\r\n\r\n",
        b"".join(b"X-%d: some text\r\n" % number for number in range(10_000)) + b"\r\n",
        "Subject: D\u00e9j\u00e0 vu\r\n\r\nbody".encode(),
        b"Subject: a\x00b\rc\nd\r\n\r\n",
        b"Subject: a\nX: b\n\nbody",
        b"--boundary\r\n\r\n",
    ],
)
def test_any_original_makes_a_clean_notification(original: bytes) -> None:
    dsn = compose_dsn(replace(REPORT, original=original))
    assert dsn.isascii()
    assert dsn.count(b"\r\n") == dsn.count(b"\r") == dsn.count(b"\n")
    assert b"\0" not in dsn
    assert max(map(len, dsn.split(b"\r\n"))) <= 998
    assert len(dsn) < 2 * MAX_RETURNED_BYTES
    assert len(parts(read(dsn))) == 3


def test_headers_beyond_ascii_come_back_whole() -> None:
    original = "Subject: D\u00e9j\u00e0 vu\r\nX: y\r\n\r\nbody".encode()
    returned = parts(read(compose_dsn(replace(REPORT, original=original))))[2]
    assert returned.get_payload(decode=True).strip().splitlines() == ["Subject: D\u00e9j\u00e0 vu".encode(), b"X: y"]


@pytest.mark.parametrize(
    "text", ["550 5.1.1 a\r\nX-Evil: 1\r\n\r\nbody", "550 " + "x" * 5_000, "550 \u00e9\u00e8\x00\x1b", "", "  "]
)
def test_what_others_said_makes_no_header(text: str) -> None:
    failed = replace(FAILED, diagnostic=text, reason=text, remote_host="mx\r\nX-Evil: 2", address="a\r\nX-Evil: 3")
    dsn = compose_dsn(replace(REPORT, failed=(failed,)))
    message = read(dsn)
    assert b"\r\nX-Evil" not in dsn
    assert dsn.isascii()
    assert max(map(len, dsn.split(b"\r\n"))) <= 998
    assert len(parts(message)[1].get_payload()) == 2


def test_an_address_beyond_ascii_is_escaped() -> None:
    failed = replace(FAILED, address="d\u00e9j\u00e0+vu@in.us.test")
    status = parts(read(compose_dsn(replace(REPORT, failed=(failed,)))))[1]
    assert status.get_payload()[1]["Final-Recipient"] == r"utf-8; d\x{E9}j\x{E0}\x{2B}vu@in.us.test"


@pytest.mark.parametrize("message_id", [b"<a b@c>", b"none", b"<a@b>, <c@d>", b"<" + b"x" * 2000 + b">", b"<\xe9@b>"])
def test_a_message_id_that_is_none_is_not_repeated(message_id: bytes) -> None:
    message = read(compose_dsn(replace(REPORT, original=b"Message-ID: " + message_id + b"\r\n\r\n")))
    assert message["In-Reply-To"] is None
    assert message["References"] is None


@pytest.mark.parametrize("sender", ["", "nobody", "a@b.test>\r\nBcc: <c@d.test"])
def test_there_must_be_somebody_to_tell(sender: str) -> None:
    with pytest.raises(ValueError, match="sender"):
        compose_dsn(replace(REPORT, sender=sender))


# --- to whom ---


def spf(result: AuthResult = AuthResult.PASS, domain: str = "example.com", is_helo: bool = False) -> Verdicts:
    return Verdicts(spf=SpfVerdict(result, domain, is_helo))


def dkim(domain: str, result: AuthResult = AuthResult.PASS, is_limited: bool = False) -> Verdicts:
    return Verdicts(dkim=DkimVerdict((DkimSignature(result, domain, "s", is_length_limited=is_limited),)))


@pytest.mark.parametrize(
    ("verdicts", "may"),
    [
        (None, False),
        (Verdicts(), False),
        (spf(), True),
        (spf(AuthResult.SOFTFAIL), False),
        (spf(AuthResult.NEUTRAL), False),
        (spf(AuthResult.NONE), False),
        (spf(domain="other.example"), False),
        (spf(is_helo=True), False),
        (dkim("example.com"), True),
        (dkim("example.com", AuthResult.FAIL), False),
        (dkim("example.com", is_limited=True), False),
        (dkim("other.example"), False),
        (dkim("com"), False),
        (dkim("mail.example.com"), False),
        (dkim("badexample.com"), False),
    ],
)
def test_only_who_proved_to_be_the_sender_is_told(verdicts: Verdicts | None, may: bool) -> None:
    assert may_bounce("sender@example.com", verdicts, is_automatic=False, is_ours=False) == may


def test_the_signature_of_the_domain_above_counts() -> None:
    assert may_bounce("x@bounce.example.com", dkim("example.com"), is_automatic=False, is_ours=False)


@pytest.mark.parametrize("sender", ["", "no address", "MAILER-DAEMON@example.com", "postmaster@example.com"])
def test_nobody_is_told_of_a_notification(sender: str) -> None:
    assert not may_bounce(sender, spf(), is_automatic=False, is_ours=False)


def test_neither_machines_nor_ourselves_are_told() -> None:
    assert not may_bounce("sender@example.com", spf(), is_automatic=True, is_ours=False)
    assert not may_bounce("sender@example.com", spf(), is_automatic=False, is_ours=True)


def test_our_own_notification_is_recognised_as_automatic() -> None:
    assert is_automatic(compose_dsn(REPORT))
