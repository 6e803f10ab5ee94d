"""What a refusal means for the address (`core.sending.returned.severity`)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.sending.returned import Severity, severity

HARD, SOFT, BLOCK, UNKNOWN = Severity.HARD, Severity.SOFT, Severity.BLOCK, Severity.UNKNOWN

BY_STATUS = {
    HARD: "5.1.0 5.1.1 5.1.2 5.1.3 5.1.6 5.1.10 5.2.1 5.4.4 5.4.310 5.7.17 5.7.18",
    SOFT: "5.1.4 5.2.0 5.2.2 5.2.4 5.3.0 5.3.1 5.3.2 5.4.0 5.4.1 5.4.5 5.4.6 5.4.7 5.4.316 4.1.1 4.2.2 4.3.2 4.0.0",
    BLOCK: "5.1.7 5.1.8 5.2.3 5.3.4 5.6.0 5.6.7 5.7.0 5.7.1 5.7.26 5.7.27 5.7.133 5.7.606 5.1.90 4.7.1 4.7.28",
    UNKNOWN: "5.0.0 5.5.0 5.5.2 5.9.9 2.0.0 2.1.5 9.1.1 x",
}
BY_CODE = {
    HARD: [521, 551, 553, 556],
    SOFT: [421, 450, 451, 452, 552],
    BLOCK: [530, 535, 541, 571],
    UNKNOWN: [250, 550, 554, 599, 500],
}
BY_WORDS = [
    (HARD, "550 User unknown"),
    (HARD, "550 No such user here"),
    (HARD, "550 Requested action not taken: mailbox unavailable"),
    (HARD, "550 5.4.1 Recipient address rejected: Access denied"),
    (HARD, "#5.1.1 smtp;550 5.1.1 RESOLVER.ADR.RecipNotFound; not found"),
    (HARD, "554 delivery error: dd This user doesn't have a far.test account"),
    (HARD, "550 Unrouteable address"),
    (HARD, "550 5.1.1 User unknown; see our spam policy"),
    (HARD, "550 5.7.1 No such user"),
    (SOFT, "550 Mailbox quota exceeded"),
    (SOFT, "550 5.1.1 mailbox full"),
    (SOFT, "550 5.2.1 receiving mail at a rate that prevents additional messages"),
    (SOFT, "550 Greylisted"),
    (SOFT, "550 Rate limit exceeded"),
    (SOFT, "451 4.7.1 user unknown"),
    (SOFT, "450 user unknown"),
    (SOFT, "554 too many invalid recipients, user unknown"),
    (SOFT, "Connection timed out"),
    (SOFT, "Postfach voll"),
    (BLOCK, "550 Message classified as spam"),
    (BLOCK, "550 5.1.1 blocked by our blacklist"),
    (BLOCK, "554 Your host is blocked, user unknown or not"),
    (BLOCK, "550-5.7.26 This mail is unauthenticated (DMARC)"),
    (BLOCK, "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked"),
    (BLOCK, "550 5.7.1 RESOLVER.RST.AuthRequired; authentication required"),
    # Postfix says "Recipient address rejected" of all that it refuses at RCPT, and RFC 5321 "mailbox unavailable".
    (BLOCK, "554 5.7.1 <kim@far.test>: Recipient address rejected: Access denied"),
    (BLOCK, "550 5.7.1 <kim@far.test>: Recipient address rejected: Rejected by SPF: 192.0.2.1 is not designated"),
    (BLOCK, "550 5.7.1 Requested action not taken: mailbox unavailable"),
    (HARD, "550 5.7.1 <kim@far.test>: Recipient address rejected: User unknown"),
    # about the sender
    (BLOCK, "550 Domain of sender address b-path@mta.us.test does not exist"),
    (BLOCK, "550 unknown sender domain; domain does not exist"),
    (BLOCK, "SMTP error from remote mail server after MAIL FROM:<b-path@mta.us.test> SIZE=12: 553 unknown user"),
    (BLOCK, "550 5.1.1 Sender domain does not exist"),
    (BLOCK, "521 192.0.2.1 blocked, see https://far.test/reset"),
    (HARD, "521 far.test does not accept mail"),
    # temporary, and still no word against the address
    (BLOCK, "421-4.7.0 Our system has detected an unusual rate of unsolicited mail, temporarily rate limited"),
    (BLOCK, "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints"),
    (BLOCK, "450 Client host is listed at a blocklist"),
    (SOFT, "451 4.7.1 Greylisting in action, please come back later"),
    # what another host has said
    (HARD, "550 5.0.350 Remote server returned an error -> 550 5.1.1 <kim@far.test>: gone fishing"),
    (HARD, "554 delivery error: dd Not a valid recipient"),
    (HARD, "This address no longer accepts mail."),
    (UNKNOWN, "550 no"),
    (UNKNOWN, "550 <user@spamhaus.test> https://quota.test/blocked"),
    (UNKNOWN, "250 2.1.5 ok"),
    (UNKNOWN, ""),
]


@pytest.mark.parametrize(
    ("meaning", "status"), [(one, text) for one, all_ in BY_STATUS.items() for text in all_.split()]
)
def test_statuses_alone(meaning: Severity, status: str) -> None:
    assert severity(status, None, None) is meaning


@pytest.mark.parametrize(("meaning", "code"), [(one, code) for one, codes in BY_CODE.items() for code in codes])
def test_codes_alone(meaning: Severity, code: int) -> None:
    assert severity(None, code, None) is meaning


@pytest.mark.parametrize(("meaning", "diagnostic"), BY_WORDS)
def test_diagnostics(meaning: Severity, diagnostic: str) -> None:
    assert severity(None, None, diagnostic) is meaning


@pytest.mark.parametrize(
    ("meaning", "status", "code", "diagnostic"),
    [
        (BLOCK, "5.1.1", 550, "550 5.7.1 rejected"),  # Sendmail's status for every 550
        (HARD, "4.0.0", 550, "550 5.1.1 User unknown"),
        (HARD, "5.7.1", 550, "550 5.1.1 User unknown"),
        (SOFT, "5.0.0", 451, "451 later"),
        (SOFT, "5.4.7", None, "451 4.2.2 over quota"),
        (SOFT, "4.4.7", None, "user unknown"),
        (HARD, "5.1.1", 550, "550 5.0.0 rejected"),
        (SOFT, "5.1.2", 450, "450 domain not found"),
        (HARD, "5.1.1", None, "host 4.1.1.2 said: 5.1.1.9"),
    ],
)
def test_which_of_several_codes_counts(meaning: Severity, status: str, code: int | None, diagnostic: str) -> None:
    assert severity(status, code, diagnostic) is meaning


@given(st.none() | st.text(), st.none() | st.integers(), st.none() | st.text())
def test_never_an_error(status: str | None, code: int | None, diagnostic: str | None) -> None:
    assert severity(status, code, diagnostic) in Severity


@given(st.text(), st.sampled_from([421, 450, 451, 452]))
def test_no_temporary_answer_without_a_status_is_hard(words: str, code: int) -> None:
    letters = "".join(character for character in words if not character.isdigit())
    assert severity(None, code, letters) in (SOFT, BLOCK)


def test_long_diagnostics_cost_nothing() -> None:
    start = time.process_time()
    for piece in ("5.", "5.1", "550 ", "a@", " ", "4.1.1."):
        severity(piece * 1_000_000, None, piece * 1_000_000)
    assert time.process_time() - start < 0.5
