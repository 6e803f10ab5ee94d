"""POSTs to targets that behave, misbehave, and must not be called at all; real sockets throughout.

Name resolution alone is replaced where a test needs a name that answers differently the second time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from core.clock import system_clock
from core.delivery import Outcome, Verdict
from core.netguard import LOOPBACK, TargetPolicy, parse_networks
from inbound.forward import Forwarder, Post, retry_after_ms
from inbound.guarded_http import DeadlineWatch, guarded_session
from tests.conftest import NOW_MS
from tests.http_target import HttpTarget, reply, running_target
from tests.raw_server import make_certificate, read_request, running_raw_server

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"plain": "Hi."}'
TIMEOUT_S = 5.0
SHORT_S = 0.4
OK = reply(200, b"fine")


@pytest.fixture(scope="module")
def watch() -> DeadlineWatch:
    return DeadlineWatch()


@pytest.fixture
def make(watch: DeadlineWatch) -> Callable[..., Forwarder]:
    def forwarder(
        timeout_s: float = TIMEOUT_S, policy: TargetPolicy | None = None, ca_file: Path | None = None
    ) -> Forwarder:
        session = guarded_session(policy or TargetPolicy(LOOPBACK), 8, str(ca_file) if ca_file else None)
        return Forwarder(session, watch, timeout_s, system_clock)

    return forwarder


@pytest.fixture
def forwarder(make: Callable[..., Forwarder]) -> Forwarder:
    return make()


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


def post(url: str, **changes: Any) -> Post:
    fields: dict[str, Any] = {
        "delivery_id": "0190-id",
        "attempt_number": 3,
        "target": url,
        "secret": SECRET,
        "content_type": "application/json",
        "body": BODY,
    }
    return Post(**{**fields, **changes})


def timed(forwarder: Forwarder, url: str) -> tuple[Outcome, float]:
    started = time.monotonic()
    return forwarder.send(post(url)), time.monotonic() - started


# --- what is sent ---


def test_the_payload_arrives_with_its_headers_and_a_valid_signature(forwarder: Forwarder, target: HttpTarget) -> None:
    outcome = forwarder.send(post(target.url("/ok?a=1&b=%20")))

    (request,) = target.received
    assert (outcome.verdict, outcome.status, outcome.error, outcome.response) == (Verdict.ACCEPTED, 200, None, None)
    assert (request.method, request.path, request.body) == ("POST", "/ok?a=1&b=%20", BODY)
    assert set(request.headers) == {
        "host", "content-type", "content-length", "user-agent", "accept", "accept-encoding", "pillarbox-attempt",
        "webhook-id", "webhook-timestamp", "webhook-signature",
    }  # fmt: skip
    assert request.headers["webhook-id"] == "0190-id"
    assert request.headers["pillarbox-attempt"] == "3"
    assert request.headers["accept-encoding"] == "identity"
    assert Webhook(SECRET).verify(request.body, request.headers) == json.loads(BODY)


def test_a_binary_payload_is_signed_as_it_stands(forwarder: Forwarder, target: HttpTarget) -> None:
    body = bytes(range(256)) * 10
    forwarder.send(post(target.url(), body=body, content_type="multipart/form-data; boundary=x"))
    (request,) = target.received
    signed = f"0190-id.{request.headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.body == body
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 5


def test_credentials_in_the_url_become_basic_authentication(forwarder: Forwarder, target: HttpTarget) -> None:
    forwarder.send(post(target.url(credentials="us%40er:p%3Ass%20w%C3%B6rd@")))
    forwarder.send(post(target.url(credentials="only-user@")))
    first, second = (request.headers["authorization"] for request in target.received)
    assert base64.b64decode(first.removeprefix("Basic ")).decode() == "us@er:p:ss wörd"
    assert base64.b64decode(second.removeprefix("Basic ")).decode() == "only-user:"


def test_the_environment_gives_neither_proxies_nor_passwords(
    make: Callable[..., Forwarder], target: HttpTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login us password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with running_target() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url("/"))
        assert make().send(post(target.url())).status == 200
        assert proxy.received == []
    assert "authorization" not in target.received[0].headers


def test_cookies_of_a_target_are_not_kept(forwarder: Forwarder, target: HttpTarget) -> None:
    target.scripted["/cookie"] = [reply(200, b"", "Set-Cookie: session=1; Path=/")] * 2
    for _ in range(2):
        forwarder.send(post(target.url("/cookie")))
    assert [request.headers.get("cookie") for request in target.received] == [None, None]
    assert list(forwarder._session.cookies) == []


# --- what comes back ---


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.ACCEPTED), (201, Verdict.ACCEPTED), (204, Verdict.ACCEPTED), (299, Verdict.ACCEPTED),
        (400, Verdict.PERMANENT), (401, Verdict.PERMANENT), (404, Verdict.PERMANENT), (410, Verdict.PERMANENT),
        (408, Verdict.TEMPORARY), (425, Verdict.TEMPORARY), (429, Verdict.TEMPORARY),
        (500, Verdict.TEMPORARY), (502, Verdict.TEMPORARY), (503, Verdict.TEMPORARY),
    ],
)  # fmt: skip
def test_an_answer_is_reported_with_its_status(
    forwarder: Forwarder, target: HttpTarget, status: int, verdict: Verdict
) -> None:
    outcome = forwarder.send(post(target.url(f"/status/{status}")))
    assert (outcome.verdict, outcome.status, outcome.error) == (verdict, status, None)
    assert outcome.response == (None if verdict is Verdict.ACCEPTED else "answer of the test target")
    assert len(target.received) == 1


def test_the_first_two_kilobytes_of_a_failing_answer_are_kept(forwarder: Forwarder, target: HttpTarget) -> None:
    target.scripted["/long"] = [reply(500, b"0123456789" * 1_000)]
    assert forwarder.send(post(target.url("/long"))).response == ("0123456789" * 205)[:2048]


def test_an_answer_may_hold_any_bytes(forwarder: Forwarder, target: HttpTarget) -> None:
    target.scripted["/odd"] = [reply(404, b"a\x00b\xff\xc3\xbc")]
    assert forwarder.send(post(target.url("/odd"))).response == "a\ufffdb\ufffdü"


def test_an_endless_body_is_not_read_to_its_end(forwarder: Forwarder, target: HttpTarget) -> None:
    accepted, seconds = timed(forwarder, target.url("/endless"))
    assert (accepted.verdict, accepted.status) == (Verdict.ACCEPTED, 200)
    assert seconds < 2


@pytest.mark.parametrize("status", [200, 307, 500])
def test_no_more_than_a_little_of_an_endless_body_is_taken_in(
    make: Callable[..., Forwarder], target: HttpTarget, status: int
) -> None:
    sent = [0]

    def endless(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(f"HTTP/1.1 {status} X\r\nLocation: {target.url()}\r\n\r\n".encode())
        while True:
            sent[0] += connection.send(b"x" * 65536)

    with running_raw_server(endless) as port:
        outcome, seconds = timed(make(), f"http://127.0.0.1:{port}/")

    assert outcome.status == (500 if status == 500 else 200)
    assert outcome.response == ("x" * 2048 if status == 500 else None)
    assert sent[0] < 10_000_000  # what socket buffers hold, not what flows in seconds
    assert seconds < 2


def test_a_compressed_bomb_is_not_unpacked(forwarder: Forwarder, target: HttpTarget) -> None:
    import gzip

    bomb = gzip.compress(b"\x00" * 50_000_000)
    target.scripted["/bomb"] = [reply(500, bomb, "Content-Encoding: gzip")]
    outcome, seconds = timed(forwarder, target.url("/bomb"))
    assert outcome.status == 500
    assert outcome.response is not None
    assert len(outcome.response) <= 2048
    assert seconds < 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("0", 0),
        ("120", 120_000),
        (" 7 ", 7_000),
        ("9" * 400, 999_999_999_999_000),
        ("Mon, 21 Sep 2026 14:15:20 GMT", 120_000),
        ("Mon, 21 Sep 2026 14:15:20", 120_000),
        ("Monday, 21-Sep-26 14:15:20 GMT", 120_000),
        ("Mon Sep 21 14:15:20 2026", 120_000),
        ("Mon, 21 Sep 2020 14:15:20 GMT", 0),
        ("Mon, 21 Sep 2026 16:15:20 +0200", 120_000),
        ("-5", None), ("1.5", None), ("soon", None), ("", None), ("١٢", None), ("Mon, 99 Foo 2026", None),
        ("Mon, 21 Sep 99999 14:15:20 GMT", None), ("Mon, 21 Sep 2026 14:15:20 +9999999999", None),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, expected: int | None) -> None:
    assert retry_after_ms(header, NOW_MS) == expected


def test_a_retry_after_is_reported_with_a_failure_only(forwarder: Forwarder, target: HttpTarget) -> None:
    target.scripted["/busy"] = [reply(503, b"", "Retry-After: 30"), reply(200, b"", "Retry-After: 30")]
    assert forwarder.send(post(target.url("/busy"))).retry_after_ms == 30_000
    assert forwarder.send(post(target.url("/busy"))).retry_after_ms is None


# --- redirects ---


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_followed_with_the_same_post(forwarder: Forwarder, target: HttpTarget, status: int) -> None:
    outcome = forwarder.send(post(target.url(f"/redirect/{status}/ok")))
    first, second = target.received
    assert (outcome.verdict, outcome.status) == (Verdict.ACCEPTED, 200)
    assert (second.method, second.path, second.body) == ("POST", "/ok", BODY)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["webhook-id"] == first.headers["webhook-id"]
    assert Webhook(SECRET).verify(second.body, second.headers)


@pytest.mark.parametrize("status", [300, 303, 304, 305, 399])
def test_other_3xx_are_not_followed_and_count_as_temporary(
    forwarder: Forwarder, target: HttpTarget, status: int
) -> None:
    outcome = forwarder.send(post(target.url(f"/redirect/{status}/ok")))
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, status)
    assert len(target.received) == 1


def test_three_redirects_are_followed_and_a_fourth_is_not(forwarder: Forwarder, target: HttpTarget) -> None:
    three = "/redirect/307" * 3 + "/ok"
    assert forwarder.send(post(target.url(three))).status == 200
    assert len(target.received) == 4

    outcome = forwarder.send(post(target.url("/redirect/307" + three)))

    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 307)
    assert outcome.error == "redirected more than 3 times"
    assert len(target.received) == 8


def test_a_redirect_without_a_place_is_a_temporary_answer(forwarder: Forwarder, target: HttpTarget) -> None:
    target.scripted["/lost"] = [reply(302, b"")]
    outcome = forwarder.send(post(target.url("/lost")))
    assert (outcome.verdict, outcome.status, outcome.error) == (Verdict.TEMPORARY, 302, None)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("other", "/a/other"),
        ("/other?x=1#fragment", "/other?x=1"),
        ("../up", "/up"),
        ("?x=2", "/a/b?x=2"),
        ("/%C3%BC", "/%C3%BC"),
        ("/ü", "/%C3%BC"),
    ],
)
def test_a_relative_location_is_taken_from_where_it_was_given(
    forwarder: Forwarder, target: HttpTarget, location: str, path: str
) -> None:
    target.scripted["/a/b"] = [f"HTTP/1.1 307 X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()]
    assert forwarder.send(post(target.url("/a/b"))).status == 200
    assert target.received[-1].path == path


@pytest.mark.parametrize(
    "location", ["ftp://example.com/", "http://[::1", "http://a:99999/", "/a b", "javascript:1", "//[", "http://.."]
)
def test_a_location_that_cannot_be_called_is_a_failure_of_the_target(
    forwarder: Forwarder, target: HttpTarget, location: str
) -> None:
    target.scripted["/a"] = [f"HTTP/1.1 307 X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()]
    outcome = forwarder.send(post(target.url("/a")))
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 0)
    assert outcome.error is not None
    assert "Location" in outcome.error or "could not be reached" in outcome.error


def test_a_redirect_inward_is_not_followed(make: Callable[..., Forwarder], target: HttpTarget) -> None:
    only_loopback_v4 = TargetPolicy(parse_networks("127.0.0.1/32"))
    target.scripted["/in"] = [
        f"HTTP/1.1 307 X\r\nLocation: http://127.0.0.2:{target.port}/ok\r\nContent-Length: 0\r\n\r\n".encode()
    ]
    outcome = make(policy=only_loopback_v4).send(post(target.url("/in")))
    assert outcome.verdict is Verdict.TEMPORARY
    assert outcome.error is not None
    assert "127.0.0.2 is not a public address" in outcome.error
    assert len(target.received) == 1


def test_credentials_stay_with_the_origin_they_were_given_for(forwarder: Forwarder, target: HttpTarget) -> None:
    with running_target() as other:
        moved = f"HTTP/1.1 308 X\r\nLocation: {other.url('/ok')}\r\nContent-Length: 0\r\n\r\n".encode()
        named = f"HTTP/1.1 308 X\r\nLocation: {other.url('/ok', 'b:c@')}\r\nContent-Length: 0\r\n\r\n".encode()
        target.scripted["/move"] = [moved, named]
        for path in ("/redirect/308/ok", "/move", "/move"):
            forwarder.send(post(target.url(path, credentials="us:secret@")))
        authorizations = [request.headers.get("authorization") for request in target.received]
        assert authorizations == ["Basic dXM6c2VjcmV0"] * 4  # twice at the first, kept on the same origin
        assert [request.headers.get("authorization") for request in other.received] == [None, "Basic Yjpj"]


# --- misbehaviour ---


@pytest.mark.parametrize("path", ["/reset", "/close"])
def test_a_connection_that_breaks_is_a_temporary_failure_and_one_attempt(
    forwarder: Forwarder, target: HttpTarget, path: str
) -> None:
    outcome = forwarder.send(post(target.url(path)))
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 0)
    assert outcome.error is not None
    assert outcome.error.startswith("the target could not be reached: ")
    assert len(target.received) == 1


def test_a_truncated_answer_counts_by_its_status(forwarder: Forwarder, target: HttpTarget) -> None:
    assert forwarder.send(post(target.url("/truncate"))).verdict is Verdict.ACCEPTED

    def truncate(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 500 X\r\nContent-Length: 1000\r\n\r\nthe beginning")

    with running_raw_server(truncate) as port:
        outcome = forwarder.send(post(f"http://127.0.0.1:{port}/"))
    assert (outcome.status, outcome.response) == (500, "the beginning")


@pytest.mark.parametrize("path", ["/sleep/20", "/drip"])
def test_the_timeout_is_for_the_whole_answer(make: Callable[..., Forwarder], target: HttpTarget, path: str) -> None:
    outcome, seconds = timed(make(SHORT_S), target.url(path))
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 0)
    assert outcome.error == "no complete answer within 0.4 seconds"
    assert SHORT_S * 0.9 < seconds < SHORT_S + 1
    assert abs(outcome.duration_ms / 1000 - seconds) < 0.2


def test_the_timeout_is_for_all_redirects_together(make: Callable[..., Forwarder], target: HttpTarget) -> None:
    def slowly(connection: socket.socket, number: int) -> None:
        while read_request(connection):
            time.sleep(SHORT_S * 0.6)
            connection.sendall(b"HTTP/1.1 307 X\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    with running_raw_server(slowly) as port:
        outcome, seconds = timed(make(SHORT_S), f"http://127.0.0.1:{port}/")
    assert outcome.error == "no complete answer within 0.4 seconds"
    assert seconds < SHORT_S + 1


def test_a_body_that_drips_is_cut_and_what_came_is_kept(make: Callable[..., Forwarder]) -> None:
    def drip(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 503 X\r\nContent-Length: 100000\r\n\r\nwhy: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    with running_raw_server(drip) as port:
        outcome, seconds = timed(make(SHORT_S), f"http://127.0.0.1:{port}/")
    assert (outcome.status, outcome.verdict) == (503, Verdict.TEMPORARY)
    assert outcome.response is not None
    assert outcome.response.startswith("why: x")
    assert seconds < SHORT_S + 1


def test_a_target_that_reads_nothing_is_cut(make: Callable[..., Forwarder]) -> None:
    def deaf(connection: socket.socket, number: int) -> None:
        time.sleep(SHORT_S + 2)

    with running_raw_server(deaf) as port:
        started = time.monotonic()
        outcome = make(SHORT_S).send(post(f"http://127.0.0.1:{port}/", body=b"x" * 30_000_000))
    assert outcome.error == "no complete answer within 0.4 seconds"
    assert time.monotonic() - started < SHORT_S + 1


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff nonsense\r\n\r\n", b"HTTP/1.1 banana\r\n\r\n", b"\r\n\r\n", b"", b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 99999 X\r\n\r\n", b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 5_000 + b"\r\n",
        b"HTTP/1.1 200 X\r\nA: " + b"b" * 200_000 + b"\r\n\r\n", b"\x00" * 200_000,
        b"HTTP/1.1 -1 X\r\n\r\n",
    ],
    ids=["bytes", "no status", "empty lines", "nothing", "ssh", "status", "headers", "long header", "long", "negative"],
)  # fmt: skip
def test_what_is_no_http_is_a_temporary_failure_told_in_plain_characters(forwarder: Forwarder, answer: bytes) -> None:
    def answering(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(answer)

    with running_raw_server(answering) as port:
        outcome = forwarder.send(post(f"http://127.0.0.1:{port}/"))
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 0)
    assert outcome.error is not None
    assert outcome.error.isprintable()
    assert len(outcome.error) <= 500


def test_broken_chunks_after_the_status_do_not_undo_it(forwarder: Forwarder) -> None:
    def answering(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n")

    with running_raw_server(answering) as port:
        assert forwarder.send(post(f"http://127.0.0.1:{port}/")).verdict is Verdict.ACCEPTED


def test_a_port_on_which_nobody_listens(forwarder: Forwarder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outcome = forwarder.send(post(f"http://127.0.0.1:{port}/"))
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 0)
    assert outcome.error is not None
    assert "refused" in outcome.error


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid", "xn--a.invalid", "a..b.invalid"])
def test_a_name_that_does_not_resolve(make: Callable[..., Forwarder], host: str) -> None:
    outcome = make(20.0).send(post(f"http://{host}/"))
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 0)
    assert outcome.error is not None


# --- kept connections ---


def test_a_connection_is_used_again(forwarder: Forwarder, target: HttpTarget) -> None:
    for path in ("/ok", "/status/404", "/status/500", "/ok"):
        forwarder.send(post(target.url(path)))
    assert {request.connection for request in target.received} == {1}


def fragile(first_answers: int) -> tuple[list[bytes], Callable[[socket.socket, int], None]]:
    """A server whose first connections take one request and break at the second, without any sign before."""
    requests: list[bytes] = []

    def handle(connection: socket.socket, number: int) -> None:
        while request := read_request(connection):
            requests.append(b"%d %s" % (number, request.split()[1]))
            if number <= first_answers and sum(entry.startswith(b"%d " % number) for entry in requests) == 2:
                return
            connection.sendall(OK)

    return requests, handle


def test_a_stale_connection_is_replaced_at_once_by_a_fresh_one(forwarder: Forwarder) -> None:
    requests, handle = fragile(1)
    with running_raw_server(handle) as port:
        outcomes = [forwarder.send(post(f"http://127.0.0.1:{port}/{number}")) for number in range(2)]
    assert [outcome.status for outcome in outcomes] == [200, 200]
    assert requests == [b"1 /0", b"1 /1", b"2 /1"]


def test_the_second_try_never_takes_another_stale_connection(make: Callable[..., Forwarder]) -> None:
    import threading

    forwarder = make()
    requests: list[bytes] = []
    all_open = threading.Barrier(3)

    def handle(connection: socket.socket, number: int) -> None:
        while request := read_request(connection):
            requests.append(request.split()[1])
            if number <= 3 and request.split()[1] == b"/again":
                return
            if number <= 3:
                all_open.wait(5)  # so that three connections are kept
            connection.sendall(OK)

    with running_raw_server(handle) as port:
        url = f"http://127.0.0.1:{port}"
        threads = [threading.Thread(target=forwarder.send, args=(post(f"{url}/first"),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert forwarder.send(post(f"{url}/again")).status == 200
    assert requests.count(b"/again") == 2


def test_a_fresh_connection_that_breaks_is_not_tried_again(forwarder: Forwarder, tmp_path: Path) -> None:
    counted: list[int] = []

    def handle(connection: socket.socket, number: int) -> None:
        read_request(connection)
        counted.append(number)

    with running_raw_server(handle) as port:
        assert forwarder.send(post(f"http://127.0.0.1:{port}/")).status == 0
    assert counted == [1]


def test_a_fresh_tls_connection_that_breaks_is_not_tried_again(make: Callable[..., Forwarder], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    counted: list[int] = []

    def handle(connection: socket.socket, number: int) -> None:
        read_request(connection)
        counted.append(number)

    with running_raw_server(handle, certificate) as port:
        assert make(ca_file=certificate.path).send(post(f"https://127.0.0.1:{port}/")).status == 0
    assert counted == [1]


# --- TLS ---


def answering_ok(connection: socket.socket, number: int) -> None:
    while read_request(connection):
        connection.sendall(OK)


def test_a_certificate_nobody_vouches_for_is_refused(forwarder: Forwarder, tmp_path: Path) -> None:
    with running_raw_server(answering_ok, make_certificate(tmp_path)) as port:
        outcome = forwarder.send(post(f"https://127.0.0.1:{port}/"))
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 0)
    assert outcome.error is not None
    assert outcome.error.startswith("the TLS connection failed: ")
    assert "certificate verify failed" in outcome.error


def test_a_certificate_of_the_given_file_is_trusted(make: Callable[..., Forwarder], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    forwarder = make(ca_file=certificate.path)
    with running_raw_server(answering_ok, certificate) as port:
        statuses = [forwarder.send(post(f"https://127.0.0.1:{port}/")).status for _ in range(2)]
    assert statuses == [200, 200]


def test_a_trusted_certificate_for_another_name_is_refused(make: Callable[..., Forwarder], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "other.example")
    with running_raw_server(answering_ok, certificate) as port:
        outcome = make(ca_file=certificate.path).send(post(f"https://127.0.0.1:{port}/"))
    assert outcome.status == 0
    assert outcome.error is not None
    assert "mismatch" in outcome.error


def test_a_stale_tls_connection_is_replaced(make: Callable[..., Forwarder], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    requests, handle = fragile(1)
    forwarder = make(ca_file=certificate.path)
    with running_raw_server(handle, certificate) as port:
        statuses = [forwarder.send(post(f"https://127.0.0.1:{port}/{number}")).status for number in range(2)]
    assert statuses == [200, 200]
    assert requests == [b"1 /0", b"1 /1", b"2 /1"]


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x03\x40\x00\x02"], ids=["silent", "dripping"])
def test_a_tls_handshake_that_does_not_end_is_cut(make: Callable[..., Forwarder], beginning: bytes) -> None:
    def stall(connection: socket.socket, number: int) -> None:
        connection.sendall(beginning)
        while True:
            if beginning:
                connection.sendall(b"\x00")
            time.sleep(0.05)

    with running_raw_server(stall) as port:
        outcome, seconds = timed(make(SHORT_S), f"https://127.0.0.1:{port}/")
    assert outcome.error == "no complete answer within 0.4 seconds"
    assert seconds < SHORT_S + 1


def test_a_tls_answer_that_drips_is_cut(make: Callable[..., Forwarder], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    def drip(connection: socket.socket, number: int) -> None:
        read_request(connection)
        while True:
            connection.sendall(b"H")
            time.sleep(0.05)

    with running_raw_server(drip, certificate) as port:
        outcome, seconds = timed(make(SHORT_S, ca_file=certificate.path), f"https://127.0.0.1:{port}/")
    assert outcome.error == "no complete answer within 0.4 seconds"
    assert seconds < SHORT_S + 1


# --- where it may not go ---


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.1", "0", "0.0.0.0",
        "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost",
        "LOCALHOST", "100.64.0.1", "169.254.169.254", "[fd00:ec2::254]", "[fe80::1]", "10.0.0.1", "192.168.0.1",
        "[::127.0.0.1]", "[fec0::1]",
    ],
)  # fmt: skip
def test_no_spelling_of_a_private_address_is_called(
    make: Callable[..., Forwarder], target: HttpTarget, host: str
) -> None:
    outcome, seconds = timed(make(policy=TargetPolicy()), f"http://{host}:{target.port}/ok")
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 0)
    assert outcome.error is not None
    assert "is not a public address" in outcome.error
    assert target.received == []
    assert seconds < 2


@pytest.mark.parametrize("host", ["\u2460\u2461\u2466.0.0.1", "127\u30020\u30020\u30021", "\uff11\uff12\uff17.0.0.1"])
def test_digits_and_dots_of_other_scripts_do_not_hide_an_address(
    make: Callable[..., Forwarder], target: HttpTarget, host: str
) -> None:
    outcome = make(policy=TargetPolicy()).send(post(f"http://{host}:{target.port}/ok"))
    assert (outcome.verdict, outcome.status) == (Verdict.TEMPORARY, 0)
    assert target.received == []


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What names resolve to, one answer for each time they are asked for; others resolve as ever."""
    answers: dict[str, list[list[str]]] = {}
    original = socket.getaddrinfo

    def resolve(host: Any, port: Any, *arguments: Any, **keywords: Any) -> Any:
        if host not in answers:
            return original(host, port, *arguments, **keywords)
        addresses = answers[host].pop(0)
        return [entry for address in addresses for entry in original(address, port, *arguments, **keywords)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return answers


def test_the_address_that_was_checked_is_the_one_that_is_called(
    make: Callable[..., Forwarder], target: HttpTarget, names: dict[str, list[list[str]]]
) -> None:
    """A name that rebinds between check and connection: there is no second look-up to abuse."""
    names["rebind.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    forwarder = make(policy=TargetPolicy(parse_networks("127.0.0.1/32")))
    assert forwarder.send(post(f"http://rebind.example:{target.port}/ok")).status == 200
    assert names["rebind.example"] == [["127.0.0.2"]]
    assert target.received[0].headers["host"] == f"rebind.example:{target.port}"


def test_a_name_that_has_rebound_is_refused_at_the_next_connection(
    make: Callable[..., Forwarder], target: HttpTarget, names: dict[str, list[list[str]]]
) -> None:
    names["rebind.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    target.scripted["/bye"] = [reply(200, b"", "Connection: close")]
    forwarder = make(policy=TargetPolicy(parse_networks("127.0.0.1/32")))
    assert forwarder.send(post(f"http://rebind.example:{target.port}/bye")).status == 200
    outcome = forwarder.send(post(f"http://rebind.example:{target.port}/bye"))
    assert outcome.error is not None
    assert "127.0.0.2 is not a public address" in outcome.error


def test_of_several_addresses_only_the_allowed_are_called(
    make: Callable[..., Forwarder], target: HttpTarget, names: dict[str, list[list[str]]]
) -> None:
    names["mixed.example"] = [["10.0.0.1", "127.0.0.2", "127.0.0.1"]]
    outcome, seconds = timed(
        make(policy=TargetPolicy(parse_networks("127.0.0.1/32"))), f"http://mixed.example:{target.port}/ok"
    )
    assert outcome.status == 200
    assert seconds < 2


def black_holes(stack: ExitStack, port: int, *hosts: str) -> None:
    """Listeners whose queues are full: Linux drops what else would connect, as a firewall does."""
    for host in hosts:
        listener = stack.enter_context(socket.create_server((host, port), backlog=0))
        assert listener
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect((host, port))


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    make: Callable[..., Forwarder], target: HttpTarget, names: dict[str, list[list[str]]]
) -> None:
    names["half.example"] = [["127.0.0.2", "127.0.0.1"]]
    with ExitStack() as stack:
        black_holes(stack, target.port, "127.0.0.2")
        outcome, seconds = timed(make(1.0), f"http://half.example:{target.port}/ok")
    assert outcome.status == 200
    assert 0.4 < seconds < 1.0


def test_many_addresses_that_do_not_answer_take_no_more_than_the_timeout(
    make: Callable[..., Forwarder], target: HttpTarget, names: dict[str, list[list[str]]]
) -> None:
    hosts = [f"127.0.0.{number}" for number in range(2, 7)]
    names["gone.example"] = [hosts]
    with ExitStack() as stack:
        black_holes(stack, target.port, *hosts)
        outcome, seconds = timed(make(SHORT_S), f"http://gone.example:{target.port}/ok")
    assert outcome.error == "no complete answer within 0.4 seconds"
    assert seconds < SHORT_S + 0.5
