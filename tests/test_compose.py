"""Composed messages, read again by three parsers: what comes out is what was asked for, in lines all hosts take."""

from __future__ import annotations

import email
import email.policy
import re
from email.header import decode_header, make_header
from email.message import EmailMessage

import mailparser
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import InvalidField
from inbound.reading.parse import parse_message
from inbound.reading.parsed import Disposition
from outbound.composing.attachment_rules import DraftAttachment
from outbound.composing.compose import ComposedMessage, ComposeOptions, compose, with_bodies
from outbound.composing.drafts import MessageDraft
from tests.postfix_server import running_postfix
from tests.scripted_smtp import Script, running_peer

NOW_MS = 1_795_211_355_000
OPTIONS = ComposeOptions("0199f3a2-1111-7abc-8def-0123456789ab", NOW_MS, "mx.example.net")
PIXEL = bytes(range(256)) * 3
OWN_HEADERS = {"from", "to", "cc", "subject", "date", "message-id", "mime-version", "content-type"}
OWN_HEADERS |= {"content-transfer-encoding", "x-given", "reply-to"}

characters = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"))
lines = st.text(characters, max_size=120) | st.sampled_from(
    [
        "😃" * 60,
        "👩‍👩‍👧‍👦 family",
        "שלום עולם",
        "مرحبا",
        "a" * 900,
        "x" * 2000,
        "=?utf-8?q?=0D=0ABcc:_x?=",
        "  two  blanks ",
        'quo"te\\',
        "a, b",
        "<x@y.example>",
        "日本　語",
        "é" * 77,
        "blank" + " " * 60 + "run",
        "e\u0301" * 80,
        "?=",
        "=?",
    ]
)
bodies = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\x00\x0b\x0c\x85\x1c\x1d\x1e\u2028\u2029")
)
file_names = st.text(characters, min_size=1, max_size=80).map(lambda text: f"{text.strip() or 'x'}.pdf")
injections = st.text(st.sampled_from('\r\n\t\0 :aB<>@\x85\u2028\ud800=?;,"'), min_size=1, max_size=30)


def draft(**given: object) -> MessageDraft:
    return MessageDraft(**{"from_": "a@example.com", "to": ("b@example.org",), "plain": "Hi", **given})  # type: ignore[arg-type]


def composed(**given: object) -> ComposedMessage:
    return compose(draft(**given), OPTIONS)


