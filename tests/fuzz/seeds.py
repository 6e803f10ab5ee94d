"""What the fuzzer begins with: the odd messages, streams built by the tests, and the words formats are made of."""

from __future__ import annotations

from pathlib import Path

from inbound.reading.parse import parse_message
from tests import tnef_builder as build

CORPUS = Path(__file__).parents[1] / "corpus"
OUTSIDE = Path(__file__).parents[2].parent / "shared" / "corpus" / "parse"
MAX_SEED_BYTES = 65_536

RTF = (
    b"{\\rtf1\\ansi\\ansicpg1252\\fromhtml1{\\fonttbl{\\f0\\fcharset204 A;}}{\\*\\htmltag64 <p>}"
    b"\\htmlrtf {\\htmlrtf0 a\\'fc\\u8364 ?\\f0\\'cf\\par\\htmlrtf }\\htmlrtf0 {\\*\\htmltag72 </p>}}"
)
WORDS = {
    "message": "Content-Type: |multipart/mixed|; boundary=|--b|--b--|\r\n|\r\n\r\n|=?utf-8?q?|?=|base64"
    "|quoted-printable|Content-Transfer-Encoding: |Content-Disposition: |filename*0*=|charset=|utf-7"
    "|iso-2022-jp|message/rfc822"
    "|application/ms-tnef|begin 644 x\n|\nend\n|text/html|text/calendar; method=|Content-ID: |cid:",
    "winmail": "\x02\x90\x06|\x03\x90\x06|\x05\x90\x06|\x0f\x80\x06|\x07\x03\x02|\x1e\x10|\x1f\x10|\x09\x10|LZFu",
    "html": "<blockquote|<div class=|gmail_quote|gmail_attr|type=cite|divRplyFwdMsg|</div>|<p>|<br>|<!--|-->|<script>"
    "|</script>|&amp;|&#|<pre>|yahoo_quoted|border-top:solid #E1E1E1 1.0pt",
    "rtf": "{\\rtf1|\\fromhtml1|{\\*\\htmltag|\\htmlrtf|\\htmlrtf0|\\'|\\u|\\uc|\\ansicpg|\\f|\\fcharset|\\par|LZFu"
    "|{\\fonttbl",
    "reply": "> |wrote:|On |From: |Sent: |To: |a@b.c|2024"
    "|-----Original Message-----|\n|### Reply Above This Line ###|:",
}


def write_seeds(target: str, folder: Path) -> Path:
    """Put the seeds of a target into its folder; gives the path of its dictionary."""
    for number, seed in enumerate(_seeds(target)):
        if len(seed) <= MAX_SEED_BYTES:
            (folder / f"seed-{number}").write_bytes(seed)
    dictionary = folder.with_name(f"{target}.dict")
    words = (word.encode("latin-1") for word in WORDS[target].split("|"))
    dictionary.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words))
    return dictionary


def _seeds(target: str) -> list[bytes]:
    messages = [path.read_bytes() for path in [*sorted(CORPUS.glob("*.eml")), *sorted(OUTSIDE.glob("*/*.eml"))]]
    if target == "message":
        header = b"Content-Type: application/ms-tnef; name=winmail.dat\r\n\r\n"
        return [*messages, *(header + stream for stream in _streams())]
    if target == "winmail":
        return _streams()
    if target == "rtf":
        return [RTF, build.rtf_uncompressed(RTF), build.rtf_bomb(3)]
    parsed = [parse_message(raw) for raw in messages]
    texts = [message.html if target == "html" else message.plain for message in parsed]
    return [text.encode("utf-8") for text in texts if text]


def _streams() -> list[bytes]:
    files = build.file(b"a.txt", b"x", build.unicode(0x3707, "b.txt"), build.string8(0x3712, b"i@d"))
    properties = build.message_properties(
        build.named_string("n", "v"),
        build.unicode(0x0037, "subject"),
        build.unicode(0x1000, "plain"),
        build.binary(0x1013, b"<p>html"),
        build.binary(0x1009, build.rtf_uncompressed(RTF)),
    )
    inner = build.stream(build.code_page(1251), properties, files)
    return [inner, build.stream(files, build.file(b"m", b"", build.embedded(inner))), build.stream(build.body(b"x"))]
