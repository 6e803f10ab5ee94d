"""Mail that comes back, written by us in the forms that real software has; the fixed phrases are that software's."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.sending.returned import FeedbackType, ReturnedKind, Severity

BOUNCE_ADDRESS = "b-path@mta.us.test"
MESSAGE_ID = "20261120.1@us.test"
ORIGINAL = (
    "Return-Path: <b-path@mta.us.test>\n"
    "Received: from mail.us.test (mail.us.test [192.0.2.10])\n\tby mx.far.test; Fri, 20 Nov 2026 21:49:15 +0000\n"
    "From: Shop <shop@us.test>\nTo: kim@far.test\nSubject: Your order\n"
    f"Message-ID: <{MESSAGE_ID}>\nDate: Fri, 20 Nov 2026 21:49:15 +0000\n"
)
KIM = "kim@far.test"
HARD, SOFT, BLOCK, UNKNOWN = Severity.HARD, Severity.SOFT, Severity.BLOCK, Severity.UNKNOWN
K = ReturnedKind


@dataclass(frozen=True)
class Sample:
    """A message and what it is."""

    name: str
    raw: bytes
    kind: ReturnedKind
    failed: tuple[tuple[str | None, Severity | None], ...] = ()
    """Address and severity of each recipient, in order."""
    envelope_from: str = ""
    message_id: str | None = None
    feedback: FeedbackType | None = None
    lists: dict[str, str] = field(default_factory=dict)


def mail(body: str, subject: str = "failure notice", sender: str = "MAILER-DAEMON@far.test", **headers: str) -> bytes:
    """A message of one text; `content_type` replaces text/plain, other keywords become fields."""
    content_type = headers.pop("content_type", "text/plain; charset=utf-8")
    more = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in headers.items())
    head = f"From: {sender}\nTo: {BOUNCE_ADDRESS}\nSubject: {subject}\n{more}MIME-Version: 1.0\n"
    return f"{head}Content-Type: {content_type}\n\n{body}".replace("\n", "\r\n").encode()


def report(
    status: str,
    text: str = "Your message did not arrive.",
    *,
    status_type: str = "message/delivery-status",
    report_type: str = "delivery-status",
    original: str = ORIGINAL,
    original_type: str = "text/rfc822-headers",
    multipart: str = "multipart/report",
    **headers: str,
) -> bytes:
    """A message of three parts."""
    body = (
        f"--=b\nContent-Type: text/plain\n\n{text}\n\n--=b\nContent-Type: {status_type}\n\n{status}\n"
        f"--=b\nContent-Type: {original_type}\n\n{original}\n--=b--\n"
    )
    headers.setdefault("subject", "Delivery Status Notification (Failure)")
    return mail(body, content_type=f'{multipart}; report-type={report_type}; boundary="=b"', **headers)


def status_fields(
    status: str, diagnostic: str = "", *, action: str = "failed", recipient: str = f"rfc822; {KIM}", extra: str = ""
) -> str:
    """Both groups of a usual report."""
    lines = ["Reporting-MTA: dns; mx.far.test", "Arrival-Date: Fri, 20 Nov 2026 21:49:15 +0000", ""]
    lines += [f"Final-Recipient: {recipient}", f"Action: {action}"]
    lines += [f"Status: {status}"] if status else []
    lines += [f"Diagnostic-Code: smtp; {diagnostic}"] if diagnostic else []
    return "\n".join([*lines, *([extra] if extra else []), ""])


def dsn(
    name: str, kind: ReturnedKind, meaning: Severity | None, status: str, diagnostic: str = "", **more: str
) -> Sample:
    """A usual notification with these codes."""
    return Sample(name, report(status_fields(status, diagnostic, **more)), kind, ((KIM, meaning),), "", MESSAGE_ID)


def text_bounce(
    name: str, kind: ReturnedKind, meaning: Severity | None, body: str, envelope_from: str = "", **headers: str
) -> Sample:
    """A bounce for people, about one recipient."""
    return Sample(name, mail(body, **headers), kind, ((KIM, meaning),), envelope_from)


DSNS = [
    dsn(
        "unknown user",
        K.HARD_BOUNCE,
        HARD,
        "5.1.1",
        "550 5.1.1 <kim@far.test>: Recipient address rejected: User unknown",
    ),
    dsn("mailbox full", K.SOFT_BOUNCE, SOFT, "5.2.2", "552 5.2.2 Mailbox full"),
    dsn("full under 5.1.1", K.SOFT_BOUNCE, SOFT, "5.1.1", "550 mailbox is full"),
    dsn("Sendmail's 5.1.1 for a policy", K.SOFT_BOUNCE, BLOCK, "5.1.1", "550 5.7.1 Message rejected as spam"),
    dsn("spam", K.SOFT_BOUNCE, BLOCK, "5.7.1", "550 5.7.1 Our system has detected that this message is likely spam"),
    dsn("DMARC", K.SOFT_BOUNCE, BLOCK, "5.7.26", "550-5.7.26 Unauthenticated email from us.test is not accepted"),
    dsn("blocklist", K.SOFT_BOUNCE, BLOCK, "5.0.0", "554 Service unavailable; Client host [192.0.2.1] blocked using x"),
    dsn("expired", K.SOFT_BOUNCE, SOFT, "4.4.7", "451 4.7.1 Greylisted, try again later"),
    dsn("expired as 5.4.7", K.SOFT_BOUNCE, SOFT, "5.4.7", "", extra="X-Note: given up"),
    dsn("delayed", K.DELAYED, SOFT, "4.4.1", "connect to mx.far.test: Connection timed out", action="delayed"),
    dsn("delivered", K.DELIVERED, None, "2.0.0", "250 2.0.0 Ok: queued", action="delivered"),
    dsn("relayed", K.DELIVERED, None, "2.0.0", "", action="relayed"),
    dsn("expanded", K.DELIVERED, None, "2.0.0", "", action="expanded"),
    dsn("null MX", K.HARD_BOUNCE, HARD, "5.1.10", "Domain far.test does not accept mail (nullMX)"),
    dsn("no such domain", K.HARD_BOUNCE, HARD, "5.1.2", "Host or domain name not found"),
    dsn("Postfix: name not found", K.HARD_BOUNCE, HARD, "5.4.4", "Name service error for far.test: Host not found"),
    dsn(
        "Exchange Online unknown", K.HARD_BOUNCE, HARD, "5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found"
    ),
    dsn(
        *("Exchange Online edge blocking", K.HARD_BOUNCE, HARD, "5.4.1"),
        "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)",
    ),
    dsn("no answer", K.SOFT_BOUNCE, SOFT, "5.4.1", "no answer from host"),
    dsn(
        "Gmail disabled",
        K.HARD_BOUNCE,
        HARD,
        "5.2.1",
        "550 5.2.1 The email account that you tried to reach is disabled.",
    ),
    dsn(
        "Gmail too fast",
        K.SOFT_BOUNCE,
        SOFT,
        "5.2.1",
        "550 5.2.1 The user is receiving mail at a rate that is too high",
    ),
    dsn("Outlook.com 5.5.0", K.HARD_BOUNCE, HARD, "5.5.0", "550 5.5.0 Requested action not taken: mailbox unavailable"),
    dsn("too big", K.SOFT_BOUNCE, BLOCK, "5.3.4", "552 5.3.4 Message size exceeds fixed limit"),
    dsn("loop", K.SOFT_BOUNCE, SOFT, "5.4.6", "554 5.4.6 Too many hops"),
    dsn("550 and no words", K.SOFT_BOUNCE, UNKNOWN, "5.0.0", "550 Requested action not taken"),
    dsn("generic status, telling words", K.HARD_BOUNCE, HARD, "5.0.0", "550 No such user here"),
    dsn("4.0.0 beside 550", K.HARD_BOUNCE, HARD, "4.0.0", "550 5.1.1 User unknown"),
    dsn("moved", K.HARD_BOUNCE, HARD, "5.1.6", "550 5.1.6 Recipient no longer on server"),
    dsn("no action, 4.x", K.DELAYED, SOFT, "4.2.2", "452 4.2.2 over quota", action=""),
    dsn("comments behind values", K.HARD_BOUNCE, HARD, "5.1.1 (bad destination mailbox address)", action="Failed (x)"),
    dsn("address without type", K.HARD_BOUNCE, HARD, "5.1.1", recipient="<kim@far.test>"),
    dsn("international", K.HARD_BOUNCE, HARD, "5.1.1", recipient=r"utf-8; k\x{69}m@far.test"),
]

BROKEN_DSNS = [
    Sample(
        "several recipients",
        report(
            status_fields("5.1.1", "550 5.1.1 User unknown")
            + "\nFinal-Recipient: rfc822; lee@far.test\nAction: failed\nStatus: 5.2.2\n"
            + "\nFinal-Recipient: rfc822; max@far.test\nAction: delayed\nStatus: 4.4.1\n"
        ),
        K.HARD_BOUNCE,
        ((KIM, HARD), ("lee@far.test", SOFT), ("max@far.test", SOFT)),
        message_id=MESSAGE_ID,
    ),
    Sample(
        "no blank lines at all",
        report(
            "Reporting-MTA: dns; mx\nFinal-Recipient: rfc822; kim@far.test\nAction: failed\nStatus: 5.1.1\n"
            "Final-Recipient: rfc822; lee@far.test\nAction: failed\nStatus: 5.2.2"
        ),
        K.HARD_BOUNCE,
        ((KIM, HARD), ("lee@far.test", SOFT)),
    ),
    Sample(
        "blank lines between all fields",
        report("Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; kim@far.test\n\nAction: failed\n\nStatus: 5.1.1\n"),
        K.HARD_BOUNCE,
        ((KIM, HARD),),
    ),
    Sample(
        "Action first, as Exim has it",
        report(
            "Reporting-MTA: dns; mx\n\nAction: failed\nFinal-Recipient: rfc822;kim@far.test\nStatus: 5.0.0\n"
            "Remote-MTA: dns; mx.far.test\nDiagnostic-Code: smtp; 550 no mailbox by that name\n"
        ),
        K.HARD_BOUNCE,
        ((KIM, HARD),),
    ),
    Sample(
        "status as text/plain",
        report(status_fields("5.1.1"), status_type="text/plain"),
        K.HARD_BOUNCE,
        ((KIM, HARD),),
        message_id=MESSAGE_ID,
    ),
    Sample(
        "multipart/mixed and octet-stream",
        report(
            status_fields("5.1.1"),
            status_type='application/octet-stream; name="details.txt"',
            multipart="multipart/mixed",
        ),
        K.HARD_BOUNCE,
        ((KIM, HARD),),
    ),
    Sample("fields in a plain message", mail("Sorry.\n\n" + status_fields("5.1.1")), K.HARD_BOUNCE, ((KIM, HARD),)),
    Sample(
        "continuation without indentation",
        report(status_fields("5.0.0", "550 sorry,\nno such user here\n (really)")),
        K.HARD_BOUNCE,
        ((KIM, HARD),),
    ),
    Sample(
        "global status",
        report(
            status_fields("5.1.1"), status_type="message/global-delivery-status", original_type="message/global-headers"
        ),
        K.HARD_BOUNCE,
        ((KIM, HARD),),
        message_id=MESSAGE_ID,
    ),
    Sample(
        "reason only in the text",
        report(status_fields("5.0.0"), text="The user is unknown: user unknown"),
        K.HARD_BOUNCE,
        ((KIM, HARD),),
    ),
    Sample(
        "no recipient named",
        report("Reporting-MTA: dns; mx\n\nAction: failed\nStatus: 5.1.1\n"),
        K.HARD_BOUNCE,
        ((None, HARD),),
    ),
    Sample(
        "whole message returned",
        report(status_fields("5.1.1"), original=ORIGINAL + "\nHello", original_type="message/rfc822"),
        K.HARD_BOUNCE,
        ((KIM, HARD),),
        message_id=MESSAGE_ID,
    ),
    Sample(
        "a complaint's type on a status",
        report(status_fields("5.1.1"), status_type="message/disposition-notification"),
        K.HARD_BOUNCE,
        ((KIM, HARD),),
    ),
]

EXIM = (
    "This message was created automatically by mail delivery software.\n\nA message that you sent could "
    "not be delivered"
    " to one or more of its\nrecipients. This is a permanent error. The following address(es) "
    "failed:\n\n  kim@far.test\n"
)
COPY = "\n------ This is a copy of the message, including all the headers. ------\n\n" + ORIGINAL + "\nuser unknown\n"

TEXTS = [
    text_bounce(
        *("qmail", K.HARD_BOUNCE, HARD),
        "Hi. This is the qmail-send program at far.test.\nI'm afraid I wasn't able to deliver your message to the "
        "following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<kim@far.test>:\n"
        f"Sorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\n{ORIGINAL}",
    ),
    text_bounce(
        *("qmail remote full", K.SOFT_BOUNCE, SOFT),
        "Hi. This is the qmail-send program at far.test.\n\n<kim@far.test>:\n192.0.2.9 failed after I "
        "sent the message.\n"
        "Remote host said: 552 Message rejected: mailbox quota exceeded\n",
    ),
    text_bounce(
        *("qmail gave up", K.SOFT_BOUNCE, SOFT),
        "Hi. This is the qmail-send program at far.test.\n\n<kim@far.test>:\nSorry, I wasn't able to establish an SMTP "
        "connection. (#4.4.1)\nI'm not going to try again; this message has been in the queue too long.\n",
    ),
    text_bounce(
        *("Exim", K.HARD_BOUNCE, HARD, EXIM + "    Unrouteable address\n" + COPY),
        subject="Mail delivery failed: returning message to sender",
        Auto_Submitted="auto-replied",
        X_Failed_Recipients="kim@far.test",
    ),
    text_bounce(
        *("Exim without the header", K.HARD_BOUNCE, HARD),
        EXIM
        + "    host mx.far.test [192.0.2.1]\n    SMTP error from remote mail server after RCPT TO:<kim@far.test>:\n"
        "    550 5.1.1 <kim@far.test>: user unknown\n" + COPY,
        Auto_Submitted="auto-replied",
    ),
    text_bounce(
        *("Exim: blocked, while the copy says user unknown", K.SOFT_BOUNCE, BLOCK),
        EXIM + "    550 Blocked by our reputation service\n" + COPY,
    ),
    text_bounce(
        *("Exim: no reason, while the copy looks like one", K.SOFT_BOUNCE, UNKNOWN),
        EXIM + "    550 no\n" + COPY + "<lee@far.test>: user unknown\n",
    ),
    text_bounce(
        *("our own address at the beginning of a line", K.HARD_BOUNCE, HARD),
        "Delivery to the following recipients failed.\n\nkim@far.test: user unknown\n\nIt was sent by\n"
        f"{BOUNCE_ADDRESS}\n",
    ),
    text_bounce(
        *("OpenSMTPD warning", K.DELAYED, SOFT),
        "Hi!\n\nThis is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\nA message is delayed for more than 4h "
        "for the following\nlist of recipients:\n\nkim@far.test: Network error on destination MXs\n\nPlease note that "
        "this is only a temporary failure report.\n",
        subject="Delivery status notification: warning",
    ),
    text_bounce(
        *("success, in words", K.DELIVERED, None),
        "Your message was delivered to the following recipients:\n\n  kim@far.test\n",
        subject="Delivery Notification: Delivery has been successful",
        sender="postmaster@far.test",
    ),
    text_bounce(
        *("passed on, in words", K.DELIVERED, None),
        "Your message has been successfully relayed to the following recipients:\n\n  kim@far.test\n",
        subject="Delivery Status Notification (Relay)",
        sender="postmaster@far.test",
    ),
    text_bounce(
        *("a success and a failure, in words", K.HARD_BOUNCE, HARD),
        "Your message was delivered to the following recipients: lee@far.test, and not to this:\n\n  kim@far.test\n"
        "  user unknown\n",
        subject="Delivery report",
    ),
    text_bounce(
        *("Exim warning", K.DELAYED, SOFT),
        "This message was created automatically by mail delivery software.\nA message that you sent has not yet been "
        "delivered to one or more of its\nrecipients after more than 24 hours on the queue on "
        "far.test.\n\nThe address to "
        "which the message has not yet been delivered is:\n\n  kim@far.test\n    Delay reason: "
        "Connection timed out\n\nNo "
        "action is required on your part. Delivery attempts will continue for\nsome time.\n",
        subject="Warning: message 1a2b delayed 24 hours",
    ),
    text_bounce(
        *("Postfix without a report", K.HARD_BOUNCE, HARD),
        "This is the mail system at host mx.far.test.\n\nI'm sorry to have to inform you that your "
        "message could not\nbe "
        "delivered to one or more recipients. It's attached below.\n\nFor further assistance, please send mail to "
        "postmaster.\n\n                   The mail system\n\n<kim@far.test>: host "
        "mx2.far.test[192.0.2.3] said: 550 5.1.1\n"
        "    <kim@far.test>: Recipient address rejected: User unknown (in reply to\n    RCPT TO command)\n",
        subject="Undelivered Mail Returned to Sender",
    ),
    text_bounce(
        *("Sendmail", K.HARD_BOUNCE, HARD),
        "The original message was received at Fri, 20 Nov 2026 21:49:15 GMT\nfrom mail.us.test "
        "[192.0.2.10]\n\n   ----- The "
        "following addresses had permanent fatal errors -----\n<kim@far.test>\n    (reason: 550 5.1.1 "
        "<kim@far.test>... "
        "User unknown)\n\n   ----- Transcript of session follows -----\n... while talking to mx.far.test.:\n>>> RCPT "
        "To:<kim@far.test>\n<<< 550 5.1.1 <kim@far.test>... User unknown\n",
        subject="Returned mail: see transcript for details",
    ),
    text_bounce(
        *("Sendmail warning", K.DELAYED, SOFT),
        "    **********************************************\n    **      THIS IS A WARNING MESSAGE ONLY  "
        "    **\n    **  "
        "YOU DO NOT NEED TO RESEND YOUR MESSAGE  **\n\n   ----- The following addresses had transient non-fatal errors "
        "-----\n<kim@far.test>\n\n   ----- Transcript of session follows -----\n<kim@far.test>... Deferred: Connection "
        "timed out with mx.far.test.\nWarning: message still undelivered after 4 hours\n",
        subject="Warning: could not send message for past 4 hours",
    ),
    text_bounce(
        *("Exchange 2003", K.HARD_BOUNCE, HARD),
        "Your message did not reach some or all of the intended recipients.\n\n      Subject:\tYour order\n      "
        "Sent:\t11/20/2026 9:49 PM\n\nThe following recipient(s) cannot be reached:\n\n      "
        "kim@far.test on 11/20/2026\n"
        "            The e-mail account does not exist at the organization this message was sent to.\n            "
        "<mx.far.test #5.1.1>\n",
        subject="Undeliverable: Your order",
        sender="System Administrator <postmaster@far.test>",
    ),
    text_bounce(
        *("Office 365, HTML only", K.HARD_BOUNCE, HARD),
        "<html><body><table><tr><td><p>Your message to <a href='mailto:kim@far.test'>kim@far.test</a> "
        "couldn&#8217;t be "
        "delivered.</p><p>kim wasn&#8217;t found at far.test.</p></td></tr></table><p>Error "
        "Details</p><p>Reported error: "
        "<i>550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address "
        "lookup</i></p></body></html>",
        content_type="text/html; charset=utf-8",
        subject="Undeliverable: Your order",
        sender="Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@far.test>",
    ),
    text_bounce(
        *("Exchange, HTML only, full", K.SOFT_BOUNCE, SOFT),
        "<p><b>Delivery has failed to these recipients or groups:</b></p><p><a href='mailto:kim@far.test'>Kim "
        "(kim@far.test)</a><br>The recipient's mailbox is full and can't accept messages "
        "now.</p><p>Diagnostic information "
        "for administrators:</p><p>Generating server: ex.far.test</p><p>kim@far.test<br>#554 5.2.2 mailbox full; "
        "STOREDRV.Deliver; 554 5.2.2 #SMTP#</p>",
        content_type="text/html",
        subject="Undeliverable: Your order",
        sender="postmaster@far.test",
    ),
    text_bounce(
        *("Gmail, old", K.HARD_BOUNCE, HARD),
        "Delivery to the following recipient failed permanently:\n\n     kim@far.test\n\nTechnical "
        "details of permanent "
        "failure:\nGoogle tried to deliver your message, but it was rejected by the recipient domain. "
        "The error that the "
        "other server returned was: 550 550 No such user here (state 14).\n\n----- Original message -----\n\n"
        + ORIGINAL,
        sender="Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
        X_Failed_Recipients="kim@far.test",
    ),
    text_bounce(
        *("Gmail, delayed", K.DELAYED, SOFT),
        "** Delivery incomplete **\n\nThere was a temporary problem delivering your message to "
        "kim@far.test. Gmail will "
        "retry for 46 more hours. You'll be notified if the delivery fails permanently.\n",
        sender="Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
        subject="Delivery Status Notification (Delay)",
    ),
    text_bounce(
        *("Yahoo", K.HARD_BOUNCE, HARD),
        "Message from far.test.\nUnable to deliver message to the following address(es).\n\n<kim@far.test>:\nThis user "
        "doesn't have a far.test account (kim@far.test) [0]\n\n--- Original message follows.\n\n" + ORIGINAL,
    ),
    text_bounce(
        *("Lotus Domino", K.HARD_BOUNCE, HARD),
        "Your message\n\n  Subject: Your order\n\nwas not delivered to:\n\n  kim@far.test\n\nbecause:\n\n  User kim "
        "(kim@far.test) not listed in Domino Directory\n",
        subject="DELIVERY FAILURE: User kim (kim@far.test) not listed in Domino Directory",
        sender="Postmaster@far.test",
    ),
    text_bounce(
        *("IMail", K.HARD_BOUNCE, HARD),
        "Unknown user: kim@far.test\n\nOriginal message follows.\n\n" + ORIGINAL,
        subject="Undeliverable Mail",
        sender="Postmaster <postmaster@far.test>",
    ),
    text_bounce(
        *("MailEnable", K.HARD_BOUNCE, HARD),
        "Message could not be delivered to some recipients.\nThe following recipient(s) could not be "
        "reached:\n\n\tRecipient:"
        " [SMTP:kim@far.test]\n\tReason: Remote SMTP Server Returned: 550 unknown user\n\nMessage headers follow:\n\n"
        + ORIGINAL,
        subject="Message Delivery Failure",
        sender="postmaster@far.test",
    ),
    text_bounce(
        *("GMX", K.HARD_BOUNCE, HARD),
        "This message was created automatically by mail delivery software.\n\nA message that you sent "
        "could not be delivered"
        " to\none or more of its recipients. This is a permanent error.\nThe following address failed:\n\n"
        '"kim@far.test":\n'
        "SMTP error from remote server for RCPT TO command, host: mx.far.test (192.0.2.1) reason: 550 "
        "Requested action not "
        "taken: mailbox unavailable\n\n--- The header of the original message is following. ---\n\n" + ORIGINAL,
        subject="Mail delivery failed: returning message to sender",
        sender="GMX Mailer Daemon <mailer-daemon@gmx.test>",
    ),
    text_bounce(
        *("AOL", K.HARD_BOUNCE, HARD),
        "   ----- The following addresses had delivery problems -----\n<kim@far.test>  (unrecoverable "
        "error)\n\n   ----- "
        "Transcript of session follows -----\n550 MAILBOX NOT FOUND\n\n   ----- Original message follows -----\n\n"
        + ORIGINAL,
    ),
    text_bounce(
        *("T-Online (smail)", K.HARD_BOUNCE, HARD),
        "|------------------------- Message log follows: -------------------------|\n no valid "
        "recipients were found for this"
        " message\n|------------------------- Failed addresses follow: ---------------------|\n "
        "<kim@far.test> ... unknown "
        "user\n|------------------------- Message text follows: ------------------------|\n" + ORIGINAL,
        subject="mail failed, returning to sender",
        sender="<postmaster@t-online.test>",
    ),
    text_bounce(
        *("GroupWise", K.HARD_BOUNCE, HARD),
        "The message that you sent was undeliverable to the following:\n\tkim@far.test (user not found)\n",
        subject="Message status - undeliverable",
        sender="Mailer-Daemon@far.test",
    ),
    text_bounce(
        *("German, with umlauts", K.HARD_BOUNCE, HARD),
        "Ihre Nachricht konnte nicht zugestellt werden:\n\nEmpfänger: kim@far.test\nGrund: Empfänger unbekannt\n",
        subject="Unzustellbar: Ihre Bestellung",
    ),
    text_bounce(
        *("French, mailbox full", K.SOFT_BOUNCE, SOFT),
        "Votre message n'a pas pu être remis à : kim@far.test\nMotif : la boîte aux lettres est pleine\n",
        subject="Message non remis",
    ),
    text_bounce(
        *("unknown software, a code", K.HARD_BOUNCE, HARD),
        "Problem with your mail.\n\nkim@far.test: 550 5.1.1 no\n",
        subject="A problem",
    ),
    text_bounce(
        *("no reason known", K.SOFT_BOUNCE, UNKNOWN),
        "Your message could not be delivered to the following recipients:\n\nkim@far.test\n",
        subject="Undeliverable",
    ),
    text_bounce(
        *("a sender of its own in the envelope", K.HARD_BOUNCE, HARD),
        "Delivery to the following recipients failed.\n\n  kim@far.test\n  550 user unknown\n",
        "postmaster@far.test",
        subject="Delivery failure",
    ),
    Sample(
        "text with two recipients",
        mail(
            "Hi. This is the qmail-send program at far.test.\n\n<kim@far.test>:\nno such user "
            "(#5.1.1)\n\n<lee@far.test>:\n"
            "over quota (#5.2.2)\n\n--- Below this line is a copy of the message.\n\n" + ORIGINAL
        ),
        K.HARD_BOUNCE,
        ((KIM, HARD), ("lee@far.test", SOFT)),
        message_id=MESSAGE_ID,
    ),
]


def arf(fields: str, **more: str) -> bytes:
    """A feedback report."""
    whole = {"original": ORIGINAL, "original_type": "message/rfc822", "subject": "FW: Your order"} | more
    return report(
        "User-Agent: Loop/1.0\nVersion: 1\n" + fields,
        "This is an email abuse report.",
        status_type="message/feedback-report",
        report_type="feedback-report",
        sender="feedback@far.test",
        **whole,
    )


def complaint(name: str, kind: FeedbackType, raw: bytes, message_id: str | None = MESSAGE_ID) -> Sample:
    """A complaint of this type."""
    return Sample(name, raw, K.COMPLAINT, (), "feedback@far.test", message_id, kind)


COMPLAINTS = [
    complaint("abuse", FeedbackType.ABUSE, arf("Feedback-Type: abuse\nSource-IP: 192.0.2.10\n")),
    complaint("fraud", FeedbackType.FRAUD, arf("Feedback-Type: fraud\n")),
    complaint("virus", FeedbackType.VIRUS, arf("Feedback-Type: Virus\n")),
    complaint("not spam", FeedbackType.NOT_SPAM, arf("Feedback-Type: not-spam\n")),
    complaint("authentication failure", FeedbackType.AUTH_FAILURE, arf("Feedback-Type: auth-failure\n")),
    complaint("unknown type", FeedbackType.OTHER, arf("Feedback-Type: dislike\n")),
    complaint("blank lines inside", FeedbackType.OPT_OUT, arf("\nFeedback-Type: opt-out\n\nSource-IP: 192.0.2.1\n")),
    complaint(
        "report as text/plain",
        FeedbackType.ABUSE,
        report("Feedback-Type: abuse\nVersion: 0.1\n", status_type="text/plain", multipart="multipart/mixed"),
    ),
    complaint(
        "Microsoft's junk mail reporting",
        FeedbackType.ABUSE,
        mail(
            "--=b\nContent-Type: message/rfc822\n\nX-HmXmrOriginalRecipient: kim@far.test\n"
            + ORIGINAL
            + "\nHello\n--=b--\n",
            content_type='multipart/mixed; boundary="=b"',
            subject="complaint about message from 192.0.2.10",
            sender="staff@hotmail.com",
        ),
    ),
]


def answer(name: str, kind: ReturnedKind, body: str, envelope_from: str = "kim@far.test", **headers: str) -> Sample:
    """What a person or his program sends."""
    headers.setdefault("sender", "Kim <kim@far.test>")
    headers.setdefault("subject", "Re: Your order")
    headers.setdefault("In_Reply_To", f"<{MESSAGE_ID}>")
    return Sample(name, mail(body, **headers), kind, (), envelope_from, MESSAGE_ID)


AWAY = "I am out of the office until Monday."
ANSWERS = [
    answer("Auto-Submitted", K.AUTO_REPLY, AWAY, Auto_Submitted="auto-replied"),
    answer(
        "Exchange out of office", K.AUTO_REPLY, AWAY, "", subject="Automatic reply: Hi", Auto_Submitted="auto-generated"
    ),
    answer("Auto-Submitted with parameters", K.AUTO_REPLY, AWAY, Auto_Submitted="auto-replied (vacation); x=y"),
    answer("X-Autoreply", K.AUTO_REPLY, AWAY, X_Autoreply="yes", Precedence="bulk"),
    answer("X-Autorespond", K.AUTO_REPLY, AWAY, X_Autorespond="Hi"),
    answer("Precedence auto_reply", K.AUTO_REPLY, AWAY, Precedence="auto_reply"),
    answer(
        "has left: no bounce",
        K.AUTO_REPLY,
        "Kim no longer works here. User unknown. 5.1.1",
        "",
        Auto_Submitted="auto-replied",
    ),
    answer(
        *("a person, under our subject", K.BOUNCE_REPLY, "The driver said: address not found.\n\nkim@far.test"),
        subject="Re: Delivery notification for your order",
    ),
    answer(
        *("a person, under a subject like it", K.BOUNCE_REPLY, "There is no such address in our street."),
        subject="Parcel not delivered",
    ),
    answer(
        *("a person who passes a bounce on", K.BOUNCE_REPLY, "This is the mail system at host far.test.\nuser unknown"),
        subject="WG: Undelivered Mail Returned to Sender",
    ),
    answer(
        *("a vacation note under our subject", K.AUTO_REPLY, "My old mailbox is no longer in use.", ""),
        subject="Re: Delivery report for you",
        Auto_Submitted="auto-replied (vacation)",
    ),
    answer(
        *("a ticket system", K.AUTO_REPLY, "We have received your complaint. kim@far.test", ""),
        subject="[Ticket 7] Delivery report of your order",
        sender="Help <help@far.test>",
        Auto_Submitted="auto-replied",
    ),
    answer("Auto-Submitted: no", K.BOUNCE_REPLY, "Thanks!", Auto_Submitted="no"),
    answer("subject alone", K.BOUNCE_REPLY, "See you.", subject="Vacation pictures"),
    answer("a person who replies", K.BOUNCE_REPLY, "Thanks, when will it come?"),
    answer(
        "a person who quotes a bounce",
        K.BOUNCE_REPLY,
        "What is this?\n\n> This is the qmail-send program\n> user unknown",
    ),
    answer("nobody and nothing", K.UNKNOWN, "Hello", "", subject="Hello"),
    answer("receipt", K.RECEIPT, "", content_type="text/plain"),
    answer(
        *("challenge", K.CHALLENGE, "Click the link below to verify that you are not a spammer."),
        subject="Please confirm your message",
    ),
    answer(
        "challenge of TMDA", K.CHALLENGE, "Please reply.", X_Delivery_Agent="TMDA/1.1.12", Auto_Submitted="auto-replied"
    ),
    answer("challenge's subject alone", K.BOUNCE_REPLY, "I liked it.", subject="Please confirm your message"),
]
_RECEIPT = report(
    "Reporting-UA: far.test; Reader\nFinal-Recipient: rfc822;kim@far.test\nDisposition: "
    "manual-action/MDN-sent-manually; displayed\n",
    status_type="message/disposition-notification",
    report_type="disposition-notification",
    sender=KIM,
    subject="Read: Your order",
)
ANSWERS = [
    Sample("receipt", _RECEIPT, K.RECEIPT, (), KIM, MESSAGE_ID) if one.name == "receipt" else one for one in ANSWERS
]

SUBJECTS_OF_ABSENCE = {
    "en": ("Out of Office: x", "I will be back on Monday"),
    "de": ("Abwesenheitsnotiz: x", "Ich bin im Urlaub"),
    "fr": ("Réponse automatique : x", "Je suis en congé"),
    "es": ("Respuesta automática: x", "Estoy de vacaciones"),
    "it": ("Risposta automatica: x", "Sono in ferie"),
    "pt": ("Resposta automática: x", "Estou de férias"),
    "nl": ("Automatisch antwoord: x", "Ik ben met vakantie"),
    "sv": ("Automatiskt svar: x", "Jag är på semester"),
    "da": ("Automatisk svar: x", "Jeg er på ferie"),
    "fi": ("Automaattinen vastaus: x", "Olen lomalla"),
    "pl": ("Odpowiedź automatyczna: x", "Jestem na urlopie"),
    "cs": ("Automatická odpověď: x", "Jsem na dovolené"),
    "hu": ("Automatikus válasz: x", "Szabadság"),
    "ro": ("Răspuns automat: x", "Sunt în concediu"),
    "ru": ("Автоматический ответ: x", "Я в отпуске"),
    "uk": ("Автоматична відповідь: x", "Я у відпустці"),
    "el": ("Αυτόματη απάντηση: x", "Είμαι εκτός γραφείου"),
    "tr": ("Otomatik yanıt: x", "Yıllık izin"),
    "zh": ("自动回复: x", "我正在休假"),
    "ja": ("自動応答: x", "休暇をいただいております"),
    "ko": ("자동 회신: x", "휴가 중입니다"),
    "he": ("תשובה אוטומטית: x", "אני בחופשה"),
    "ar": ("رد تلقائي: x", "أنا في إجازة"),
}
SAMPLES = [*DSNS, *BROKEN_DSNS, *TEXTS, *COMPLAINTS, *ANSWERS]