def read(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def assert_safe(content: bytes) -> None:
    assert b"\r" not in content.replace(b"\r\n", b"")
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert content.endswith(b"\r\n")
    assert content.isascii()


def assert_words_are_whole(content: bytes) -> None:
    """RFC 2047 section 2 and 5: words of at most 75, in lines of at most 76, no character split between two."""
    for line in content.partition(b"\r\n\r\n")[0].decode().split("\r\n"):
        words = re.findall(r"=\?utf-8\?[bq]\?[!->@-~]*\?=", line)
        assert not words or len(line) <= 76
        for word in words:
            assert len(word) <= 75
            ((data, charset),) = decode_header(word)
            assert charset == "utf-8"
            data.decode()


def header_names(content: bytes) -> set[str]:
    head = content.partition(b"\r\n\r\n")[0].decode()
    names = [line.partition(":")[0].lower() for line in head.split("\r\n") if line[0] not in " \t"]
    assert len(names) == len(set(names))
    return set(names)


def header(content: bytes, name: str) -> str:
    """A header as our own parser reads it."""
    found = [value for key, value in parse_message(content).headers if key.lower() == name]
    assert len(found) == 1
    return found[0]


def display_name(content: bytes) -> str:
    """The name in From. The standard library's newer reader puts blanks between encoded words, its older one none."""
    phrase = content.removeprefix(b"From:").partition(b"a@example.com")[0].rstrip(b"<").decode()
    phrase = phrase.replace("\r\n", "").strip()
    if phrase.startswith('"'):
        return re.sub(r"\\(.)", r"\1", phrase[1:-1])
    return str(make_header(decode_header(phrase)))


def test_a_plain_mail_is_as_short_as_it_can_be() -> None:
    message = composed(from_='"Ann" <a@example.com>', subject="Hello", plain="Hi\nthere")

    assert message.content == (
        b"From: Ann <a@example.com>\r\nTo: b@example.org\r\nSubject: Hello\r\nDate: Fri, 20 Nov 2026 21:49:15 +0000\r\n"
        b"Message-ID: <0199f3a2-1111-7abc-8def-0123456789ab@mx.example.net>\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\nHi\r\nthere\r\n"
    )
    assert message.message_id == "0199f3a2-1111-7abc-8def-0123456789ab@mx.example.net"
    assert message.recipients == ("b@example.org",)
    assert not message.needs_smtputf8


def rich() -> MessageDraft:
    return draft(
        from_='"Müller, Jürgen" <j@exämple.com>',
        to=("Ann (sales) <ann@example.org>, bob@example.org", "Ann <ann@EXAMPLE.org>"),
        cc=("Ζωή <zoe@example.org>",),
        bcc=("hidden@example.org",),
        subject="Grüße aus Köln 😃 " * 8,
        plain="Grüße\r\n.\nFrom here on\n-- \nend",
        html='<p>Grüße <img src="cid:pixel"></p>',
        headers=(("X-Given", "yes"), ("Reply-To", "Büro <office@example.com>")),
        attachments=(
            DraftAttachment("pixel.png", PIXEL, "image/png", "<pixel>"),
            DraftAttachment("Отчёт за прошлый год и ещё немного больше.pdf", PIXEL * 20, "application/pdf"),
            DraftAttachment("invite.ics", b"BEGIN:VCALENDAR\r\n", 'text/calendar; method=REQUEST; name="x.exe"'),
            DraftAttachment("empty.txt", b"", "text/plain"),
        ),
    )


def test_a_rich_mail_is_read_alike_by_three_parsers() -> None:
    message = compose(rich(), OPTIONS)
    names = ["pixel.png", "Отчёт за прошлый год и ещё немного больше.pdf", "invite.ics", "empty.txt"]

    assert_safe(message.content)
    assert b"hidden" not in message.content
    assert message.recipients == ("ann@example.org", "bob@example.org", "zoe@example.org", "hidden@example.org")
    ours = parse_message(message.content)
    assert ours.defects == ()
    assert ours.subject == "Grüße aus Köln 😃 " * 8
    assert (ours.plain or "").splitlines() == ["Grüße", ".", "From here on", "-- ", "end"]
    assert ours.html is not None
    assert 'Grüße <img src="cid:pixel">' in ours.html
    assert sorted(one.file_name for one in ours.attachments) == sorted(names)
    assert {one.file_name for one in ours.attachments if one.disposition is Disposition.INLINE} == {"pixel.png"}
    contents = {one.file_name: one.content for one in ours.attachments}
    assert contents[names[1]] == PIXEL * 20
    assert contents["pixel.png"] == PIXEL
    assert contents["empty.txt"] == b""

    theirs = read(message.content)
    assert theirs["from"].addresses[0].display_name == "Müller, Jürgen"
    assert theirs["from"].addresses[0].addr_spec == "j@xn--exmple-cua.com"
    assert [one.display_name for one in theirs["to"].addresses] == ["Ann (sales)", "", "Ann"]
    assert theirs["reply-to"].addresses[0].display_name == "Büro"
    assert sorted(filter(None, (part.get_filename() for part in theirs.walk()))) == sorted(names)
    assert [part.get_content_type() for part in theirs.walk()] == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
        "application/pdf", "text/calendar", "text/plain",
    ]  # fmt: skip
    assert [part.get_param("method") for part in theirs.walk() if part.get_content_type() == "text/calendar"] == [
        "REQUEST"
    ]

    third = mailparser.parse_from_bytes(message.content)
    assert third.subject.strip() == ("Grüße aus Köln 😃 " * 8).strip()
    assert third.from_ == [("Müller, Jürgen", "j@xn--exmple-cua.com")]
    assert sorted(one["filename"] for one in third.attachments) == sorted(names)


