"""From what a customer hands in, by API or SMTP, to a message that is stored: checks, composing, the commit.

Both ways lead through `SendAcceptor`, so that nothing can be sent around the checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import format_datetime

from core.clock import Clock, to_datetime
from core.config import Settings
from core.errors import InvalidField
from core.ids import new_message_id
from core.sending.priority import Priority
from core.sending.raw_submission import RawSubmission
from core.sending.send_settings import SendOptions
from core.services.acceptance import drop_unless_stored
from core.services.idempotency import IdempotencyClaim
from core.services.send_accounts import gateway_send_settings
from core.services.send_commits import SendCommits
from core.services.sends import DEFAULT_STREAM, NewSend, StoredSend, Submitter
from core.store.blobs import INLINE_LIMIT, BlobStore
from core.store.db import Database
from core.store.spool_place import put_content, spool_folder
from outbound.allowed_sender import require_allowed
from outbound.composing.compose import ComposedMessage, ComposeOptions, compose
from outbound.composing.control_headers import Control, check_tags, take_control_headers, take_draft_control
from outbound.composing.drafts import DraftLimits, MessageDraft, too_large
from outbound.composing.mailboxes import read_mailbox
from outbound.composing.raw_message import RawOptions, prepare_raw
from outbound.framing import FrameWish, frame_draft, frame_message
from outbound.listed_headers import read_listed

SpamCheck = Callable[[bytes, NewSend], str | None]
"""Says why a message is to be held, before it is stored; None for one that may go."""


@dataclass(frozen=True, slots=True)
class SendWishes:
    """How a message is to be sent, beside what is in it."""

    priority: Priority | None = None
    """None leaves it to the control headers, and at last to `STANDARD`."""
    tags: tuple[str, ...] = ()
    """Those of the control headers count too."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    stream: str = DEFAULT_STREAM
    is_test: bool = False
    send_at_ms: int | None = None
    options: SendOptions = SendOptions()
    idempotency: IdempotencyClaim | None = None


@dataclass(frozen=True, slots=True)
class DraftSubmission:
    """A message as it came by an API."""

    message_id: str
    """From `core.ids.new_message_id`: made by the caller, whose answer names it."""
    submitter: Submitter
    sending_domain_id: str | None
    """The one domain that the credential may send from; None for all of its account."""
    draft: MessageDraft
    """Control headers of the customer among its headers, or in its `raw`."""
    wishes: SendWishes = SendWishes()
    frame: FrameWish = FrameWish()


