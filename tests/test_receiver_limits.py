"""Limits on every size, count and time of a session: what is over the limit is refused, and costs next to nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from inbound.smtp.listening import KEEPALIVE, listening_socket
from tests.gateway import Gateway, running_gateway
from tests.ports import free_port
from tests.smtp_client import MESSAGE, SENDER, RawClient, connected, new_mailbox, spool_files, stored, stuffed

LINE = b"x" * 76 + b"\r\n"
SMALL_LIMIT = 1_000_000
LINE_LIMIT = 20_000
MIB = 1024 * 1024
FLAT_MIB = 12
"""How much a receiver may grow over one message of any size: its buffers, and the C library's slack."""
CONCURRENT = 40
MIB_EACH = 1
"""How much each of many large messages may cost while they arrive: blocks on their way into files."""
DRIP_S = 0.1


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A receiver with small limits."""
    environment = {
        "PILLARBOX_MAX_MESSAGE_SIZE": str(SMALL_LIMIT),
        "PILLARBOX_MAX_LINE_LENGTH": str(LINE_LIMIT),
        "PILLARBOX_MAX_RECIPIENTS": "3",
        "PILLARBOX_MAX_COMMANDS": "40",
        "PILLARBOX_MAX_SESSION_ERRORS": "6",
        "PILLARBOX_TARPIT_MS": "1",
    }
    yield from _receiver(tmp_path_factory.mktemp("limited"), **environment)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A receiver as it is without settings, but for its slow refusals."""
    yield from _receiver(tmp_path_factory.mktemp("ordinary"), PILLARBOX_TARPIT_MS="0")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A receiver with short timeouts."""
    folder = tmp_path_factory.mktemp("impatient")
    yield from _receiver(folder, PILLARBOX_IDLE_TIMEOUT="1", PILLARBOX_DATA_TIMEOUT="3")


def _receiver(folder: Path, **environment: str) -> Iterator[Gateway]:
    with running_gateway(folder, "smtp", **environment) as started:
        yield started
        assert spool_files(started) == []
        assert "Traceback" not in started.log()
        assert "never retrieved" not in started.log()


# --- sizes ---


def test_a_size_declared_above_the_limit_is_refused_before_anything_is_sent(limited: Gateway) -> None:
    with connected(limited) as client:
        assert client.ask(f"MAIL FROM:<a@example.com> SIZE={SMALL_LIMIT + 1}").startswith("552 5.3.4 ")
        assert client.ask(f"MAIL FROM:<a@example.com> SIZE={SMALL_LIMIT}").startswith("250 ")


def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(limited: Gateway) -> None:
    mailbox = new_mailbox(limited)
    exact = _message_of(SMALL_LIMIT)
    with connected(limited) as client:
        for message, code in ((exact, "250 "), (b"x" + exact, "552 5.3.4 "), (exact, "250 ")):
            client.begin_data(mailbox)
            client.send(stuffed(message))
            assert client.reply().startswith(code)

    assert [mail.raw == exact for mail in stored(limited, mailbox)] == [True, True]


def test_stuffed_dots_do_not_count(limited: Gateway) -> None:
    dots = b".\r\n" * (SMALL_LIMIT // 3)
    mailbox = new_mailbox(limited)
    with connected(limited) as client:
        client.begin_data(mailbox)
        client.send(stuffed(dots))
        assert client.reply().startswith("250 ")

    assert [mail.raw == dots for mail in stored(limited, mailbox)] == [True]


def test_a_client_that_goes_on_long_after_the_limit_is_cut_off(limited: Gateway) -> None:
    mailbox = new_mailbox(limited)
    with connected(limited) as client:
        client.begin_data(mailbox)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            _send_bytes(client, 100 * SMALL_LIMIT)

    assert stored(limited, mailbox) == []


def test_twice_the_limit_undeclared_is_refused_with_flat_memory(ordinary: Gateway) -> None:
    mailbox = new_mailbox(ordinary)
    limit = ordinary.settings.max_message_size
    with connected(ordinary) as client:
        client.begin_data(mailbox)
        with _GrowthOf(ordinary) as growth:
            _send_bytes(client, 2 * limit)
            client.send(b".\r\n")
            assert client.reply().startswith("552 5.3.4 ")
        client.begin_data(mailbox)
        client.send(stuffed(MESSAGE))
        assert client.reply().startswith("250 ")

    assert growth.mib < FLAT_MIB
    assert [mail.raw for mail in stored(ordinary, mailbox)] == [MESSAGE]


def test_a_message_of_35_mib_is_taken_with_flat_memory(ordinary: Gateway) -> None:
    mailbox = new_mailbox(ordinary)
    assert ordinary.settings.max_message_size == 35 * MIB
    with connected(ordinary) as client:
        client.begin_data(mailbox)
        with _GrowthOf(ordinary) as growth:
            _send_bytes(client, 35 * MIB)
            client.send(b".\r\n")
            assert client.reply().startswith("250 ")

    assert growth.mib < FLAT_MIB
    (mail,) = stored(ordinary, mailbox)
    assert len(mail.raw) == mail.size == 35 * MIB


def test_many_large_mails_at_once_cost_little_memory_each(ordinary: Gateway) -> None:
    mailbox = new_mailbox(ordinary)

    def send_one(_: int) -> str:
        with connected(ordinary) as client:
            client.begin_data(mailbox)
            _send_bytes(client, 3 * MIB)
            client.send(b".\r\n")
            return client.reply()[:3]

    with ThreadPoolExecutor(CONCURRENT) as pool, _GrowthOf(ordinary) as growth:
        codes = set(pool.map(send_one, range(CONCURRENT)))

    assert codes == {"250"}
    assert growth.mib < CONCURRENT * MIB_EACH


def test_a_line_over_the_limit_is_refused_and_the_session_goes_on(limited: Gateway) -> None:
    mailbox = new_mailbox(limited)
    longest = b"y" * (LINE_LIMIT - 1) + b"\r\n"  # the CR counts, the LF ends the line
    with connected(limited) as client:
        for line, code in ((longest, "250 "), (b"y" + longest, "554 5.6.0 "), (longest, "250 ")):
            client.begin_data(mailbox)
            client.send(stuffed(b"Subject: x\r\n\r\n" + line + LINE))
            assert client.reply().startswith(code)

    assert len(stored(limited, mailbox)) == 2


def test_a_line_of_a_thousand_times_what_rfc_5321_allows_is_kept_as_it_is(ordinary: Gateway) -> None:
    message = b"Subject: x\r\n\r\n" + b"z" * 999_000 + b"\r\n"
    mailbox = new_mailbox(ordinary)
    with connected(ordinary) as client:
        client.begin_data(mailbox)
        client.send(stuffed(message))
        assert client.reply().startswith("250 ")

    assert [mail.raw == message for mail in stored(ordinary, mailbox)] == [True]


def test_a_long_command_line_is_refused_once_and_the_session_goes_on(ordinary: Gateway) -> None:
    with connected(ordinary) as client:
        for length in (2_049, 10_000, 65_535, 65_536, 65_537, 200_000, 1_000_000):
            client.send(b"A" * length + b"\r\n")
            assert client.reply().startswith("500 5.5.2 Command line too long")
            assert client.ask("NOOP").startswith("250 ")


def test_a_command_line_that_does_not_end_costs_no_memory(ordinary: Gateway) -> None:
    with connected(ordinary) as client, _GrowthOf(ordinary) as growth:
        for _ in range(64):
            client.send(b"A" * MIB)
        client.send(b"\r\n")
        assert client.reply().startswith("500 5.5.2 ")

    assert growth.mib < FLAT_MIB


# --- counts ---


def test_recipients_over_the_limit_are_put_off_and_the_others_get_the_mail(limited: Gateway) -> None:
    mailboxes = [new_mailbox(limited) for _ in range(4)]
    with connected(limited) as client:
        client.envelope(*mailboxes[:3])
        assert client.ask(f"RCPT TO:<{mailboxes[3]}>").startswith("452 4.5.3 ")
        client.ask("DATA")
        client.send(stuffed(MESSAGE))
        assert client.reply().startswith("250 ")

    assert [len(stored(limited, mailbox)) for mailbox in mailboxes] == [1, 1, 1, 0]


def test_a_flood_of_commands_ends_the_session(limited: Gateway) -> None:
    client = RawClient(limited.settings.smtp.port)
    client.send(b"NOOP\r\n" * 60)

    *_, before, last = client.rest().split("\n")

    assert before.startswith("250 ")
    assert last.startswith("421 4.7.0 Too many commands")


def test_a_flood_of_empty_transactions_ends_the_session(limited: Gateway) -> None:
    client = RawClient(limited.settings.smtp.port)
    client.send(b"EHLO x\r\n" + b"MAIL FROM:<a@example.com>\r\nRSET\r\n" * 30)

    assert client.rest().split("\n")[-1].startswith("421 4.7.0 Too many commands")


def test_many_refused_commands_end_the_session(limited: Gateway) -> None:
    with connected(limited) as client:
        client.ask("MAIL FROM:<a@example.com>")
        client.send(b"RCPT TO:<nobody@pillarbox.test>\r\n" * 10)

        replies = client.rest().split("\n")

    assert [reply[:9] for reply in replies] == ["550 5.1.1"] * 7 + ["421 4.7.0"]


def test_a_session_may_send_two_thousand_mails(ordinary: Gateway) -> None:
    mailbox = new_mailbox(ordinary)
    text = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{mailbox}>\r\nDATA\r\n".encode() + stuffed(MESSAGE)
    with connected(ordinary) as client:
        for _ in range(2_000):
            client.send(text)
            assert [client.reply()[:3] for _ in range(4)] == ["250", "250", "354", "250"]

    assert len(stored(ordinary, mailbox)) == 2_000


def test_connections_are_limited_by_address_and_in_total_and_places_are_given_back(tmp_path: Path) -> None:
    limits = {"PILLARBOX_MAX_CONNECTIONS_PER_IP": "3", "PILLARBOX_MAX_CONNECTIONS": "4"}
    for gateway in _receiver(tmp_path, **limits):
        open_ones = [_connect_from(gateway, "127.0.0.1").greet() for _ in range(3)]
        assert _connect_from(gateway, "127.0.0.1").rest() == "421 4.7.0 Too many connections; try again later"
        open_ones.append(_connect_from(gateway, "127.0.0.2").greet())
        assert _connect_from(gateway, "127.0.0.3").rest() == "421 4.7.0 Too many connections; try again later"

        assert open_ones[0].ask("QUIT").startswith("221 ")
        _wait_until_admitted(gateway, 1)
        for client in open_ones:
            client.close()
        _wait_until_admitted(gateway, 3)


def test_a_flood_of_anything_short_ends_the_session(limited: Gateway) -> None:
    for flood in (b"NOOP\r\n", b"RSET\r\n", b"HELP\r\n", b"VRFY a\r\n", b"\r\n", b"\n", b"x\n", b"\x00\n"):
        client = RawClient(limited.settings.smtp.port)
        with suppress(OSError):  # it may hang up before all is sent
            client.send(flood * 10_000)
        assert client.rest().count("\n") < 45, flood


# --- times ---


def test_a_client_that_is_gone_without_a_word_is_noticed() -> None:
    with listening_socket("127.0.0.1", free_port()) as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted = listener.accept()[0]
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            for option, value in KEEPALIVE.items():
                assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, option)) == value


def test_a_silent_session_is_closed(impatient: Gateway) -> None:
    client = RawClient(impatient.settings.smtp.port)
    begun = time.monotonic()

    greeting, farewell = client.rest().split("\n")

    assert greeting.startswith("220 ")
    assert farewell.startswith("421 4.4.2 ")
    assert 0.9 < time.monotonic() - begun < 3


def test_a_command_that_comes_a_byte_at_a_time_does_not_hold_the_session_open(impatient: Gateway) -> None:
    with connected(impatient) as client:
        assert _drip(client, until_s=6) < 3


def test_a_client_that_falls_silent_within_a_message_is_cut_off(impatient: Gateway) -> None:
    mailbox = new_mailbox(impatient)
    with connected(impatient) as client:
        client.begin_data(mailbox)
        client.send(LINE * 2_000)
        begun = time.monotonic()

        assert client.rest().startswith("421 4.4.2 ")

    assert 0.9 < time.monotonic() - begun < 2.5
    assert stored(impatient, mailbox) == []


@pytest.mark.parametrize("pause_s", [DRIP_S, 0.01])
def test_a_message_that_comes_slowly_has_the_whole_data_timeout_and_no_more(impatient: Gateway, pause_s: float) -> None:
    mailbox = new_mailbox(impatient)
    with connected(impatient) as client:
        client.begin_data(mailbox)
        assert 2.5 < _drip(client, until_s=10, pause_s=pause_s) < 5

    assert stored(impatient, mailbox) == []


def test_a_message_that_comes_slowly_but_in_time_is_taken(impatient: Gateway) -> None:
    mailbox = new_mailbox(impatient)
    with connected(impatient) as client:
        client.begin_data(mailbox)
        for _ in range(20):
            client.send(b"x")
            time.sleep(DRIP_S)
        client.send(b"\r\n.\r\n")
        assert client.reply().startswith("250 ")

    assert [mail.raw for mail in stored(impatient, mailbox)] == [b"x" * 20 + b"\r\n"]


# --- tools ---


class _GrowthOf:
    """By how much a receiver's memory peaked above where it was."""

    def __init__(self, gateway: Gateway) -> None:
        self._process = Path(f"/proc/{gateway.processes['smtp'].pid}")
        self.mib = 0.0

    def __enter__(self) -> _GrowthOf:
        (self._process / "clear_refs").write_text("5")  # resets the peak to what is used now
        self._before = self._read("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.mib = self._read("VmHWM") - self._before
        print(f"grew by {self.mib:.1f} MiB over {self._before:.1f} MiB")

    def _read(self, name: str) -> float:
        line = next(line for line in (self._process / "status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024


def _message_of(size: int) -> bytes:
    whole, rest = divmod(size, len(LINE))
    return LINE * whole + b"y" * (rest - 2) + b"\r\n"


def _send_bytes(client: RawClient, size: int) -> None:
    message = _message_of(size)
    for start in range(0, size, MIB):
        client.send(message[start : start + MIB])


def _drip(client: RawClient, until_s: float, pause_s: float = DRIP_S) -> float:
    """Send a byte at a time until the server closes; the seconds that took."""
    begun = time.monotonic()
    client.socket.settimeout(pause_s)
    while time.monotonic() - begun < until_s:
        try:
            client.send(b"x")
            if not client.socket.recv(1000):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - begun


def _connect_from(gateway: Gateway, source: str) -> RawClient:
    return RawClient(gateway.settings.smtp.port, source=source)


def _wait_until_admitted(gateway: Gateway, count: int) -> None:
    """So many places are free again within a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        clients = [_connect_from(gateway, "127.0.0.1") for _ in range(count)]
        greetings = [client.reply() for client in clients]
        for client in clients:
            client.close()
        if all(greeting.startswith("220 ") for greeting in greetings):
            return
    raise AssertionError(greetings)