def test_postfix_takes_a_rich_mail_and_passes_it_on_unchanged() -> None:
    message = compose(rich(), OPTIONS)
    with running_peer(Script()) as peer, running_postfix(peer.port) as postfix:
        postfix.send("j@example.com", message.recipients, message.content)
        postfix.wait_until_empty()

        (taken,) = peer.taken
    assert taken.content.endswith(message.content)
    assert sorted(taken.recipients) == sorted(f"RCPT TO:<{one}>" for one in message.recipients)


@given(lines, lines, lines)
@example("a" * 900, "=?utf-8?q?a?=", "b" * 1990)
def test_names_subjects_and_headers_come_back_as_they_went(name: str, subject: str, value: str) -> None:
    name = name[:900]
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    message = composed(from_=f'"{escaped}" <a@example.com>', subject=subject, headers=(("X-Given", value),))

    assert_safe(message.content)
    assert header_names(message.content) <= OWN_HEADERS
    assert_words_are_whole(message.content)
    theirs = read(message.content)
    wanted = re.sub(r"\s+", " ", name).strip()[:320]
    if "=?" not in name:
        assert display_name(message.content) == wanted
    assert theirs["from"].addresses[0].addr_spec == "a@example.com"
    assert header(message.content, "subject") == subject if subject else "subject" not in header_names(message.content)
    if "=?" not in value and value.strip():
        assert header(message.content, "x-given") == value


@given(bodies, bodies)
@example("From \nFrom x", "\n".join(["a " * 40 + "ü"] * 3))
@example("." * 3 + "\n.\n", "é" * 400 + "\nFrom " + "é" * 80)
@example("a" * 3000, " \n\t\n = \n")
def test_bodies_come_back_as_they_went(plain: str, html: str) -> None:
    message = composed(plain=plain or "x", html=html)

    assert_safe(message.content)
    parts = [part for part in read(message.content).walk() if not part.is_multipart()]
    wanted = [text for text in (plain or "x", html) if text]
    got = [part.get_payload(decode=True).decode().replace("\r\n", "\n") for part in parts]  # type: ignore[union-attr]
    normal = [re.sub("\r\n?", "\n", text) for text in wanted]
    assert [text.removesuffix("\n") for text in got] == [text.removesuffix("\n") for text in normal]
    assert not any(line.startswith(b"From ") for line in message.content.split(b"\r\n"))


@given(st.lists(file_names, min_size=1, max_size=3), st.binary(max_size=300))
def test_files_come_back_as_they_went(names: list[str], content: bytes) -> None:
    files = tuple(DraftAttachment(re.sub(r"[/\\]", "_", name), content, "application/pdf") for name in names)
    message = composed(attachments=files)

    assert_safe(message.content)
    parts = [part for part in read(message.content).walk() if part.get_content_type() == "application/pdf"]
    assert [part.get_payload(decode=True) for part in parts] == [content] * len(files)
    assert [part.get_filename() for part in parts] == [one.file_name.strip() for one in files]
    assert {one.content for one in parse_message(message.content).attachments} == {content}


@given(
    st.dictionaries(
        st.sampled_from(["from_", "to", "cc", "reply_to", "subject", "name", "value", "file", "type", "cid"]),
        injections,
    )
)
def test_no_value_makes_a_header_of_its_own(bad: dict[str, str]) -> None:
    file = DraftAttachment(bad.get("file", "") + "a.pdf", b"x", bad.get("type", "a/b"), bad.get("cid"))
    given_fields = {
        "from_": f"{bad.get('from_', '')} <a@example.com>",
        "to": (f'"{bad.get("to", "")}" <a@example.com>',),
        "cc": (f"c@example.com{bad.get('cc', '')}",),
        "reply_to": (f"{bad.get('reply_to', '')} <r@example.com>",),
        "subject": f"s{bad.get('subject', '')}",
        "headers": ((f"X-Given{bad.get('name', '')}", f"v{bad.get('value', '')}"),),
        "attachments": (file,),
        "html": "<p>",
    }
    try:
        message = composed(**given_fields)
    except InvalidField:
        return
    assert_safe(message.content)
    assert {name for name in header_names(message.content) if not name.startswith("x-given")} <= OWN_HEADERS
    parts = [part for part in read(message.content).walk() if not part.is_multipart()]
    for part in parts:
        assert {name.lower() for name in part.keys()} <= {  # noqa: SIM118 (a message is no dictionary)
            "content-type", "content-transfer-encoding", "content-disposition", "content-id"
        }  # fmt: skip