class SendAcceptor:
    """Takes messages to be sent, from any thread. It remembers nothing: what it needs to know is read each time."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        blobs: BlobStore,
        clock: Clock,
        spam_reason: SpamCheck | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._spam_reason = spam_reason
        self._hostname = settings.mx_hostname
        self._requires_verified = settings.requires_verified
        self._limits = DraftLimits(settings.max_send_recipients, settings.max_send_size)
        self._commits = SendCommits(database, clock, gateway_send_settings(settings))
        self._spool_folder = spool_folder(settings)

    def submit(self, submission: RawSubmission) -> StoredSend:
        """Check, complete and store a message that came by SMTP; when it returns the message is durable.

        Raises `InvalidField` (for good) and `StorageUnavailable` (for now).
        """
        now_ms = self._clock()
        message_id = new_message_id(now_ms)
        recipients = _envelope_recipients(submission.recipients, self._limits)
        self._check_size(submission.content)  # what we add to it is not the customer's
        raw, control = take_control_headers(submission.content)
        prepared = prepare_raw(raw, RawOptions(message_id, now_ms, self._hostname))
        content = frame_message(
            self._database, submission.submitter, prepared.content, FrameWish(layout=control.layout)
        )
        content = _trace(self._hostname, message_id, now_ms) + content
        composed = ComposedMessage(content, prepared.message_id, prepared.needs_smtputf8, prepared.from_, recipients)
        send = self._planned(message_id, submission, composed, _combined(SendWishes(), control), now_ms)
        return self._store(replace(send, mail_from=submission.mail_from or send.mail_from), content)

    def send(self, submission: DraftSubmission) -> StoredSend:
        """Check, compose and store a message that came by an API; when it returns the message is durable.

        Raises `InvalidField` (for good), `StorageUnavailable` (for now), and
        `core.services.idempotency.AlreadyAnswered`.
        """
        now_ms = self._clock()
        leaves_ms = max(now_ms, submission.wishes.send_at_ms or 0)  # its Date: not weeks old when it leaves
        options = ComposeOptions(submission.message_id, leaves_ms, self._hostname, self._limits)
        by, draft, control = submission.submitter, *_without_control(submission.draft)
        frame = replace(submission.frame, layout=submission.frame.layout or control.layout)
        if draft.raw:
            composed = compose(draft, options)
            composed = replace(composed, content=frame_message(self._database, by, composed.content, frame))
        else:
            composed = compose(frame_draft(self._database, by, draft, frame), options)
        self._check_size(composed.content)
        wishes = _combined(submission.wishes, control)
        send = self._planned(submission.message_id, submission, composed, wishes, now_ms)
        return self._store(send, composed.content)

    def _planned(
        self,
        message_id: str,
        submission: RawSubmission | DraftSubmission,
        composed: ComposedMessage,
        wishes: SendWishes,
        now_ms: int,
    ) -> NewSend:
        """What is to be stored; its content is left out. Raises `InvalidField` where the author may not send."""
        by, author = submission.submitter, composed.from_
        sender = require_allowed(
            self._database, by.account_id, author.mailbox.domain, submission.sending_domain_id, self._requires_verified
        )
        listed = read_listed(composed.content)
        return NewSend(
            message_id=message_id,
            submitter=by,
            sending_domain_id=sender.sending_domain_id if sender else None,
            mail_from=author.address,
            recipients=composed.recipients,
            header_from=listed.from_,
            header_to=listed.to,
            header_cc=listed.cc,
            subject=listed.subject,
            header_message_id=composed.message_id,
            content=None,
            size=len(composed.content),
            md5=hashlib.md5(composed.content, usedforsecurity=False).hexdigest(),
            needs_smtputf8=composed.needs_smtputf8,
            received_ms=now_ms,
            priority=wishes.priority or Priority.STANDARD,
            tags=wishes.tags,
            metadata=wishes.metadata,
            stream=wishes.stream,
            is_test=wishes.is_test,
            send_at_ms=wishes.send_at_ms,
            options=wishes.options,
            idempotency=wishes.idempotency,
        )

    def _store(self, send: NewSend, content: bytes) -> StoredSend:
        if self._spam_reason is not None:
            send = replace(send, spam_reason=self._spam_reason(content, send))
        if len(content) <= INLINE_LIMIT:
            return self._commits.store(replace(send, content=content))
        put_content(self._blobs, self._spool_folder, send.message_id, content)
        try:
            return self._commits.store(send)
        except BaseException:
            drop_unless_stored(self._database, self._blobs, send.message_id)
            raise

    def _check_size(self, content: bytes) -> None:
        if len(content) > self._limits.max_bytes:
            raise too_large(len(content), self._limits)


def _trace(our_name: str, message_id: str, now_ms: int) -> bytes:
    """The Received header of our taking a message (RFC 5321 section 4.4, RFC 3848). Where the customer sits is left
    out: that is nobody's business, and spam filters hold dial-up addresses against a mail."""
    date = format_datetime(to_datetime(now_ms // 1000 * 1000))
    return f"Received: by {our_name} with ESMTPSA id {message_id};\r\n\t{date}\r\n".encode()


def _without_control(draft: MessageDraft) -> tuple[MessageDraft, Control]:
    """The draft without the headers that steer us, and what they say."""
    if not draft.raw:
        return take_draft_control(draft)
    raw, control = take_control_headers(draft.raw)
    return replace(draft, raw=raw), control


def _combined(wishes: SendWishes, control: Control) -> SendWishes:
    tags = check_tags("tags", (*wishes.tags, *control.tags))
    return replace(wishes, priority=wishes.priority or control.priority, tags=tags)


def _envelope_recipients(given: Sequence[str], limits: DraftLimits) -> tuple[str, ...]:
    """Each once, domains as A-labels. Raises `InvalidField`."""
    read = [read_mailbox(f"recipients[{index}]", text).address for index, text in enumerate(given)]
    found = tuple(dict.fromkeys(read))
    if not found or len(found) > limits.max_recipients:
        raise InvalidField("recipients", f"must be 1 to {limits.max_recipients}, and are {len(found)}")
    return found
