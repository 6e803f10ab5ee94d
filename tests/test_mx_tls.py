"""STARTTLS: used wherever it is offered, whatever the certificate; never a way to smuggle something in."""

from __future__ import annotations

import ssl

import pytest

from core.delivery import Verdict
from tests.mx_support import CONTENT, SHORT, edge_to
from tests.raw_server import Certificate, make_certificate
from tests.scripted_smtp import Script, Trick, running_peer

OFFERED = ("STARTTLS", "PIPELINING")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "another.test")


def test_tls_is_used_though_the_certificate_is_self_signed_and_of_another_name(certificate: Certificate) -> None:
    with running_peer(Script(features=OFFERED), certificate) as peer, edge_to(peer.port) as edge:
        result = edge.send()
    assert (result.outcome.verdict, result.tls_version) == (Verdict.ACCEPTED, "TLSv1.3")
    assert peer.taken[0].is_tls
    assert peer.taken[0].content == CONTENT
    assert peer.verbs() == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


def test_a_large_mail_goes_over_tls(certificate: Certificate) -> None:
    content = b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 300_000
    with running_peer(Script(features=OFFERED), certificate) as peer, edge_to(peer.port) as edge:
        assert edge.send(content=content).outcome.verdict is Verdict.ACCEPTED
    assert peer.taken[0].content == content


def test_after_a_failed_handshake_the_mail_goes_in_clear(certificate: Certificate) -> None:
    script = Script(features=OFFERED, handshake=False)
    with running_peer(script, certificate) as peer, edge_to(peer.port) as edge:
        result = edge.send()
    assert (result.outcome.verdict, result.tls_version) == (Verdict.ACCEPTED, None)
    assert peer.connections == 2
    assert not peer.taken[0].is_tls


def test_a_host_that_wants_a_certificate_of_ours_gets_the_mail_in_clear(certificate: Certificate) -> None:
    """In TLS 1.3 it says so when we think that the handshake is over."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key_path)
    context.verify_mode = ssl.CERT_REQUIRED
    with running_peer(Script(features=OFFERED), context) as peer, edge_to(peer.port) as edge:
        result = edge.send()
    assert (result.outcome.verdict, result.tls_version) == (Verdict.ACCEPTED, None)
    assert peer.connections == 2


@pytest.mark.parametrize("trick", [Trick.HANG_UP, Trick.RESET, Trick.STALL])
def test_what_breaks_at_the_first_word_under_tls_goes_in_clear(certificate: Certificate, trick: Trick) -> None:
    hello = "250-mx.test\r\n250 STARTTLS"
    with (
        running_peer(Script(answers={"EHLO": [hello, trick, hello]}), certificate) as peer,
        edge_to(peer.port, SHORT) as edge,
    ):
        result = edge.send()
    assert (result.outcome.verdict, result.tls_version) == (Verdict.ACCEPTED, None)


@pytest.mark.parametrize("answer", ["454 4.7.0 not now", "502 what?"])
def test_a_host_that_takes_back_its_offer_gets_the_mail_in_clear(answer: str) -> None:
    with running_peer(Script(features=OFFERED, answers={"STARTTLS": answer})) as peer, edge_to(peer.port) as edge:
        assert edge.send().outcome.verdict is Verdict.ACCEPTED
    assert peer.connections == 1
    assert not peer.taken[0].is_tls


def test_nothing_said_in_clear_counts_after_the_handshake(certificate: Certificate) -> None:
    injected = (
        b"250-mx.test\r\n250 PIPELINING\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n250 2.0.0 taken, honestly\r\n"
    )
    script = Script(features=OFFERED, injected=injected)
    with running_peer(script, certificate) as peer, edge_to(peer.port, SHORT) as edge:
        result = edge.send()
    assert result.outcome.verdict is Verdict.TEMPORARY
    assert peer.taken == []
    assert "before the TLS handshake" in (result.outcome.error or "")


def test_features_are_asked_for_anew_under_tls(certificate: Certificate) -> None:
    clear, secure = "250-mx.test\r\n250-STARTTLS\r\n250 SIZE 5", "250-mx.test\r\n250 SIZE 500000"
    script = Script(answers={"EHLO": [clear, secure]})
    with running_peer(script, certificate) as peer, edge_to(peer.port) as edge:
        assert edge.send().outcome.verdict is Verdict.ACCEPTED
    assert peer.taken[0].mail_from.endswith(f"SIZE={len(CONTENT)}")
