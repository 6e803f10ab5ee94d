"""One mail transaction on an open connection: MAIL, RCPT for each recipient, DATA (RFC 5321 section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.addresses import Mailbox
from core.delivery import Verdict
from outbound.mail import NO_ANSWER, Judgement
from outbound.replies import CLOSING, START_CONTENT, TOO_MANY_RECIPIENTS_821, Reply
from outbound.smtp_client import ConnectionFailed, HostRefuses, SmtpConnection
from outbound.timing import Deadline, Timeouts
from outbound.wire import is_eight_bit, stuffed, with_crlf

LOGIN_WANTED = frozenset({530, 534, 535, 538})
"""What a host says that wants a login, or TLS, or more of either (RFC 4954 section 6, RFC 3207 section 4)."""
GROUP = 50
"""Commands sent at once: their replies fit into what the two hosts buffer, so that neither waits for the other."""


class Draft:
    """A message made ready for the wire, once for all hosts it is tried at."""

    def __init__(self, sender: Mailbox | None, content: bytes, needs_smtputf8: bool) -> None:
        lines = with_crlf(content)
        self.size = len(lines)
        self.wire = stuffed(lines)
        self.is_eight_bit = is_eight_bit(lines)
        self.reverse_path = "" if sender is None else path(sender)
        self.needs_smtputf8 = needs_smtputf8 or not self.reverse_path.isascii()


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient that was checked."""

    given: str
    path: str
    """As it goes on the wire."""


def path(mailbox: Mailbox) -> str:
    """The local part as written, and the domain in A-labels, which every host understands."""
    return f"{mailbox.text.rpartition('@')[0]}@{mailbox.domain}"


