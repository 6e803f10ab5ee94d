"""flufl.bounce (Mailman's) reads the same samples, and real Postfix bounces are read: what others think."""

from __future__ import annotations

from email import message_from_bytes

import pytest
from flufl.bounce import all_failures

from core.sending.returned import DsnAction, Returned, ReturnedKind, Severity
from core.sending.verp import RETURN_HEADER, ReturnPaths
from inbound.returned_mail import classify
from tests.postfix_server import running_postfix
from tests.returned_samples import ANSWERS, BOUNCE_ADDRESS, BROKEN_DSNS, COMPLAINTS, DSNS, TEXTS, Sample
from tests.scripted_smtp import Script, running_peer

NOT_FOUND_BY_THEM = {
    "no action, 4.x": "wants an Action",
    "international": "knows rfc822 addresses only",
    "no blank lines at all": "takes all recipients for one",
    "blank lines between all fields": "wants each recipient in one group",
    "status as text/plain": "wants message/delivery-status",
    "multipart/mixed and octet-stream": "wants message/delivery-status",
    "fields in a plain message": "wants message/delivery-status",
    "global status": "is older than RFC 6533",
    "a complaint's type on a status": "wants message/delivery-status",
    "Postfix without a report": "wants it to begin otherwise",
    "Exchange 2003": "has no rule",
    "Office 365, HTML only": "does not read HTML",
    "Exchange, HTML only, full": "does not read HTML",
    "Gmail, delayed": "has no rule",
    "IMail": "has no rule for this line",
    "GMX": "wants the address without quotes",
    "AOL": "has no rule",
    "T-Online (smail)": "has no rule",
    "GroupWise": "has no rule",
    "German, with umlauts": "has no rule",
    "French, mailbox full": "has no rule",
    "unknown software, a code": "has no rule",
    "no reason known": "has no rule",
    "a success and a failure, in words": "has no rule",
    "OpenSMTPD warning": "has no rule",
    "our own address at the beginning of a line": "has no rule",
}
OTHERWISE = {"Sendmail warning": "takes the warning for a permanent failure"}


def addresses(returned: Returned, action: DsnAction) -> set[bytes]:
    return {one.address.encode() for one in returned.recipients if one.action is action and one.address}


@pytest.mark.parametrize("sample", [*DSNS, *BROKEN_DSNS, *TEXTS, *COMPLAINTS, *ANSWERS], ids=lambda one: one.name)
def test_nothing_that_they_find_is_missed(sample: Sample) -> None:
    returned = classify(sample.raw, sample.envelope_from, [BOUNCE_ADDRESS])
    ours = addresses(returned, DsnAction.DELAYED), addresses(returned, DsnAction.FAILED)
    theirs = all_failures(message_from_bytes(sample.raw))
    if sample.name in NOT_FOUND_BY_THEM:
        assert theirs != ours, "no divergence any more: take it off the list"
        assert theirs[0] <= ours[0]
        assert theirs[1] <= ours[1]
    elif sample.name in OTHERWISE:
        assert theirs == (ours[1], ours[0])
    else:
        assert theirs == ours


PATHS = ReturnPaths(b"a secret of all processes", lambda: 1_790_000_000_000)
DELIVERY_ID = "01a0c535-2400-7abc-8def-0123456789ab"


def test_postfix_itself_sends_a_bounce_back() -> None:
    """It gives up on one recipient and on another for a full mailbox, and delivers its notification to us."""
    script = Script(
        answers={
            "RCPT TO:<kim@far.test>": "550 5.1.1 <kim@far.test>: Recipient address rejected: User unknown",
            "RCPT TO:<lee@far.test>": "552 5.2.2 Mailbox full",
        }
    )
    path = PATHS.make(DELIVERY_ID, "mta.us.test")
    message = f"{RETURN_HEADER}: {path.partition('@')[0]}\r\nMessage-ID: <1@us.test>\r\n\r\nHi.\r\n".encode()
    with running_peer(script) as peer, running_postfix(peer.port) as postfix:
        postfix.send(path, ["kim@far.test", "lee@far.test"], message)
        postfix.wait_until_empty()
        (bounce,) = [one for one in peer.taken if one.content]
    assert bounce.mail_from.startswith("MAIL FROM:<> ")
    assert path in bounce.recipients[0]

    returned = classify(bounce.content, "", [path], PATHS)
    assert (returned.kind, returned.delivery_id) == (ReturnedKind.HARD_BOUNCE, DELIVERY_ID)
    assert classify(bounce.content, "", ["other@us.test"], PATHS).delivery_id == DELIVERY_ID
    assert returned.original_message_id == "1@us.test"
    assert {(one.address, one.status, one.severity) for one in returned.recipients} == {
        ("kim@far.test", "5.1.1", Severity.HARD),
        ("lee@far.test", "5.2.2", Severity.SOFT),
    }
