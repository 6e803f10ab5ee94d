"""The new text of replies that came as HTML, in the shapes mail programs write them."""

from __future__ import annotations

import pytest

from inbound.reading.htmltext import MAX_TEXT_CHARACTERS, lines_of_html
from inbound.reading.parse import parse_message
from inbound.reading.replytext import reply_plain_of

ANN = "Ann &lt;<a href='mailto:ann@example.com'>ann@example.com</a>&gt;"
REPLIES = {
    "gmail": '<div dir="ltr">Thanks!</div><br><div class="gmail_quote"><div dir="ltr" class="gmail_attr">On Mon, May '
    f'6, 2024 at 10:11 AM {ANN} wrote:<br></div><blockquote class="gmail_quote" style="margin:0px 0px 0px 0.8ex">old'
    "<div>old</div></blockquote></div>",
    "gmail in a language nobody listed": '<div>Thanks!</div><div class="gmail_quote gmail_quote_container"><div '
    f'class="gmail_attr">Qo 6 vIq {ANN} ghItlhta&#39;:</div><blockquote class="gmail_quote">old</blockquote></div>',
    "an attribution marked, in a language nobody listed, without a colon": '<div>Thanks!</div><div class="gmail_attr">'
    "Qo ghItlhta'</div><blockquote>old</blockquote>",
    "old gmail, attribution unmarked": f'Thanks!<div class="gmail_extra"><br><div class="gmail_quote">Qo {ANN}:<br>'
    '<blockquote class="gmail_quote">old</blockquote></div><br></div>',
    "apple mail": '<html><body>Thanks!<br><div><br><blockquote type="cite"><div>On 6 May 2024, at 10:11, Ann '
    "&lt;ann@example.com&gt; wrote:</div><br><div>old</div></blockquote></div></body></html>",
    "thunderbird": '<body><p>Thanks!<br></p><div class="moz-cite-prefix">Am 06.05.24 um 10:11 schrieb Ann:<br></div>'
    '<blockquote type="cite" cite="mid:x"><p>old</p></blockquote></body>',
    "outlook": '<div class="WordSection1"><p class="MsoNormal">Thanks!<o:p></o:p></p><div><div style="border:none;'
    'border-top:solid #E1E1E1 1.0pt;padding:3.0pt 0cm 0cm 0cm"><p class="MsoNormal"><b>From:</b> Ann<br><b>Sent:</b> '
    "Monday<br><b>To:</b> Bob</p></div></div><p class=MsoNormal>old</p></div>",
    "outlook on the web": '<div>Thanks!</div><div id="appendonsend"></div><hr style="display:inline-block;width:98%">'
    '<div id="divRplyFwdMsg" dir="ltr"><font><b>Von:</b> Ann<br><b>Gesendet:</b> x</font></div><div>old</div>',
    "outlook for phones": '<div>Thanks!</div><div id="mail-editor-reference-message-container"><div><hr>From: Ann'
    "<br>Sent: x</div>old</div>",
    "yahoo": '<div class="ydp1yahoo-style-wrap">Thanks!</div><div id="ydp2yahoo_quoted_3" class="ydp2yahoo_quoted">'
    "<div>On Monday, May 6, 2024 at 10:11:12 AM GMT+2, Ann wrote:</div><div>old</div></div>",
    "proton": '<div>Thanks!</div><div class="protonmail_quote"><br>On Monday, May 6th, 2024 at 10:11, Ann wrote:<br>'
    '<blockquote class="protonmail_quote" type="cite">old</blockquote><br></div>',
    "gmx": '<div>Thanks!<div name="quote" style="margin:10px 5px; border-left:2px solid #C3D9E5;"><div><b>Gesendet:</b>'
    " Montag</div><div><b>Von:</b> Ann</div><div>old</div></div></div>",
    "zimbra": '<div>Thanks!</div><hr id="zwchr" data-marker="__DIVIDER__"><div><b>From: </b>Ann<br></div>old',
    "yandex": "<div>Thanks!</div><div>06.05.2024, 10:11, Ann пишет:</div><blockquote><p>old</p></blockquote>",
    "answer between": '<div class="gmail_quote"><div class="gmail_attr">On x Ann wrote:</div><blockquote '
    'class="gmail_quote">old</blockquote></div><div>Thanks!</div><blockquote class="gmail_quote">more</blockquote>',
    "answer in the container": '<div class="gmail_quote"><div>On 6 May 2024 Ann wrote:<blockquote class="gmail_quote">'
    "old</blockquote></div>Thanks!<blockquote class='gmail_quote'>old</blockquote></div>",
    "quotation never closed inside": "<blockquote type=cite><div>old<div>old</blockquote>Thanks!",
    "marker": "<p>Thanks!</p><p>### Reply Above This Line ###</p><p>old</p>",
    "style, script, comment and title": "<head><title>x</title><style>p > a { color: red }</style></head><!-- x > y -->"
    "<p>Thanks!</p><script>if (a < b) c('</p>')</script><!-- never closed <p>old",
    "tags in capitals": '<P>Thanks!</P><DIV CLASS=gmail_quote><BLOCKQUOTE TYPE="CITE">old</BLOCKQUOTE></DIV>',
}
KEPT = {
    "paragraphs": ("<p>One</p><p>two<br>three</p>", "One\n\ntwo\nthree"),
    "paragraphs of outlook": (
        "<p class=MsoNormal>One</p><p class=MsoNormal>&nbsp;</p><p class=MsoNormal>two",
        "One\ntwo",
    ),
    "lists": ("<ul><li>a</li><li>b</li></ul>", "- a\n- b"),
    "tables": ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
    "preformatted": ("<pre>a  b\n  c</pre>", "a  b\n  c"),
    "references": ("a &lt; b &amp;&nbsp;c &#8364; &#x20ac; &#99999999999; &bogus;", "a < b & c € € \ufffd &bogus;"),
    "signs that are no tags": ("1 < 2 and 2 <3, <> </> <!x> ok", "1 < 2 and 2 <3, <> ok"),
    "white space": ("  a \n b<b> c</b> <i> d</i>\n", "a b c d"),
    "an indented paragraph": (
        '<div>x</div><blockquote style="margin:0 0 0 40px;border:none;padding:0px"><div>mine</div></blockquote>',
        "x\nmine",
    ),
    "forwarded by gmail": (
        '<div>FYI</div><div class="gmail_quote"><div class="gmail_attr">---------- Forwarded message ---------<br>From'
        ": Ann</div>old</div>",
        "FYI\n---------- Forwarded message ---------\nFrom: Ann\nold",
    ),
    "forwarded by outlook": (
        '<div id="divRplyFwdMsg"><b>From:</b> Ann<br><b>Sent:</b> x</div><div>body</div>',
        "From: Ann\nSent: x\nbody",
    ),
    "a line above a signature": (
        '<div>x</div><div style="border-top:solid #E1E1E1 1.0pt">Ann Example</div>',
        "x\nAnn Example",
    ),
    "own words in a marked container": ('<div class="gmail_quote">Just text here</div>', "Just text here"),
    "odd attributes": ("<p title='a > b' x=\"<i>\" data-x=>y</p><a href=it's>z</a>", "y\n\nz"),
}


