"""What comes back is understood: bounces, complaints, automatic answers, and people (`inbound.returned_mail`)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.dsn import DsnReport, FailedRecipient, compose_dsn
from core.ids import new_time_ordered_id
from core.sending.returned import DsnAction, Returned, ReturnedKind, Severity
from core.sending.verp import RETURN_HEADER, ReturnPaths
from inbound.returned_mail import classifier, classify
from tests.returned_samples import (
    ANSWERS,
    BOUNCE_ADDRESS,
    KIM,
    MESSAGE_ID,
    ORIGINAL,
    SAMPLES,
    SUBJECTS_OF_ABSENCE,
    Sample,
    arf,
    mail,
    report,
    status_fields,
)

NOW_MS = 1_790_000_000_000
PATHS = ReturnPaths(b"a secret of all processes", lambda: NOW_MS)
DELIVERY_ID = new_time_ordered_id(NOW_MS - 1000)
RATIO_LIMIT = 2.5
"""For twice the input: quadratic code has 4."""
bounded = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def judged(raw: bytes, envelope_from: str = "") -> Returned:
    return classify(raw, envelope_from, [BOUNCE_ADDRESS], PATHS)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_every_sample_is_what_it_is(sample: Sample) -> None:
    returned = judged(sample.raw, sample.envelope_from)
    assert returned.kind is sample.kind, returned
    assert tuple((one.address, one.severity) for one in returned.recipients) == sample.failed, returned
    if sample.message_id is not None:
        assert returned.original_message_id == sample.message_id
    assert (returned.complaint.feedback_type if returned.complaint else None) is sample.feedback


def test_there_are_enough_samples_and_no_two_share_a_name() -> None:
    assert len({sample.name for sample in SAMPLES}) == len(SAMPLES) >= 60


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_line_ends_do_not_matter(sample: Sample) -> None:
    with_lf = judged(sample.raw.replace(b"\r\n", b"\n"), sample.envelope_from)
    assert with_lf.kind is sample.kind
    assert [one.address for one in with_lf.recipients] == [address for address, _ in sample.failed]


def test_every_detail_of_a_status_is_kept() -> None:
    extra = "Original-Recipient: rfc822;Kim.Shop@far.test\nRemote-MTA: dns; mx2.far.test (192.0.2.1)"
    status = status_fields("5.1.1", "550-5.1.1 No such\n user here", extra=extra)
    returned = judged(report(status, text="It did\narrive not."))
    (one,) = returned.recipients
    assert (one.address, one.original_address) == (KIM, "Kim.Shop@far.test")
    assert (one.action, one.status, one.smtp_code) == (DsnAction.FAILED, "5.1.1", 550)
    assert (one.diagnostic, one.remote_mta) == ("550-5.1.1 No such user here", "mx2.far.test")
    assert returned.reporting_mta == "mx.far.test"
    assert returned.text == "It did\narrive not."


def test_every_detail_of_a_complaint_is_kept() -> None:
    fields = (
        "Feedback-Type: abuse\nSource-IP: 2001:db8::1\nOriginal-Mail-From: <b-path@mta.us.test>\n"
        "Original-Rcpt-To: <kim@far.test>\nOriginal-Rcpt-To: lee@far.test\nReported-Domain: US.test\n"
        "Arrival-Date: Fri, 20 Nov 2026 21:49:15 +0000\n"
    )
    complaint = judged(arf(fields)).complaint
    assert complaint is not None
    assert complaint.is_against_sender
    assert (complaint.user_agent, complaint.source_ip) == ("Loop/1.0", "2001:db8::1")
    assert complaint.original_mail_from == "b-path@mta.us.test"
    assert complaint.original_recipients == (KIM, "lee@far.test")
    assert (complaint.arrived_ms, complaint.reported_domains) == (1795211355000, ("us.test",))


@pytest.mark.parametrize("kind", ["not-spam", "auth-failure"])
def test_not_every_feedback_blames_the_sender(kind: str) -> None:
    complaint = judged(arf(f"Feedback-Type: {kind}\n")).complaint
    assert complaint is not None
    assert not complaint.is_against_sender


def test_microsofts_report_names_recipient_and_address() -> None:
    (sample,) = [one for one in SAMPLES if one.name.startswith("Microsoft")]
    complaint = judged(sample.raw).complaint
    assert complaint is not None
    assert (complaint.original_recipients, complaint.source_ip) == ((KIM,), "192.0.2.10")


# --- which mail it is about ---


def test_the_return_path_it_came_to_names_the_delivery() -> None:
    address = PATHS.make(DELIVERY_ID, "mta.us.test")
    returned = classify(report(status_fields("5.1.1")), "", ["other@us.test", address.upper()], PATHS)
    assert returned.delivery_id == DELIVERY_ID
    assert classify(report(status_fields("5.1.1")), "", [address]).delivery_id is None


@pytest.mark.parametrize("line", ["{name}: {local}", "Return-Path: <{local}@mta.us.test>", "CFBL-Feedback-ID: {local}"])
@pytest.mark.parametrize("make", [report, lambda status, original: mail(f"user unknown: {KIM}\n\n{original}")])
def test_a_returned_header_names_it_too(line: str, make: object) -> None:
    local = PATHS.local_part(DELIVERY_ID)
    original = line.format(name=RETURN_HEADER, local=local) + "\n" + ORIGINAL.partition("\n")[2]
    assert callable(make)
    assert judged(make(status_fields("5.1.1"), original=original)).delivery_id == DELIVERY_ID


def test_so_does_the_envelope_id() -> None:
    status = f"Original-Envelope-Id: {PATHS.local_part(DELIVERY_ID)}\n" + status_fields("5.1.1")
    assert judged(report(status)).delivery_id == DELIVERY_ID


def test_a_forged_one_names_nothing() -> None:
    local = ReturnPaths(b"another secret", lambda: NOW_MS).local_part(DELIVERY_ID)
    returned = judged(report(status_fields("5.1.1"), original=f"{RETURN_HEADER}: {local}\n{ORIGINAL}"))
    assert returned.delivery_id is None


# --- our own, and subjects ---


def test_a_notification_of_our_own_is_read() -> None:
    failed = (
        FailedRecipient(KIM, "5.1.1", "no such user", "550 5.1.1 No such user", remote_host="mx.far.test"),
        FailedRecipient("léa@far.test", "4.4.1", "no answer", None),
    )
    original = ORIGINAL.replace("\n", "\r\n").encode() + b"\r\nHello\r\n"
    dsn = compose_dsn(DsnReport(BOUNCE_ADDRESS, failed, original, NOW_MS, NOW_MS, "mx.us.test", "us.test", "one"))
    returned = judged(dsn)
    assert returned.kind is ReturnedKind.HARD_BOUNCE
    assert [(one.address, one.severity) for one in returned.recipients] == [
        (KIM, Severity.HARD),
        ("léa@far.test", Severity.SOFT),
    ]
    assert returned.recipients[0].remote_mta == "mx.far.test"
    assert returned.original_message_id == MESSAGE_ID


@pytest.mark.parametrize("language", SUBJECTS_OF_ABSENCE)
def test_a_subject_is_only_a_weak_sign(language: str) -> None:
    subject, words = SUBJECTS_OF_ABSENCE[language]
    assert judged(mail(words, subject, KIM), KIM).kind is ReturnedKind.AUTO_REPLY
    assert judged(mail("Ok.", subject, KIM), "").kind is ReturnedKind.AUTO_REPLY
    assert judged(mail("Ok.", subject, KIM), KIM).kind is ReturnedKind.BOUNCE_REPLY
    assert judged(mail("Ok.", f"Re: {subject}", KIM), KIM).kind is ReturnedKind.BOUNCE_REPLY


def test_no_answer_of_a_program_or_person_is_a_bounce() -> None:
    bounces = {ReturnedKind.HARD_BOUNCE, ReturnedKind.SOFT_BOUNCE}
    assert all(judged(one.raw, one.envelope_from).kind not in bounces for one in ANSWERS)


# --- hostile input ---

PIECES = [line + "\n" for line in report(status_fields("5.1.1", "550 x")).decode().split("\r\n")] + [
    *(
        "Final-Recipient: ",
        "utf-8; \\x{110000}",
        "\\x{D800}",
        "Arrival-Date: 99 Nov 99999999",
        ";",
        "<",
        ">",
        "@",
        "\n",
    ),
    *("Feedback-Type: ", "Content-Type: message/feedback-report\n\n", "X-Failed-Recipients: a@b,,@", "\x00", "\udcff"),
    *(
        "Precedence: ",
        "Auto-Submitted: ",
        "Auto-Submitted: ;\n",
        "References: ",
        "In-Reply-To: <",
        "\u2028",
        "é",
        "=?x?",
    ),
    *(
        "This is the qmail-send program\n",
        "<a@b>:\n",
        "Received: x\n",
        "5.1.1",
        "550 ",
        "Content-Transfer-Encoding: base64\n",
    ),
]


@bounded
@given(st.lists(st.sampled_from(PIECES), max_size=40), st.sampled_from(["", "a@b.test", "@", "\udcff"]))
def test_pieces_in_any_order_give_something_presentable(pieces: list[str], envelope_from: str) -> None:
    assert_presentable(judged("".join(pieces).encode("utf-8", "surrogateescape"), envelope_from))


@bounded
@given(st.binary(max_size=2000))
def test_random_bytes_give_something_presentable(raw: bytes) -> None:
    assert_presentable(judged(raw))


def assert_presentable(returned: Returned) -> None:
    assert returned.recognised_by != "an error of ours"
    texts = [returned.original_message_id, returned.reporting_mta, *returned.text.splitlines()]
    for one in returned.recipients:
        texts += [one.address, one.original_address, one.diagnostic, one.remote_mta, one.status]
    if returned.complaint:
        texts += [returned.complaint.stated_type, returned.complaint.user_agent, returned.complaint.source_ip]
    for text in texts:
        assert text is None or (text.replace("\t", " ").isprintable() and len(text) <= 2000), text


@pytest.mark.parametrize("escape", ["110000", "D800", "FFFFFF", "0", "41", "A"])
def test_escapes_of_no_character_do_no_harm(escape: str) -> None:
    returned = judged(report(status_fields("5.1.1", recipient=f"utf-8; \\x{{{escape}}}k@far.test")))
    assert returned.kind is ReturnedKind.HARD_BOUNCE
    assert_presentable(returned)


def test_an_error_of_ours_is_no_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(raw: bytes) -> object:
        raise RuntimeError

    monkeypatch.setattr(classifier, "open_mail", broken)
    assert judged(b"x").kind is ReturnedKind.UNKNOWN


GROWING = {
    "recipients": lambda n: report("Reporting-MTA: dns; x\n\n" + "Final-Recipient: x; a@b\nStatus: 5.1.1\n\n" * n),
    "continuations": lambda n: report(status_fields("5.1.1", "x" + "\n y" * n)),
    "one long line": lambda n: report(status_fields("5.1.1", "x@" * n)),
    "no at sign": lambda n: mail("This is the qmail-send program\n" + "x" * n * 4),
    "at signs": lambda n: mail("This is the qmail-send program\n" + "a@b " * n),
    "address lines": lambda n: mail("This is the qmail-send program\n" + "<a@b>:\n" * n),
    "spaces": lambda n: mail("user unknown " + " \t" * n),
    "digits": lambda n: mail("5." * n + " 550" * n),
    "escapes": lambda n: report(status_fields("5.1.1", recipient="utf-8;" + "\\x{41" * n)),
    "header fields": lambda n: mail("x", **{"X-Failed-Recipients": "a@b, " * n}),
    "references": lambda n: mail("x", References="<a@b> " * n),
    "groups": lambda n: arf("Reported-Domain: x\n\n" * n),
    "html": lambda n: mail("<p>Undeliverable to a@b<" * n, content_type="text/html"),
    "parts": lambda n: mail("--=b\n\nReporting-MTA: x\n" * n, content_type="multipart/report; boundary==b"),
    "angles": lambda n: mail("<" * n + "a@b", sender="<" * n),
    "header in text": lambda n: mail("> Received: x\n" * n),
}


@pytest.mark.parametrize("name", GROWING)
def test_time_is_linear(name: str) -> None:
    size = 50_000
    times = [_time(GROWING[name](size * factor)) for factor in (1, 2, 4)]
    floor = 0.002  # below it, noise decides
    assert times[1] < RATIO_LIMIT * max(times[0], floor), times
    assert times[2] < RATIO_LIMIT * max(times[1], floor), times
    assert times[2] < 2.0


def _time(raw: bytes) -> float:
    best = 10.0
    for _ in range(5):
        start = time.process_time()
        judged(raw)
        best = min(best, time.process_time() - start)
    return best


def test_a_large_message_costs_what_its_beginning_costs() -> None:
    raw = report(status_fields("5.1.1"), original=ORIGINAL + "\n" + "x" * 70 + "\n") + b"A" * 30_000_000
    start = time.process_time()
    assert judged(raw).kind is ReturnedKind.HARD_BOUNCE
    assert time.process_time() - start < 1.0


def test_the_documentation_names_every_kind_and_severity() -> None:
    page = (Path(__file__).parents[1] / "docs" / "bounces.md").read_text()
    rows = {
        line.split("`")[1] for line in page.partition("\n## Suppression\n")[0].splitlines() if line.startswith("| `")
    }
    assert rows == {*ReturnedKind, *Severity}


OUTSIDE = Path(__file__).parents[1].parent / "shared" / "corpus" / "parse"


@pytest.mark.parametrize("envelope_from", ["", "somebody@far.test"])
def test_ordinary_mail_is_never_a_bounce(envelope_from: str) -> None:
    """Of all messages collected for the parser, one is a bounce."""
    paths = [*(Path(__file__).parent / "corpus").glob("*.eml"), *OUTSIDE.rglob("*.eml")]
    kinds = {path.name: judged(path.read_bytes(), envelope_from).kind for path in paths}
    expected = {ReturnedKind.BOUNCE_REPLY, ReturnedKind.UNKNOWN}
    assert {name: kind for name, kind in kinds.items() if kind not in expected} == {
        "bounce.eml": ReturnedKind.HARD_BOUNCE
    }
