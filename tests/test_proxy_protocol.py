"""PROXY headers: the client's address is the load balancer's word for it, and nobody else's."""

from __future__ import annotations

import ipaddress
import smtplib
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway import Gateway, running_gateway
from tests.haproxy_server import running_haproxy
from tests.memory_transport import CLIENT, EHLO, MAIL, Receiver, run
from tests.programs import need_program
from tests.smtp_client import MESSAGE, SENDER, RawClient, new_mailbox

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
BALANCER = ("10.1.2.3", 50_000)
NETWORKS = {"PILLARBOX_PROXY_NETWORKS": "10.0.0.0/8,fd00::/8"}
PROXY, LOCAL = 0x21, 0x20
TCP4, TCP6, UDP4, UNIX, UNSPECIFIED = 0x11, 0x21, 0x12, 0x31, 0x00
GREETING = "220 mx.pillarbox.test ESMTP Pillarbox"


def version_2(command: int = PROXY, family: int = TCP4, addresses: bytes | None = None, tlvs: bytes = b"") -> bytes:
    """A binary header; by default from 198.51.100.7:4321."""
    packed = {
        TCP4: _packed("198.51.100.7") + _packed("203.0.113.1") + struct.pack("!HH", 4321, 25),
        TCP6: _packed("2001:db8::7") + _packed("2001:db8::1") + struct.pack("!HH", 4321, 25),
        UDP4: _packed("198.51.100.7") + _packed("203.0.113.1") + struct.pack("!HH", 4321, 25),
        UNIX: b"/run/socket".ljust(216, b"\0"),
        UNSPECIFIED: b"",
    }
    payload = (packed.get(family, b"") if addresses is None else addresses) + tlvs
    return SIGNATURE + struct.pack("!BBH", command, family, len(payload)) + payload


def tlv(kind: int, value: bytes) -> bytes:
    """One type-length-value of version 2."""
    return struct.pack("!BH", kind, len(value)) + value


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


