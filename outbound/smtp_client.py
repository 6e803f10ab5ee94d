"""One SMTP connection as a client, against peers that may be slow, broken or hostile.

Our own and not smtplib: that bounds the silence between two bytes, not a reply as a whole; it takes replies of any
length; and it goes on with what was sent in clear before a TLS handshake. Ours is over by a deadline in every phase.
"""

from __future__ import annotations

import base64
import errno
import re
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress

from core.smart_host import NAME as SMART_HOST
from core.smart_host import Login
from outbound.dane import CertificateRejected, check_certificate
from outbound.hosts import HostAddress
from outbound.replies import CLOSING, MalformedReply, Reply, ReplyReader
from outbound.timing import Deadline, Timeouts
from outbound.tls import WHATEVER_THERE_IS, TlsContexts, TlsDemand, TlsLevel
from outbound.wire import CRLF

RECEIVED_BYTES = 16 * 1024
BLOCK_BYTES = 16 * 1024
"""What one timeout covers: as much as a TLS record holds, because `sendall` starts the clock anew for each."""
LAST_WORDS_S = 1.0
"""How long a host that stopped taking content is listened to for its reason."""
NOT_IMPLEMENTED = frozenset({500, 501, 502, 504})
"""Replies to EHLO after which HELO may do (RFC 5321 section 4.1.4; others refuse us, not the verb)."""
GO_ON = 334
"""An answer in the midst of a login (RFC 4954 section 4)."""
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


class ConnectionFailed(Exception):
    """The conversation cannot go on: no connection, no answer in time, no SMTP. Another host may do."""

    def __init__(self, enhanced: str, text: str, is_timeout: bool = False, is_our_fault: bool = False) -> None:
        super().__init__(text)
        self.enhanced = enhanced
        self.is_timeout = is_timeout
        self.is_our_fault = is_our_fault


class TlsFailed(ConnectionFailed):
    """The handshake failed, or what the host showed in it does not do; with less TLS the same host may."""


class TlsMissing(ConnectionFailed):
    """The host does not encrypt, and mail must not go to it in clear."""


class HostRefuses(Exception):
    """The host does not want to talk with us, or not now: at its greeting, at EHLO, or by 421 at any time."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


class LoginRefused(HostRefuses):
    """Our relay does not take our name and password: the operator's settings are wrong, not the mail."""


