"""One mail to a host that says this or that at each step: what becomes of each recipient."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from core.delivery import Verdict
from tests.mx_support import CONTENT, DOMAIN, LONG, OUR_NAME, RECIPIENT, SENDER, SHORT, closed_port, edge_to
from tests.scripted_smtp import Script, Trick, running_peer

OTHER = f"other@{DOMAIN}"
THIRD = f"third@{DOMAIN}"
UTF8_MAILBOX = f"δοκιμή@{DOMAIN}"


def test_a_mail_arrives_byte_for_byte() -> None:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        result = edge.send()
    assert result.outcome.verdict is Verdict.ACCEPTED
    assert (result.outcome.status, result.outcome.error, result.outcome.response) == (250, None, None)
    assert (result.reply, result.host, result.tls_version) == ("250 2.0.0 queued", "mx1.example.test", None)
    assert peer.taken[0].content == CONTENT
    assert peer.lines == [
        "<connected>",
        f"EHLO {OUR_NAME}",
        f"MAIL FROM:<{SENDER}> SIZE={len(CONTENT)}",
        f"RCPT TO:<{RECIPIENT}>",
        "DATA",
        "QUIT",
    ]


def test_a_host_of_the_old_kind_is_greeted_with_helo() -> None:
    with running_peer(Script(answers={"EHLO": "502 what?"})) as peer, edge_to(peer.port) as edge:
        assert edge.send().outcome.verdict is Verdict.ACCEPTED
    assert peer.lines[1:4] == [f"EHLO {OUR_NAME}", f"HELO {OUR_NAME}", f"MAIL FROM:<{SENDER}>"]


def test_the_null_sender_is_written_as_such() -> None:
    with running_peer(Script(features=())) as peer, edge_to(peer.port) as edge:
        edge.send(mail_from="")
    assert peer.taken[0].mail_from == "MAIL FROM:<>"


@pytest.mark.parametrize("features", [("PIPELINING",), ()], ids=["pipelined", "one by one"])
def test_each_recipient_is_judged_on_its_own(features: tuple[str, ...]) -> None:
    answers = {f"RCPT TO:<{OTHER}>": "450 4.2.0 greylisted", f"RCPT TO:<{THIRD}>": "550 5.1.1 unknown"}
    with running_peer(Script(features=features, answers=answers)) as peer, edge_to(peer.port) as edge:
        first, second, third = edge.send_all(recipients=(RECIPIENT, OTHER, THIRD))
    assert first.outcome.verdict is Verdict.ACCEPTED
    assert (second.outcome.verdict, second.outcome.status, second.enhanced) == (Verdict.TEMPORARY, 450, "4.2.0")
    assert (third.outcome.verdict, third.outcome.response) == (Verdict.PERMANENT, "550 5.1.1 unknown")
    assert peer.taken[0].recipients == [f"RCPT TO:<{RECIPIENT}>"]


def test_greylisting_ends_by_itself() -> None:
    answers = {"RCPT": ["451 4.7.1 come again", "250 ok"]}
    with running_peer(Script(answers=answers)) as peer, edge_to(peer.port) as edge:
        assert edge.send().outcome.verdict is Verdict.TEMPORARY
        assert edge.send().outcome.verdict is Verdict.ACCEPTED
    assert "DATA" not in peer.verbs()[: peer.verbs().index("QUIT")]


@pytest.mark.parametrize("count", [1, 120])
def test_many_recipients_go_in_one_transaction(count: int) -> None:
    recipients = tuple(f"user{number}@{DOMAIN}" for number in range(count))
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        results = edge.send_all(recipients=recipients)
    assert [result.recipient for result in results] == list(recipients)
    assert {result.outcome.verdict for result in results} == {Verdict.ACCEPTED}
    assert peer.taken[0].recipients == [f"RCPT TO:<{recipient}>" for recipient in recipients]


def test_one_recipient_too_many_comes_again_later_however_it_is_said() -> None:
    with (
        running_peer(Script(answers={"RCPT": ["250 ok", "552 too many"]})) as peer,
        edge_to(peer.port) as edge,
    ):
        first, second = edge.send_all(recipients=(RECIPIENT, OTHER))
        alone = edge.send()
    assert first.outcome.verdict is Verdict.ACCEPTED
    assert second.outcome.verdict is Verdict.TEMPORARY
    assert alone.outcome.verdict is Verdict.PERMANENT


@pytest.mark.parametrize(
    ("step", "answer", "verdict", "status"),
    [
        ("MAIL", "451 4.3.0 later", Verdict.TEMPORARY, 451),
        ("MAIL", "553 5.1.8 bad sender", Verdict.PERMANENT, 553),
        ("MAIL", "421 4.3.2 closing", Verdict.TEMPORARY, 421),
        ("RCPT", "421 4.3.2 closing", Verdict.TEMPORARY, 421),
        ("RCPT", "550 5.1.1 unknown", Verdict.PERMANENT, 550),
        ("RCPT", "552 5.2.2 mailbox full", Verdict.PERMANENT, 552),
        ("DATA", "451 4.3.0 later", Verdict.TEMPORARY, 451),
        ("DATA", "554 5.5.1 no valid recipients", Verdict.PERMANENT, 554),
        ("DATA", "250 whatever", Verdict.TEMPORARY, 250),
        (".", "451 4.7.0 scanner down", Verdict.TEMPORARY, 451),
        (".", "554 5.7.1 spam", Verdict.PERMANENT, 554),
        (".", "421 4.3.2 closing", Verdict.TEMPORARY, 421),
        ("greeting", "421 busy", Verdict.TEMPORARY, 421),
        ("greeting", "554 go away", Verdict.TEMPORARY, 554),
        ("greeting", "521 5.3.2 no mail here", Verdict.PERMANENT, 521),
        ("EHLO", "550 who are you", Verdict.TEMPORARY, 550),
        ("EHLO", "421 busy", Verdict.TEMPORARY, 421),
    ],
)
@pytest.mark.parametrize("features", [("PIPELINING",), ()], ids=["pipelined", "one by one"])
def test_a_refusal_at_each_step(
    step: str, answer: str, verdict: Verdict, status: int, features: tuple[str, ...]
) -> None:
    script = Script(greeting=answer) if step == "greeting" else Script(answers={step: answer}, features=features)
    with running_peer(script) as peer, edge_to(peer.port) as edge:
        result = edge.send()
    assert (result.outcome.verdict, result.outcome.status) == (verdict, status)
    assert result.outcome.response == result.reply == answer
    assert result.outcome.error is None
    assert result.enhanced[0] == {Verdict.TEMPORARY: "4", Verdict.PERMANENT: "5"}[verdict]
    assert result.host == "mx1.example.test"


@pytest.mark.parametrize("step", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("trick", [Trick.HANG_UP, Trick.RESET, Trick.STALL, Trick.DRIP, Trick.FLOOD, Trick.LONG_LINE])
def test_a_host_that_misbehaves_at_any_step_is_tried_again_later(step: str, trick: Trick) -> None:
    script = Script(greeting=trick) if step == "greeting" else Script(answers={step: trick})
    with running_peer(script) as peer, edge_to(peer.port, SHORT) as edge:
        begun = time.monotonic()
        result = edge.send()
        took = time.monotonic() - begun
    assert result.outcome.verdict is Verdict.TEMPORARY
    assert (result.outcome.status, result.outcome.response) == (0, None)
    assert result.outcome.error is not None
    assert "mx1.example.test (127.0.0.1)" in result.outcome.error
    assert result.outcome.is_timeout == (trick in (Trick.STALL, Trick.DRIP))
    assert result.enhanced[0] == "4"
    assert took < 3
    assert ("may have taken" in result.outcome.error) == (step == ".")


def test_content_refused_midway_ends_with_the_reason_of_the_host() -> None:
    script = Script(answers={".": "552 5.3.4 too much"}, content_limit=100_000)
    content = b"Subject: x\r\n\r\n" + b"y" * 70 + b"\r\n" * 5_000_000
    with running_peer(script) as peer, edge_to(peer.port) as edge:
        result = edge.send(content=content)
    # Whether the words are read before the reset discards them is up to the kernel: both are right, a hang is not.
    assert result.outcome.status in (552, 0)
    assert result.outcome.verdict is (Verdict.PERMANENT if result.outcome.status else Verdict.TEMPORARY)


def test_a_host_that_takes_no_content_is_given_up() -> None:
    script = Script(answers={".": Trick.STALL}, content_limit=1)
    content = b"Subject: x\r\n\r\n" + b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 500_000
    with running_peer(script) as peer, edge_to(peer.port, SHORT) as edge:
        begun = time.monotonic()
        result = edge.send(content=content)
    assert time.monotonic() - begun < 5
    assert (result.outcome.verdict, result.outcome.is_timeout) == (Verdict.TEMPORARY, True)


def test_nobody_listens() -> None:
    with edge_to(closed_port()) as edge:
        result = edge.send()
    assert (result.outcome.verdict, result.outcome.status, result.enhanced) == (Verdict.TEMPORARY, 0, "4.4.1")
    assert "refused" in (result.outcome.error or "")


def test_a_mail_larger_than_the_host_takes_is_not_sent() -> None:
    with running_peer(Script(features=("SIZE 100",))) as peer, edge_to(peer.port) as edge:
        result = edge.send(content=CONTENT + b"x" * 200)
        assert edge.send().outcome.verdict is Verdict.ACCEPTED
    assert (result.outcome.verdict, result.outcome.status, result.enhanced) == (Verdict.PERMANENT, 0, "5.3.4")
    assert len(peer.taken) == 1


@pytest.mark.parametrize("feature", ["SIZE", "SIZE 0", "SIZE lots", "SIZE 99999999999999999999999"])
def test_odd_limits_are_none(feature: str) -> None:
    with running_peer(Script(features=(feature,))) as peer, edge_to(peer.port) as edge:
        assert edge.send().outcome.verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(("features", "parameter"), [(("8BITMIME",), " BODY=8BITMIME"), ((), "")])
def test_eight_bit_content_is_declared_where_that_is_known_and_sent_in_any_case(
    features: tuple[str, ...], parameter: str
) -> None:
    content = "Subject: x\r\n\r\nDéjà vu\r\n".encode()
    with running_peer(Script(features=features)) as peer, edge_to(peer.port) as edge:
        assert edge.send(content=content).outcome.verdict is Verdict.ACCEPTED
    assert peer.taken[0].content == content
    assert peer.taken[0].mail_from == f"MAIL FROM:<{SENDER}>{parameter}"


@pytest.mark.parametrize(
    "changes", [{"recipients": (UTF8_MAILBOX,)}, {"mail_from": "δοκιμή@origin.test"}, {"needs_smtputf8": True}]
)
def test_mail_that_needs_smtputf8_goes_only_where_it_is_known(changes: dict[str, object]) -> None:
    with running_peer(Script(features=("SMTPUTF8", "8BITMIME"))) as peer, edge_to(peer.port) as edge:
        assert edge.send(**changes).outcome.verdict is Verdict.ACCEPTED
        assert peer.taken[0].mail_from.endswith(" SMTPUTF8")
        peer.script.features = ("8BITMIME",)
        result = edge.send(**changes)
    assert (result.outcome.verdict, result.enhanced) == (Verdict.PERMANENT, "5.6.7")
    assert len(peer.taken) == 1


def test_one_recipient_beyond_ascii_does_not_keep_the_mail_from_others() -> None:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        first, second = edge.send_all(recipients=(UTF8_MAILBOX, RECIPIENT))
    assert (first.outcome.verdict, second.outcome.verdict) == (Verdict.PERMANENT, Verdict.ACCEPTED)
    assert peer.taken[0].recipients == [f"RCPT TO:<{RECIPIENT}>"]


@pytest.mark.parametrize(
    "address",
    [
        f"user@{DOMAIN}>\r\nRCPT TO:<evil@{DOMAIN}",
        f"user\r\nDATA@{DOMAIN}",
        f'"a\r\nDATA"@{DOMAIN}',
        f"user@{DOMAIN}\n",
        f"user@{DOMAIN}\r",
        f"us\x00er@{DOMAIN}",
        f"user@{DOMAIN}> SIZE=1",
        "user",
        "",
    ],
)
def test_an_address_that_is_none_is_refused_before_a_byte_is_sent(address: str) -> None:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        result = edge.send(recipients=(address,))
        assert (result.outcome.verdict, result.outcome.status, result.enhanced) == (Verdict.PERMANENT, 0, "5.1.3")
        if address:
            result = edge.send(mail_from=address)
            assert (result.outcome.verdict, result.enhanced) == (Verdict.PERMANENT, "5.1.7")
        assert peer.lines == []
        _, good = edge.send_all(recipients=(address, RECIPIENT))
        assert good.outcome.verdict is Verdict.ACCEPTED


def test_quoted_local_parts_go_as_they_are_written() -> None:
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        assert edge.send(recipients=(f'"a b>c"@{DOMAIN}',)).outcome.verdict is Verdict.ACCEPTED
    assert peer.taken[0].recipients == [f'RCPT TO:<"a b>c"@{DOMAIN}>']


def test_content_with_dots_and_bare_line_ends_arrives_as_one_mail() -> None:
    content = b"Subject: x\n\n.\n.\r.\r\nMAIL FROM:<evil@example.test>\r\n.\rQUIT\n..\n"
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        assert edge.send(content=content).outcome.verdict is Verdict.ACCEPTED
    (taken,) = peer.taken
    assert taken.content == b"Subject: x\r\n\r\n.\r\n.\r\n.\r\nMAIL FROM:<evil@example.test>\r\n.\r\nQUIT\r\n..\r\n"
    assert peer.verbs() == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


def test_recipients_of_several_domains_are_a_mistake_of_the_caller() -> None:
    with edge_to(closed_port()) as edge, pytest.raises(ValueError, match="2 domains"):
        edge.send_all(recipients=(RECIPIENT, "user@elsewhere.test"))


def test_content_is_not_begun_when_the_answer_could_not_be_waited_for() -> None:
    with (
        running_peer(Script()) as peer,
        edge_to(peer.port, replace(LONG, total_s=2.0, reserve_s=3.0)) as edge,
    ):
        result = edge.send()
    assert (result.outcome.verdict, result.outcome.is_timeout) == (Verdict.TEMPORARY, True)
    assert "DATA" not in peer.verbs()


def test_content_is_not_ended_when_the_answer_could_not_be_waited_for() -> None:
    """A host that takes content slowly, and needs a while for its answer, would get the mail at each attempt."""
    content = b"Subject: x\r\n\r\n" + b"y" * 998 + b"\r\n"
    content += content[14:] * 15_000  # more than all buffers on the way hold
    timeouts = replace(LONG, total_s=6.0, reserve_s=5.5, dot_s=6.0)
    with (
        running_peer(Script(content_pause_s=0.02)) as peer,
        edge_to(peer.port, timeouts) as edge,
    ):
        result = edge.send(content=content)
        assert (result.outcome.verdict, result.outcome.is_timeout) == (Verdict.TEMPORARY, True)
        assert "may have taken" not in (result.outcome.error or "")
    assert peer.taken == []
