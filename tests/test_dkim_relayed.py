"""Signed mail through our MX client and a real Postfix: what arrives still verifies, for all three verifiers."""

from __future__ import annotations

from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from core.delivery import Verdict
from core.dns_lookup import LookupBudget
from core.sending.sending_domains import KeyAlgorithm
from core.verdicts import AuthResult
from inbound.authentication.dkim import check_dkim
from inbound.authentication.header_fields import view_message
from outbound.dkim import sign_with_all
from outbound.mail import OutgoingMail
from tests.authentication_support import lookup_at
from tests.authentication_zones import ZoneServer, running_zones
from tests.dkim_judges import PAST_MS, dkimpy_accepts, perl_says, signer
from tests.mx_support import RECIPIENT, SENDER, edge_to
from tests.postfix_server import running_postfix
from tests.scripted_smtp import Script, running_peer

SIGNERS = (signer(KeyAlgorithm.RSA), signer(KeyAlgorithm.ED25519))


def rich() -> bytes:
    """Text, HTML and a file, with names that need encoding and folding."""
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = "Jürgen Müller <j@sender.example>"
    message["To"] = ", ".join(f"Person {number} <p{number}@example.test>" for number in range(12))
    message["Subject"] = "Grüße aus Köln, " * 8
    message["Date"] = "Mon, 21 Sep 2026 10:00:00 +0000"
    message["Message-ID"] = "<1@sender.example>"
    message["List-Unsubscribe"] = "<https://sender.example/u/1>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content("Hallo  Welt \n.\n..\nFrom here on\n\n\n", cte="quoted-printable")
    message.add_alternative("<p>Hallo</p>\n", subtype="html")
    message.add_attachment(bytes(range(256)) * 40, maintype="application", subtype="pdf", filename="Prüfung.pdf")
    return message.as_bytes()


PLAIN = (
    b"From: a@sender.example\r\nSubject:  a \t\r\n b\r\nTo: <user@example.test>\r\nDate: x\r\nMessage-ID: <2@x>\r\n\r\n"
)
MAILS = {
    "rich": rich(),
    "loose line ends": PLAIN.replace(b"\r\n", b"\n") + b"a\nb\rc\r\n.\n\n\n",
    "8-bit": PLAIN + b"Gr\xc3\xbc\xc3\x9fe \t\r\n" * 3,
    "no body": PLAIN,
}


@pytest.fixture(scope="module")
def zones() -> Iterator[ZoneServer]:
    with running_zones() as server:
        for by in SIGNERS:
            server.add(by.record_name, "TXT", by.pair.public_record)
        yield server


@pytest.fixture(scope="module")
def arrived() -> dict[str, bytes]:
    """Each mail as it came out behind Postfix."""
    found: dict[str, bytes] = {}
    with running_peer(Script()) as sink, running_postfix(sink.port) as postfix, edge_to(postfix.port) as edge:
        for name, content in MAILS.items():
            signed = sign_with_all(content, [by.key for by in SIGNERS], PAST_MS) + content
            (result,) = edge.transport.deliver(OutgoingMail(SENDER, (RECIPIENT,), signed))
            assert result.outcome.verdict is Verdict.ACCEPTED
            postfix.wait_until_empty()
            found[name] = sink.taken[-1].content
    return found


@pytest.mark.parametrize("name", MAILS)
def test_what_arrives_verifies(zones: ZoneServer, arrived: dict[str, bytes], name: str) -> None:
    message = arrived[name]
    assert message.startswith(b"Received: ")
    verdict = check_dkim(view_message(message), lookup_at(zones), LookupBudget(10), PAST_MS // 1000)
    assert [signature.result for signature in verdict.signatures] == [AuthResult.PASS, AuthResult.PASS]
    assert [dkimpy_accepts(message, by, index) for index, by in enumerate(SIGNERS)] == [True, True]


def test_the_third_verifier_agrees(zones: ZoneServer, arrived: dict[str, bytes], tmp_path: Path) -> None:
    for name, message in arrived.items():
        (tmp_path / name).write_bytes(message)
    said = perl_says(zones.port, *(str(tmp_path / name) for name in arrived))
    assert said == ["pass"] * len(arrived)
