"""Who handed a mail to a trusted forwarder, in the words of the servers people run."""

from __future__ import annotations

import time

import pytest

from core.netguard import parse_networks
from inbound.authentication.received import Hop, original_client

TRUSTED = parse_networks("198.51.100.0/24,2001:db8:ff::/48")
POSTFIX = "by mx.fwd.example (Postfix) with ESMTPS id 4B2; Mon, 21 Sep 2026 10:00:00 +0000 (UTC)"


@pytest.mark.parametrize(
    ("value", "ip", "helo"),
    [
        (f"from he.example (rd.example [192.0.2.7])\r\n\t{POSTFIX}", "192.0.2.7", "he.example"),
        (f"from he.example (unknown [192.0.2.7]) (using TLSv1.3) {POSTFIX}", "192.0.2.7", "he.example"),
        (f"from [10.0.0.1] (unknown [192.0.2.7]) {POSTFIX}", "192.0.2.7", "[10.0.0.1]"),
        (f"from he.example (rd.example [IPv6:2001:db8::7]) {POSTFIX}", "2001:db8::7", "he.example"),
        ("from rd.example ([192.0.2.7] helo=he.example) by h.example with esmtps (Exim)", "192.0.2.7", "he.example"),
        ("from rd.example ([192.0.2.7]:4711 helo=[10.0.0.1]) by h.example with esmtp", "192.0.2.7", "[10.0.0.1]"),
        ("from he.example ([192.0.2.7]) by h.example with esmtp (Exim 4.96)", "192.0.2.7", "he.example"),
        ("from [192.0.2.7] (helo=he.example) by h.example with esmtp (Exim 4.96)", "192.0.2.7", "he.example"),
        ("from [192.0.2.7] (port=4711 helo=he.example) by h.example with esmtp", "192.0.2.7", "he.example"),
        ("from [192.0.2.7] by h.example with esmtp (Exim 4.96)", "192.0.2.7", "[192.0.2.7]"),
        ("from he.example (IDENT:root@rd.example [192.0.2.7] (may be forged)) by h", "192.0.2.7", "he.example"),
        ("from he.example (rd.example [192.0.2.7]) by h.example (8.17.1) with ESMTP", "192.0.2.7", "he.example"),
        ("from he.example (192.0.2.7) by h.example (10.0.0.2) with Microsoft SMTP Server", "192.0.2.7", "he.example"),
        ("from he.example (2001:db8::7) by h (2001:db8::2) with Microsoft SMTP Server", "2001:db8::7", "he.example"),
        ("from he.example (rd.example. [192.0.2.7]) by mx.google.com with ESMTPS id x", "192.0.2.7", "he.example"),
        ("from he.example (rd.example. [2001:db8::7]) by mx.google.com with ESMTPS", "2001:db8::7", "he.example"),
        ("from rd.example (HELO he.example) (192.0.2.7) by h.example with SMTP", "192.0.2.7", "he.example"),
        ("from unknown (HELO he.example) (user@192.0.2.7) by h with SMTP", "192.0.2.7", "he.example"),
        ("from he.example ([192.0.2.7]) by mx.pillarbox.test with ESMTP; Mon", "192.0.2.7", "he.example"),
        (f"from he.example (rd.example [::ffff:192.0.2.7]) {POSTFIX}", "192.0.2.7", "he.example"),
    ],
)  # fmt: skip
def test_usual_servers_are_understood(value: str, ip: str, helo: str) -> None:
    assert original_client([value], TRUSTED) == Hop(ip, helo)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "by h.example (Postfix, from userid 33) id 4B2; Mon, 21 Sep 2026",
        "by h.example with HTTP; Mon, 21 Sep 2026",
        "from he.example by h.example with SMTP",
        "from he.example (999.0.2.7) by h with SMTP",
        "from he.example (rd.example [not an address]) by h with SMTP",
        "(qmail 123 invoked by uid 0); 21 Sep 2026",
        "something else entirely",
        "from a (b) (c [192.0.2.7]) by h with SMTP",
    ],
)
def test_what_is_not_understood_ends_the_walk(value: str) -> None:
    below = f"from he.example (rd.example [192.0.2.7]) {POSTFIX}"
    assert original_client([value, below], TRUSTED) is None


def test_hops_between_trusted_hosts_are_walked_through() -> None:
    received = [
        f"from b.fwd.example (b.fwd.example [198.51.100.2]) {POSTFIX}",
        "from localhost (localhost [127.0.0.1]) by b.fwd.example (Postfix) with ESMTP",
        "by mail-filter.fwd.example with LMTP id 5; Mon",
        "from a.fwd.example (a.fwd.example [IPv6:2001:db8:ff::1]) by b.fwd.example with ESMTP",
        f"from stranger.example (rd.example [192.0.2.7]) {POSTFIX}",
        f"from invented.example (invented.example [203.0.113.9]) {POSTFIX}",
    ]
    assert original_client(received, TRUSTED) == Hop("192.0.2.7", "stranger.example")


def test_without_an_untrusted_hop_nothing_is_known() -> None:
    assert original_client([], TRUSTED) is None
    assert original_client([f"from b.fwd.example (b [198.51.100.2]) {POSTFIX}"] * 100, TRUSTED) is None


@pytest.mark.parametrize("value", ["from " + "x" * 10**6, "from x (" + "y " * 10**6, "by " + "(" * 10**6, " " * 10**6])
def test_hostile_headers_are_left_quickly(value: str) -> None:
    begun = time.process_time()
    assert original_client([value] * 40, TRUSTED) is None
    assert time.process_time() - begun < 0.5
