"""Messages and envelopes that the tests of the payload formats share; everything in them is fixed."""

from __future__ import annotations

import email.policy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

from core.envelope import Envelope
from core.formats import TargetFormat
from core.verdicts import (
    ArcVerdict,
    AttachmentScan,
    AuthResult,
    DkimSignature,
    DkimVerdict,
    DmarcPolicy,
    DmarcVerdict,
    ScanStatus,
    SpamVerdict,
    SpfVerdict,
    Verdicts,
)
from inbound.payloads import Payload, RenderOptions, render
from inbound.reading.parse import parse_message
from inbound.reading.parsed import ParsedMessage

CORPUS = Path(__file__).parent / "corpus"
DELIVERY_ID = "0193477a-5b1c-7d3e-8f00-000000000001"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OPTIONS = RenderOptions(delivery_id=DELIVERY_ID, secret=SECRET)
PDF = bytes(range(256)) + b"\r\n--pillarbox-\r\n"
ENVELOPE = Envelope(
    mail_from="ann@example.com",
    recipients=("bob@example.net", "carol@example.net"),
    helo="mail.example.com",
    remote_ip="192.0.2.7",
    tls_version="TLSv1.3",
    tls_cipher="TLS_AES_256_GCM_SHA384",
    md5="0123456789abcdef0123456789abcdef",
    received_at=datetime(2026, 11, 20, tzinfo=UTC),
)
BOUNCE = Envelope("", ("bob@example.net",), "h\udcff", "2001:db8::1", None, None, "0" * 32, ENVELOPE.received_at)
SCANS = (
    AttachmentScan(ScanStatus.OK, "9e107d9d372bb6826bd81d3542a419d6", "a" * 64),
    AttachmentScan(ScanStatus.FOUND, "44d88612fea8a8f36de82e1278abb02f", "b" * 64, ("Eicar-Test-Signature",)),
)
VERDICTS = Verdicts(
    spf=SpfVerdict(AuthResult.PASS, "example.com"),
    dkim=DkimVerdict(
        (
            DkimSignature(AuthResult.PASS, "example.com", "s1", "rsa-sha256"),
            DkimSignature(AuthResult.FAIL, "list.example.org", "s2", "ed25519-sha256", True, "body hash differs"),
        )
    ),
    dmarc=DmarcVerdict(AuthResult.PASS, "example.com", DmarcPolicy.REJECT, is_spf_aligned=False, is_dkim_aligned=True),
    arc=ArcVerdict(AuthResult.PASS, ("list.example.org", "forwarder.example"), is_trusted=True),
    spam=SpamVerdict(True, 7.25, ("HTML_MESSAGE", "MISSING_DATE"), " pts rule\n 7.2 MISSING_DATE", is_spam=True),
    scans=SCANS,
    judged_ip="198.51.100.9",
    judged_helo="first.example.org",
)
JUDGED = replace(
    ENVELOPE,
    verdicts=VERDICTS,
    flags=("dmarc", "spam"),
    store_url="https://store.example/mail/5f.eml?sig=a%2Fb",
)


def mail() -> bytes:
    """A reply with two bodies, a file and an inline image."""
    message = EmailMessage(policy=email.policy.SMTP)
    message["Received"] = "from one"
    message["Received"] = "from two"
    message["From"] = '"Müller, Ann" <ann+sales@example.com>'
    message["To"] = "Bob <bob@example.net>, dave+7@example.org"
    message["Cc"] = "Eve <eve@example.org>"
    message["Reply-To"] = "answers@example.com"
    message["Date"] = "Fri, 20 Nov 2026 01:02:03 +0100"
    message["Message-ID"] = "<2@example.com>"
    message["In-Reply-To"] = "<1@example.net>"
    message["Subject"] = "Grüße"
    message["X-Custom-Header"] = "x"
    message.set_content("Danke\n\nOn 2026-11-20 10:11, Bob wrote:\n> old\n")
    message.add_alternative('<p>Danke <img src="cid:logo@example.com"></p>', subtype="html")
    message.add_attachment(PDF, "application", "pdf", filename="Übersicht 2024.pdf")
    image = {"filename": "logo.png", "cid": "<logo@example.com>", "disposition": "inline"}
    message.add_attachment(b"logo", "image", "png", **image)
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):
        part.set_boundary(f"b{number}")
    return message.as_bytes()


MAIL = mail()
HOSTILE = b"".join(
    (
        b'headers][x: 1\r\nx[y]: 2\r\nx";filename="y: 3\r\n__proto__: 4\r\n',
        b"X-%41\\\xff: 5\r\n" + b"L" * 300 + b": 6\r\nSUBJECT: one\r\nSubject: two\r\n",
        b"X-Spam-Status: No\r\nReturn-Path: <forged@example.com>\r\nFrom: \xe9 <a@b\r\n\r\nbody \x80",
    )
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One message as it goes into `render`."""

    raw: bytes
    envelope: Envelope
    is_stored: bool = False
    """Whether its first attachment lies in a store."""
    with_raw: bool = False

    def message(self) -> ParsedMessage:
        """The message, parsed; the URL that a store would have given is in it."""
        parsed = parse_message(self.raw)
        if not self.is_stored:
            return parsed
        first, *others = parsed.attachments
        stored = replace(first, url="https://store.example/a/1f0c?sig=a%2Fb")
        return replace(parsed, attachments=(stored, *others))


SAMPLES = {
    "reply": Sample(MAIL, ENVELOPE),
    "judged_and_stored": Sample(MAIL, JUDGED, is_stored=True, with_raw=True),
    "hostile_headers": Sample(HOSTILE, replace(ENVELOPE, recipients=("box+ta+g@example.net",)), with_raw=True),
    "bounce": Sample((CORPUS / "bounce.eml").read_bytes(), BOUNCE),
    "calendar_invitation": Sample((CORPUS / "calendar_invitation.eml").read_bytes(), ENVELOPE),
}


def rendered(target_format: TargetFormat, raw: bytes, envelope: Envelope = ENVELOPE) -> Payload:
    """The payload of a message without anything stored."""
    return render(target_format, raw, lambda: parse_message(raw), envelope, OPTIONS)


def rendered_sample(target_format: TargetFormat, sample: Sample) -> Payload:
    """The payload of a sample."""
    options = replace(OPTIONS, with_raw=sample.with_raw)
    return render(target_format, sample.raw, sample.message, sample.envelope, options)