def _reply(html: str) -> str | None:
    return reply_plain_of(parse_message(b"Content-Type: text/html; charset=utf-8\r\n\r\n" + html.encode()))


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_in_html_is_what_its_writer_typed(name: str) -> None:
    assert _reply(REPLIES[name]) == "Thanks!"


@pytest.mark.parametrize("name", KEPT)
def test_what_the_writer_typed_stays(name: str) -> None:
    html, text = KEPT[name]
    assert _reply(html) == text


def test_plain_text_wins_over_html() -> None:
    raw = b"Content-Type: multipart/alternative; boundary=b\n\n--b\n\nplain\n> old\n"
    raw += b"--b\nContent-Type: text/html\n\n<p>html"
    assert reply_plain_of(parse_message(raw)) == "plain"


def test_the_whole_html_stays_beside_the_reply() -> None:
    message = parse_message(b"Content-Type: text/html\n\n" + REPLIES["gmail"].encode())
    assert message.html == REPLIES["gmail"]


@pytest.mark.parametrize(("raw", "reply"), [(b"Content-Type: text/html\n\n", ""), (b"Content-Type: a/b\n\nx", None)])
def test_messages_without_text(raw: bytes, reply: str | None) -> None:
    assert reply_plain_of(parse_message(raw)) == reply


def test_text_ends_at_the_limit() -> None:
    lines = lines_of_html("<p>words" * MAX_TEXT_CHARACTERS)
    assert MAX_TEXT_CHARACTERS <= sum(len(line.text) + 1 for line in lines) <= MAX_TEXT_CHARACTERS + 20
