"""Postfix as a client of submission: it logs in over TLS as any relay of a customer does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.services.accounts import NewAccount
from tests.gateway import Gateway, running_gateway
from tests.postfix_server import Postfix, running_postfix
from tests.programs import missing
from tests.submission_support import MAIL

SENDER = "sender@example.com"
MAIN_CF = """
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{ [127.0.0.1]:%s=%s:%s }
smtp_sasl_security_options = noanonymous
smtp_sasl_mechanism_filter = %s
smtp_tls_security_level = encrypt
smtp_tls_wrappermode = %s
"""
SASL_FOLDERS = ("/usr/lib/*/sasl2", "/usr/lib/sasl2", "/usr/lib64/sasl2")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("submission"), "submission") as started:
        yield started


@contextmanager
def logging_in(
    port: int, account: NewAccount, mechanism: str = "plain", wrapped: str = "no", password: str | None = None
) -> Iterator[Postfix]:
    """An instance that relays everything to a submission port as an account."""
    if not any(found for pattern in SASL_FOLDERS for found in Path("/").glob(f"{pattern[1:]}/libplain.so*")):
        missing("Cyrus SASL has no mechanisms (Debian package libsasl2-modules)")
    login = (account.smtp_username, account.smtp_password if password is None else password)
    with running_postfix(port, MAIN_CF % (port, *login, mechanism, wrapped)) as postfix:
        yield postfix


def sent(gateway: Gateway, subject: str) -> list[int]:
    """The number of recipients of each message with a subject."""
    query = """SELECT count(*) FROM message m JOIN delivery d ON d.message_id = m.id WHERE m.subject = ?
    GROUP BY m.id ORDER BY 1"""
    with gateway.database.reading():
        return [row[0] for row in gateway.database.execute(query, (subject,))]


def submit(postfix: Postfix, subject: str, recipients: list[str]) -> None:
    """Hand a mail to Postfix."""
    postfix.send(SENDER, recipients, MAIL.replace(b"Hello", subject.encode()))


@pytest.mark.parametrize(("mechanism", "wrapped"), [("plain", "no"), ("login", "no"), ("plain", "yes")])
def test_a_mail_is_relayed_with_a_login(gateway: Gateway, mechanism: str, wrapped: str) -> None:
    port = gateway.submission_tls_port if wrapped == "yes" else gateway.submission_port
    subject = f"{mechanism} {wrapped}"
    with logging_in(port, gateway.account, mechanism, wrapped) as postfix:
        submit(postfix, subject, ["one@example.org", "two@example.org"])
        line = postfix.wait_for_log("status=sent")
        postfix.wait_until_empty()
    assert "(250 Thanks! Queued as: " in line
    assert sent(gateway, subject) == [2]


def test_more_recipients_than_one_message_may_have_come_as_two(gateway: Gateway) -> None:
    most = gateway.settings.max_send_recipients
    with logging_in(gateway.submission_port, gateway.account) as postfix:
        submit(postfix, "many", [f"r{number}@example.org" for number in range(most + 5)])
        postfix.wait_for_log("said: 452 4.5.3")
        postfix.wait_for_log("status=sent")
        assert sent(gateway, "many") == [most]
        postfix.flush()
        postfix.wait_until_empty()
    assert sent(gateway, "many") == [5, most]


def test_a_wrong_password_keeps_the_mail_in_the_clients_queue(gateway: Gateway) -> None:
    with logging_in(gateway.submission_port, gateway.account, password="wrong") as postfix:
        submit(postfix, "kept", ["one@example.org"])
        postfix.wait_for_log("status=deferred", "535 5.7.8")
        assert "one@example.org" in postfix.queue()
    assert sent(gateway, "kept") == []


def test_what_is_refused_comes_back_to_its_author_with_the_cure(gateway: Gateway) -> None:
    with logging_in(gateway.submission_port, gateway.account) as postfix:
        postfix.send(SENDER, ["one@example.org"], b"X-CloudMTA-Class: urgent\r\n" + MAIL)
        line = postfix.wait_for_log("status=bounced", "554 5.6.0")
    assert "must be one of" in line