class SmtpConnection:
    """Commands and replies; not safe for threads. Every method may raise `ConnectionFailed` and `HostRefuses`."""

    def __init__(self, place: HostAddress, timeouts: Timeouts) -> None:
        self.place = place
        self.features: dict[str, str] = {}
        """What EHLO announced: upper-case keyword and its parameters."""
        self.tls_version: str | None = None
        self.tls = TlsLevel.NONE
        """What the session has reached."""
        self.tls_warning: str | None = None
        """What was demanded beyond that, in vain and without being required."""
        self.messages = 0
        """Transactions so far."""
        self.is_in_transaction = False
        """Whether MAIL was said and RSET is needed before the next."""
        self._timeouts = timeouts
        self._reader = ReplyReader()
        self._socket: socket.socket | None = None

    def open(self, our_name: str, demand: TlsDemand | None, contexts: TlsContexts, deadline: Deadline) -> None:
        """Connect, greet, and encrypt as demanded; without a demand in clear. Also raises `TlsFailed` and
        `TlsMissing`."""
        self._connect(deadline)
        if self.place.is_tls:
            self._encrypt(demand or WHATEVER_THERE_IS, contexts, deadline.within(self._timeouts.tls_s))
        greeting = self._read(deadline.within(self._timeouts.greeting_s), "its greeting")
        if not greeting.is_positive:
            raise HostRefuses(greeting)
        self._say_hello(our_name, deadline)
        if not self.place.is_tls:
            self._upgrade(our_name, demand, contexts, deadline)
        if self.place.login is not None:
            self._log_in(self.place.login, deadline)

    def _upgrade(self, our_name: str, demand: TlsDemand | None, contexts: TlsContexts, deadline: Deadline) -> None:
        if demand is None:
            return
        if "STARTTLS" in self.features and self._start_tls(demand, contexts, deadline):
            self._say_hello_again(our_name, deadline)
        else:
            self._stay_in_clear(demand)

    def ask(self, line: bytes, deadline: Deadline) -> Reply:
        """Send one command and read its reply."""
        return self.ask_all([line], deadline)[0]

    def ask_all(self, lines: Iterable[bytes], deadline: Deadline) -> list[Reply]:
        """Send commands and read their replies: all at once where the host allows it (RFC 2920), else one by one."""
        asked = list(lines)
        if "PIPELINING" not in self.features:
            return [self._exchange([line], deadline)[0] for line in asked]
        return self._exchange(asked, deadline)

    def send_content(self, wire: bytes, deadline: Deadline) -> Reply | None:
        """Send the content, its end included, or break off before its end when the time is over. Gives a reply only if
        the host refused it midway."""
        view = memoryview(wire)
        try:
            for start in range(0, len(view), BLOCK_BYTES):
                if deadline.is_over:
                    raise ConnectionFailed("4.4.7", f"{self._peer} takes the content too slowly", is_timeout=True)
                self._send(view[start : start + BLOCK_BYTES], deadline.within(self._timeouts.block_s))
        except ConnectionFailed:
            with suppress(ConnectionFailed):
                reply = self._read(deadline.within(LAST_WORDS_S), "its last words")
                if not reply.is_positive:
                    return reply
            raise
        return None

    def read_verdict(self, deadline: Deadline) -> Reply:
        """The reply to the content."""
        return self._read(deadline.within(self._timeouts.dot_s), "its answer to the content")

    @property
    def is_alive(self) -> bool:
        """Whether nothing has come since the last reply: neither an end nor a 421."""
        if self._socket is None or self._reader.has_unread:
            return False
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def quit(self, deadline: Deadline | None = None) -> None:
        """Take leave and close; a host that does not answer is not waited for long, and not beyond the deadline."""
        limit = Deadline(self._timeouts.quit_s)
        with suppress(ConnectionFailed, HostRefuses):
            self._exchange([b"QUIT"], limit if deadline is None else limit.within(deadline.remaining))
        self.close()

    def close(self) -> None:
        """Close without a word."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # --- the parts ---

    def _connect(self, deadline: Deadline) -> None:
        address = (self.place.address, self.place.port)
        source = None if self.place.source is None else (self.place.source, 0)
        try:
            limit = deadline.within(self._timeouts.connect_s)
            self._socket = socket.create_connection(address, limit.remaining, source)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            is_timeout = isinstance(error, TimeoutError)
            reason = "no answer in time" if is_timeout else error.strerror or str(error)
            is_ours = error.errno == errno.EADDRNOTAVAIL  # the address to connect from, or all its ports are in use
            origin = f" from {self.place.source}" if is_ours and self.place.source else ""
            text = f"no connection to {self._peer} at port {self.place.port}{origin}: {reason}"
            raise ConnectionFailed("4.4.1", text, is_timeout, is_ours) from error

    def _say_hello(self, our_name: str, deadline: Deadline) -> None:
        limit = deadline.within(self._timeouts.helo_s)
        reply = self._exchange([b"EHLO " + our_name.encode("ascii")], limit)[0]
        self.features = _features(reply) if reply.is_positive else {}
        if reply.code in NOT_IMPLEMENTED and self.tls_version is None:
            reply = self._exchange([b"HELO " + our_name.encode("ascii")], limit)[0]
        if not reply.is_positive:
            raise HostRefuses(reply)

    def _say_hello_again(self, our_name: str, deadline: Deadline) -> None:
        """The first words under TLS. A connection that breaks here belongs to the handshake: in TLS 1.3 a host tells
        after ours what it does not like, a missing certificate of a client for one (RFC 8446 section 4.4.2.4)."""
        try:
            self._say_hello(our_name, deadline)
        except ConnectionFailed as error:
            raise TlsFailed(error.enhanced, f"{error} (the first under TLS)", error.is_timeout) from error

    def _stay_in_clear(self, demand: TlsDemand) -> None:
        text = f"{self._peer} does not encrypt with STARTTLS"
        if demand.is_required:
            raise TlsMissing("4.7.10", f"{text} (required by {demand.reason})")
        if demand.level is not TlsLevel.OPPORTUNISTIC:
            self.tls_warning = text

    def _start_tls(self, demand: TlsDemand, contexts: TlsContexts, deadline: Deadline) -> bool:
        """Whether the connection is encrypted now. What came in clear after the 220 must not count as if it had come
        under TLS (RFC 3207 section 4.2; CVE-2021-38371 and others)."""
        limit = deadline.within(self._timeouts.tls_s)
        if self._exchange([b"STARTTLS"], limit)[0].code != 220:
            return False
        if self._reader.has_unread:
            raise ConnectionFailed("4.7.0", f"{self._peer} said more than it may before the TLS handshake")
        self._encrypt(demand, contexts, limit)
        return True

    def _encrypt(self, demand: TlsDemand, contexts: TlsContexts, limit: Deadline) -> None:
        assert self._socket is not None
        try:
            self._socket.settimeout(limit.remaining)
            name = demand.names[0] if demand.names else self.place.host
            self._socket = contexts.fit_for(demand).wrap_socket(self._socket, server_hostname=name)
            if demand.tlsa:
                check_certificate(self._socket, demand.tlsa, demand.names)
        except (OSError, ValueError, CertificateRejected) as error:
            raise TlsFailed("4.7.5", self._tls_trouble(demand, error)) from error
        self.tls_version = self._socket.version()
        self.tls = demand.level

    def _log_in(self, login: Login, deadline: Deadline) -> None:
        """SASL PLAIN (RFC 4616 by RFC 4954), or else LOGIN, the only one that some large relays have, and only under
        TLS. Raises `LoginRefused`."""
        offered = self.features.get("AUTH", "").upper().split() if self.tls_version is not None else []
        if "PLAIN" in offered:
            lines = [b"AUTH PLAIN " + _base64(f"\0{login.user}\0{login.password}")]
        elif "LOGIN" in offered:
            lines = [b"AUTH LOGIN", _base64(login.user), _base64(login.password)]
        else:
            text = f"{self._peer} does not offer a login with PLAIN or LOGIN under TLS, which {SMART_HOST} asks for"
            raise ConnectionFailed("4.7.0", text, is_our_fault=True)
        for line in lines:
            reply = self._exchange([line], deadline, "AUTH")[0]  # errors must not name a password as the verb
            if reply.code != GO_ON:
                break
        if not reply.is_positive:
            raise LoginRefused(reply)

    def _tls_trouble(self, demand: TlsDemand, error: Exception) -> str:
        whose = f" (required by {demand.reason})" if demand.is_required else ""
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the certificate of {self._peer} is not valid{whose}: {error.verify_message}"
        reason = getattr(error, "reason", None) or str(error)
        return f"the TLS handshake with {self._peer} failed{whose}: {reason}"

    def _exchange(self, lines: list[bytes], deadline: Deadline, name: str = "") -> list[Reply]:
        """`name` is what to call the commands, if it is not their verb."""
        for line in lines:
            if _CONTROL.search(line):  # addresses were checked long before; this is the last door
                raise ValueError("a command must not hold control characters")
        limit = deadline.within(self._timeouts.command_s)
        self._send(CRLF.join(lines) + CRLF, limit)
        replies = []
        for line in lines:
            verb = name or line.split(b" ", 1)[0].decode("ascii", "replace")
            replies.append(self._read(deadline.within(self._timeouts.command_s), f"its answer to {verb}"))
            if replies[-1].code == CLOSING:
                raise HostRefuses(replies[-1])
        return replies

    def _send(self, data: bytes | memoryview, deadline: Deadline) -> None:
        if self._socket is None:
            raise ConnectionFailed("4.4.2", f"the connection to {self._peer} is closed")
        try:
            self._socket.settimeout(deadline.remaining)
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error, "to take what we sent") from error

    def _read(self, deadline: Deadline, what: str) -> Reply:
        try:
            while (reply := self._reader.next_reply()) is None:
                piece = self._receive(deadline, what)
                self._reader.feed(piece)
        except MalformedReply as error:
            raise ConnectionFailed("4.5.0", f"{self._peer} does not speak SMTP: {error}") from error
        return reply

    def _receive(self, deadline: Deadline, what: str) -> bytes:
        if self._socket is None:
            raise ConnectionFailed("4.4.2", f"the connection to {self._peer} is closed")
        if deadline.is_over:
            raise self._lost(TimeoutError(), what)
        try:
            self._socket.settimeout(deadline.remaining)
            piece = self._socket.recv(RECEIVED_BYTES)
        except OSError as error:
            raise self._lost(error, what) from error
        if not piece:
            raise ConnectionFailed("4.4.2", f"{self._peer} hung up before {what}")
        return piece

    def _lost(self, error: OSError, what: str) -> ConnectionFailed:
        if isinstance(error, TimeoutError):
            return ConnectionFailed("4.4.2", f"{self._peer} took too long: {what} did not come in time", True)
        reason = error.strerror or str(error)
        return ConnectionFailed("4.4.2", f"the connection to {self._peer} was lost before {what}: {reason}")

    @property
    def _peer(self) -> str:
        return f"{self.place.host} ({self.place.address})"


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def _features(reply: Reply) -> dict[str, str]:
    features = {}
    for line in reply.lines[1:]:
        keyword, _, parameters = line.partition(" ")
        features[keyword.upper()] = parameters.strip()
    return features