def test_international_addresses() -> None:
    message = composed(to=("Ω <δοκιμή@παράδειγμα.example>",))
    assert message.needs_smtputf8
    assert message.recipients == ("δοκιμή@xn--hxajbheg2az3al.example",)
    assert "<δοκιμή@xn--hxajbheg2az3al.example>" in message.content.decode()
    assert not composed(to=("a@παράδειγμα.example",)).needs_smtputf8
    assert composed(headers=(("Reply-To", "é@example.com"),)).needs_smtputf8


def test_names_that_a_library_has_encoded_already() -> None:
    message = composed(from_="=?utf-8?q?J=C3=BCrgen=2C_x?= <a@example.com>")
    assert read(message.content)["from"].addresses[0].display_name == "Jürgen, x"


def test_a_subject_or_an_id_among_the_headers() -> None:
    given_headers = (("Subject", "theirs"), ("message-id", "<own@example.com>"))
    message = composed(headers=given_headers)
    assert (header(message.content, "subject"), message.message_id) == ("theirs", "own@example.com")
    assert header(message.content, "message-id") == "<own@example.com>"
    assert header(composed(subject="ours", headers=given_headers).content, "subject") == "ours"


def test_hidden_recipients_only() -> None:
    message = composed(to=(), bcc=("b@example.com",))
    assert header(message.content, "to") == "undisclosed-recipients:;"
    assert message.recipients == ("b@example.com",)


def test_markdown_becomes_what_is_missing() -> None:
    text = "# Hi\n\n**bold** <script>x</script> [a](javascript:x)\n\n|a|\n|-|\n|b|\n"
    html = parse_message(composed(plain=None, markdown=text).content).html
    assert html is not None
    assert "<h1>Hi</h1>" in html
    assert "<strong>bold</strong>" in html
    assert "<table>" in html
    assert "<script" not in html
    assert 'href="javascript' not in html
    assert (parse_message(composed(plain=None, markdown=text).content).plain or "").split() == text.split()
    both = parse_message(composed(plain="P", html="<i>H</i>", markdown=text).content)
    assert ((both.plain or "").strip(), (both.html or "").strip()) == ("P", "<i>H</i>")
    assert parse_message(composed(plain=None, html="<i>H</i>", markdown="M").content).plain == "M\r\n"
    assert with_bodies(draft(plain=None, markdown="*a*")).html == "<p><em>a</em></p>\n"


def test_attached_messages_are_not_encoded_but_sent_as_files_where_they_would_have_to_be() -> None:
    clean = b"From: x@example.com\r\nSubject: inner\r\n\r\nHi\r\n"
    files = (
        DraftAttachment("a.eml", clean, "message/rfc822"),
        DraftAttachment("b.eml", clean + b"\xff", "message/rfc822"),
    )
    message = composed(attachments=files)
    assert_safe(message.content)
    parts = list(read(message.content).walk())
    assert [part.get_filename() for part in parts if part.get_filename()] == ["a.eml", "b.eml"]
    assert clean in message.content
    assert [one.content.rstrip() for one in parse_message(message.content).attachments] == [
        clean.rstrip(),
        clean + b"\xff",
    ]


def test_the_shortest_encoding_is_chosen() -> None:
    for text, encoding in (("Hi", b"7bit"), ("Grüße an alle", b"quoted-printable"), ("Здравствуйте", b"base64")):
        assert b"Content-Transfer-Encoding: " + encoding + b"\r\n" in composed(plain=text).content
    assert b"quoted-printable" in composed(plain="a" * 1000).content
    assert b"quoted-printable" in composed(plain="--=_0 looks like a boundary").content