class Transaction:
    """Carries a draft to recipients over a connection.

    `judged` grows as replies come, and holds what is certain even when `run` ends with an exception: whoever is not
    in it may be tried at another host without getting the mail twice.
    """

    def __init__(
        self, connection: SmtpConnection, draft: Draft, recipients: Sequence[Recipient], timeouts: Timeouts
    ) -> None:
        self.judged: dict[str, Judgement] = {}
        self._connection = connection
        self._draft = draft
        self._recipients = list(recipients)
        self._timeouts = timeouts
        self._utf8 = draft.needs_smtputf8

    def run(self, deadline: Deadline) -> None:
        """Raises `ConnectionFailed` and `HostRefuses` while nothing of the content can have been accepted."""
        wanted = self._expressible()
        if not wanted:
            return
        is_used = self._connection.messages > 0 or self._connection.is_in_transaction
        if self._connection.is_in_transaction:
            self._reset(deadline)
        self._connection.is_in_transaction = True
        accepted = self._envelope(wanted, is_used, deadline)
        if not accepted:
            return
        if deadline.remaining < self._reserve_s:
            raise ConnectionFailed("4.4.7", "there was not enough time left to send the content", is_timeout=True)
        reply = self._connection.ask(b"DATA", deadline)
        goes_on = reply.code == START_CONTENT
        self._judge(accepted, self._send_content(deadline) if goes_on else self._judge_refused_data(reply))

    @property
    def _reserve_s(self) -> float:
        """What must be left for the answer to the content."""
        return min(self._timeouts.reserve_s, self._timeouts.dot_s)

    # --- what this host can take ---

    def _expressible(self) -> list[Recipient]:
        """The recipients that can be named to this host; the others are judged."""
        limit = self._connection.features.get("SIZE", "")
        if limit.isdecimal() and 0 < int(limit[:18]) < self._draft.size:
            text = f"the mail has {self._draft.size} bytes, and the host takes no more than {int(limit[:18])}"
            self._judge(self._recipients, Judgement(Verdict.PERMANENT, NO_ANSWER, "5.3.4", text))
            return []
        if "SMTPUTF8" in self._connection.features:
            self._utf8 = self._draft.needs_smtputf8 or any(not one.path.isascii() for one in self._recipients)
            return self._recipients
        plain = [] if self._draft.needs_smtputf8 else [one for one in self._recipients if one.path.isascii()]
        text = "the mail needs SMTPUTF8 (RFC 6531), which the host does not have"
        others = [one for one in self._recipients if one not in plain]
        self._judge(others, Judgement(Verdict.PERMANENT, NO_ANSWER, "5.6.7", text))
        return plain

    def _mail_command(self) -> bytes:
        features = self._connection.features
        parameters = [f"SIZE={self._draft.size}"] if "SIZE" in features else []
        if self._draft.is_eight_bit and "8BITMIME" in features:
            # Without 8BITMIME the bytes go as they are: recoding would break the signatures of those who wrote the
            # mail, hosts that clear the eighth bit have died out, and most others do the same.
            parameters.append("BODY=8BITMIME")
        if self._utf8:
            parameters.append("SMTPUTF8")
        return " ".join([f"MAIL FROM:<{self._draft.reverse_path}>", *parameters]).encode()

    # --- the steps ---

    def _reset(self, deadline: Deadline) -> None:
        reply = self._connection.ask(b"RSET", deadline)
        if not reply.is_positive:
            raise HostRefuses(reply)
        self._connection.is_in_transaction = False

    def _envelope(self, wanted: list[Recipient], is_used: bool, deadline: Deadline) -> list[Recipient]:
        """MAIL and RCPT; gives those who were accepted, and judges the others.

        On a connection that was used before, a "not now" to MAIL may only mean that it was used enough; on another one
        it is believed.
        """
        first, *others = (wanted[start : start + GROUP] for start in range(0, len(wanted), GROUP))
        from_reply, to_replies = self._open_envelope(first, deadline)
        if is_used and from_reply.code // 100 == 4:
            raise HostRefuses(from_reply)
        if not from_reply.is_positive:
            self._judge(wanted, replace(self._judgement(from_reply), is_about_sender=True))
            return []
        accepted = self._sort(first, to_replies)
        for group in others:
            accepted += self._sort(group, self._connection.ask_all(map(_rcpt_command, group), deadline))
        return accepted

    def _open_envelope(self, first: list[Recipient], deadline: Deadline) -> tuple[Reply, list[Reply]]:
        """The replies to MAIL and to the first recipients, who are not named in vain where that costs a round trip."""
        commands = [self._mail_command(), *map(_rcpt_command, first)]
        if "PIPELINING" in self._connection.features:
            from_reply, *to_replies = self._connection.ask_all(commands, deadline)
            return from_reply, to_replies
        from_reply = self._connection.ask(commands[0], deadline)
        return from_reply, self._connection.ask_all(commands[1:], deadline) if from_reply.is_positive else []

    def _sort(self, group: list[Recipient], replies: list[Reply]) -> list[Recipient]:
        accepted = []
        for recipient, reply in zip(group, replies, strict=True):
            if reply.is_positive:
                accepted.append(recipient)
            else:
                is_crowd = len(self._recipients) > 1 and reply.code == TOO_MANY_RECIPIENTS_821
                self._judge([recipient], reply.judge_as_temporary() if is_crowd else self._judgement(reply))
        return accepted

    def _judgement(self, reply: Reply) -> Judgement:
        """Of a reply to MAIL or RCPT. A relay of our own that wants a login says nothing of the mail: the operator's
        settings are wrong, and the mail waits until they are mended."""
        if reply.code in LOGIN_WANTED and not self._connection.place.is_guarded:
            return replace(reply.judge_as_temporary(), is_our_fault=True)
        return reply.judge()

    def _judge_refused_data(self, reply: Reply) -> Judgement:
        """A host that says yes without waiting for content has lost the thread; it is left."""
        if reply.is_positive:
            self._connection.close()
            return reply.judge_as_temporary()
        return reply.judge()

    def _send_content(self, deadline: Deadline) -> Judgement:
        """From the last dot on a lost connection is not another host's business: the mail may have been taken. So the
        dot is not sent where its answer could not be waited for."""
        reply = self._connection.send_content(self._draft.wire, deadline.within(deadline.remaining - self._reserve_s))
        if reply is not None:
            self._connection.close()
            return reply.judge()
        try:
            reply = self._connection.read_verdict(deadline)
        except ConnectionFailed as error:
            self._connection.close()
            text = f"{error}; it may have taken the mail all the same"
            return Judgement(Verdict.TEMPORARY, NO_ANSWER, error.enhanced, text, error.is_timeout)
        self._connection.messages += 1
        self._connection.is_in_transaction = False
        if reply.code == CLOSING:
            self._connection.close()
        return reply.judge()

    def _judge(self, recipients: Sequence[Recipient], judgement: Judgement) -> None:
        for recipient in recipients:
            self.judged[recipient.given] = judgement


def _rcpt_command(recipient: Recipient) -> bytes:
    return f"RCPT TO:<{recipient.path}>".encode()