KNOWN = [
    (b"PROXY TCP4 198.51.100.7 203.0.113.1 4321 25\r\n", ("198.51.100.7", 4321)),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 4321 25\r\n", ("2001:db8::7", 4321)),
    (b"PROXY TCP6 ::ffff:198.51.100.7 2001:db8::1 4321 25\r\n", ("198.51.100.7", 4321)),
    (b"PROXY UNKNOWN\r\n", BALANCER),
    (b"PROXY UNKNOWN ffff:f:f:f:f:f:f:f ffff:f:f:f:f:f:f:f 65535 65535\r\n", BALANCER),
    (version_2(), ("198.51.100.7", 4321)),
    (version_2(family=TCP6), ("2001:db8::7", 4321)),
    (version_2(family=UNIX), BALANCER),
    (version_2(family=UNSPECIFIED), BALANCER),
    (version_2(LOCAL), BALANCER),
    (version_2(LOCAL, UNSPECIFIED), BALANCER),
    (version_2(tlvs=tlv(4, b"\0" * 100) + tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3"))), ("198.51.100.7", 4321)),
    (version_2(tlvs=tlv(0xE0, b"MAIL FROM:<a@example.com>\r\n" * 2_000)), ("198.51.100.7", 4321)),
    (version_2(tlvs=b"\x03\xff\xff"), ("198.51.100.7", 4321)),
]  # fmt: skip
WRONG = [
    b"EHLO client.example\r\n", b"PROXY\r\n" + EHLO, b"PROXY TCP4\r\n" + EHLO, b"PROXY \r\n" + EHLO,
    b"PROXY TCP4 198.51.100.7 203.0.113.1 4321 25\n" + EHLO, b"proxy tcp4 198.51.100.7 203.0.113.1 4321 25\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.1 4321\r\n", b"PROXY TCP4 198.51.100.7 203.0.113.1 70000 25\r\n",
    b"PROXY TCP4 198.51.100.700 203.0.113.1 4321 25\r\n", b"PROXY TCP4 2001:db8::7 203.0.113.1 4321 25\r\n",
    b"PROXY TCP4  198.51.100.7 203.0.113.1 4321 25\r\n", b"PROXY UDP4 198.51.100.7 203.0.113.1 4321 25\r\n",
    b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n", b"PROXY UNKNOWN " + b"x" * 200_000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\r\n\r\n", SIGNATURE[:-1] + b"\r" + version_2()[12:],
    version_2(command=0x11), version_2(command=0x22), version_2(family=0x41), version_2(family=0x13),
    version_2(addresses=b"\x01\x02"), version_2(addresses=b""), version_2(family=UDP4),
]  # fmt: skip


@pytest.mark.parametrize(("header", "client"), KNOWN, ids=range(len(KNOWN)))
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_the_session_is_that_of_the_client_the_header_names(header: bytes, client: tuple[str, int], piece: int) -> None:
    async def walk() -> None:
        receiver = Receiver(**NETWORKS)
        peer = receiver.connect(BALANCER)
        step = piece if len(header) < 1_000 else 5_000
        for start in range(0, len(header), step):
            assert peer.replies == []
            await peer.say(header[start : start + step])
        assert peer.replies == [GREETING]
        await peer.say(EHLO + MAIL + b"QUIT\r\n")
        assert peer.codes == ["220", "250", "250", "250", "354", "250", "221"]
        assert [session.peer for session in receiver.handler.sessions] == [client]

    run(walk())


def test_what_stands_in_one_segment_with_the_header_is_read_after_it() -> None:
    async def walk() -> None:
        receiver = Receiver(**NETWORKS)
        peer = receiver.connect(BALANCER)
        await peer.say(version_2() + EHLO + MAIL)
        assert peer.codes == ["220", "250", "250", "250", "354", "250"]
        assert receiver.handler.messages == [b"Subject: x\r\n\r\nHi.\r\n"]

    run(walk())


@pytest.mark.parametrize("begin", WRONG, ids=range(len(WRONG)))
def test_a_load_balancer_that_sends_no_proper_header_is_hung_up_on(begin: bytes) -> None:
    async def walk() -> None:
        receiver = Receiver(**NETWORKS)
        peer = receiver.connect(BALANCER)
        await peer.say(begin)
        await peer.wait(6)
        assert peer.is_lost
        assert [reply for reply in peer.replies if not reply.startswith("421 4.4.2 ")] == []
        assert len(receiver.connections.sessions) == 0

    run(walk())


@settings(max_examples=300, deadline=None)
@given(
    begin=st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(SIGNATURE.__add__),
        st.binary(max_size=100).map(b"PROXY ".__add__),
        st.text("TCP46UNKOW 0123456789.:abcdef", max_size=60).map(lambda t: f"PROXY {t}\r\n".encode()),
    )
)
def test_no_bytes_in_place_of_a_header_are_an_error_of_ours(begin: bytes) -> None:  # fmt: skip
    async def walk() -> None:
        receiver = Receiver(**NETWORKS)
        peer = receiver.connect(BALANCER)
        await peer.say(begin)
        await peer.finish()
        assert peer.is_lost
        assert [reply for reply in peer.replies if reply.startswith("451")] == []
        assert len(receiver.connections.sessions) == 0

    run(walk())


def test_a_header_that_comes_slowly_has_five_seconds() -> None:
    async def walk() -> None:
        receiver = Receiver(**NETWORKS)
        peer = receiver.connect(BALANCER)
        for byte in version_2():
            await peer.say(bytes([byte]))
            await peer.wait(1)
        assert peer.is_lost
        assert peer.replies == ["421 4.4.2 Nothing arrived for too long; closing"]
        assert 4.9 < peer.times[0] < 5.1

    run(walk())


@pytest.mark.parametrize("networks", [NETWORKS, {}])
def test_nobody_else_can_say_who_he_is(networks: dict[str, str]) -> None:
    async def walk() -> None:
        receiver = Receiver(**networks)
        for header in (b"PROXY TCP4 10.1.2.3 203.0.113.1 4321 25\r\n", version_2()):
            peer = receiver.connect(CLIENT)
            await peer.say()
            assert peer.replies == [GREETING]
            await peer.say(header)
            await peer.say(EHLO + MAIL)
            assert peer.replies[1].startswith("500 5.5.2 ")
        assert {session.peer for session in receiver.handler.sessions} == {CLIENT}

    run(walk())


def test_a_second_header_is_a_command_that_nobody_knows() -> None:
    async def walk() -> None:
        receiver = Receiver(**NETWORKS)
        peer = receiver.connect(BALANCER)
        await peer.say(b"PROXY TCP4 198.51.100.7 203.0.113.1 4321 25\r\n" + b"PROXY TCP4 192.0.2.1 203.0.113.1 1 2\r\n")
        assert peer.replies[1] == "500 5.5.2 Command not recognised"
        assert peer.session.remote_ip == "198.51.100.7"

    run(walk())


def test_clients_behind_a_load_balancer_are_counted_each_for_himself() -> None:
    async def walk() -> None:
        limits = {"PILLARBOX_MAX_CONNECTIONS_PER_IP": "2", "PILLARBOX_MAX_CONNECTIONS": "5"}
        receiver = Receiver(**NETWORKS, **limits)

        async def greeted(client: str) -> str:
            peer = receiver.connect(BALANCER)
            replies = await peer.say(f"PROXY TCP4 {client} 203.0.113.1 4321 25\r\n".encode())
            return replies[0][:9]

        assert [await greeted("198.51.100.1") for _ in range(3)] == ["220 mx.pi", "220 mx.pi", "421 4.7.0"]
        assert [await greeted("198.51.100.2") for _ in range(3)] == ["220 mx.pi", "220 mx.pi", "421 4.7.0"]
        nameless = [receiver.connect(BALANCER) for _ in range(2)]
        assert [peer.codes for peer in nameless] == [[], ["421"]]  # all places are taken

        await nameless[0].finish()
        assert len(receiver.connections.sessions) == 4

    run(walk())


def test_the_header_is_not_talking_before_the_greeting_but_what_follows_is() -> None:
    async def walk() -> None:
        receiver = Receiver(**NETWORKS, PILLARBOX_GREETING_DELAY_MS="2000")
        patient, hasty, hastier = (receiver.connect(BALANCER) for _ in range(3))
        await patient.say(version_2())
        await hasty.say(version_2())
        await hasty.say(EHLO)
        await hastier.say(version_2() + EHLO)
        assert (hasty.codes, hastier.codes, patient.codes) == (["554"], ["554"], [])
        await patient.wait(2)
        assert patient.replies == [GREETING]

    run(walk())


# --- with the real receiver ---


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = {"PILLARBOX_PROXY_NETWORKS": "127.0.0.0/8", "PILLARBOX_TARPIT_MS": "0"}
    with running_gateway(tmp_path_factory.mktemp("proxy"), "smtp", **environment) as started:
        yield started
        assert "Traceback" not in started.log()


@pytest.mark.parametrize("header", [KNOWN[0][0], version_2(tlvs=tlv(0x04, b"x" * 60_000))], ids=["1", "2"])
def test_the_envelope_holds_the_real_client_within_tls_too(gateway: Gateway, header: bytes) -> None:
    mailbox = new_mailbox(gateway)
    client = RawClient(gateway.settings.smtp.port)
    client.send(header)
    client.greet()
    assert client.ask("STARTTLS").startswith("220 ")
    client.start_tls(_trusting())
    client.ask("EHLO inside.example")
    client.begin_data(mailbox)
    client.send(MESSAGE + b".\r\n")
    assert client.reply().startswith("250 ")
    client.close()

    assert _remote_ips(gateway, mailbox) == ["198.51.100.7"]


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_mail_through_haproxy_comes_from_the_client_behind_it(gateway: Gateway, tmp_path: Path, options: str) -> None:
    need_program("haproxy")
    mailbox = new_mailbox(gateway)
    with (
        running_haproxy(tmp_path, gateway.settings.smtp.port, options) as port,
        smtplib.SMTP("127.0.0.1", port, "client.example", timeout=20, source_address=("127.0.0.9", 0)) as client,
    ):
        client.starttls(context=_trusting())
        client.sendmail(SENDER, [mailbox], MESSAGE)

    assert _remote_ips(gateway, mailbox) == ["127.0.0.9"]


def test_a_check_that_connects_and_goes_makes_no_noise(gateway: Gateway) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", gateway.settings.smtp.port)) as check:
            check.shutdown(socket.SHUT_WR)
            assert check.recv(100) == b""


def _remote_ips(gateway: Gateway, mailbox: str) -> list[str]:
    query = "SELECT m.remote_ip FROM message m JOIN delivery d ON d.message_id = m.id WHERE d.address_id = ?"
    with gateway.database.reading():
        return [row[0] for row in gateway.database.execute(query, (mailbox.partition("@")[0],))]


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
