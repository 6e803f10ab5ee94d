"""Calendars, files inside text, and mail that is signed or encrypted: kept whole, and still to be verified."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from inbound.reading.parse import parse_message
from inbound.reading.parsed import DefectKind
from tests.programs import need_program

CALENDAR = b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nMETHOD:%s\r\nBEGIN:VEVENT\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
UU = b"before\r\nbegin 644 ../a b.txt\r\n#86)C\r\n`\r\nend\r\nafter\r\n"
SIGNED_TEXT = b"Content-Type: text/plain; charset=utf-8\r\n\r\nSigned: Gr\xc3\xbc\xc3\x9fe  \r\n-- \r\nAnn\r\n"


@pytest.mark.parametrize("media_type", [b"text/calendar", b"application/ics"])
@pytest.mark.parametrize("kind", [b"mixed", b"alternative", b"related", None])
@pytest.mark.parametrize(
    ("parameter", "line", "method"),
    [(b"; method=REQUEST", b"REQUEST", "REQUEST"), (b"; method=cancel", b"X", "CANCEL"), (b"", b"Reply", "REPLY")],
)
def test_a_calendar_is_kept_with_its_method(
    media_type: bytes, kind: bytes | None, parameter: bytes, line: bytes, method: str
) -> None:
    part = b"Content-Type: " + media_type + parameter + b"\r\n\r\n" + CALENDAR % line
    raw = part
    if kind is not None:
        raw = (
            b"Content-Type: multipart/" + kind + b"; boundary=b\r\n\r\n--b\r\n\r\nMeet\r\n--b\r\n" + part + b"\r\n--b--"
        )
    message = parse_message(raw)
    (calendar,) = message.attachments
    assert calendar.content_type == f"{media_type.decode()}; method={method}"
    assert calendar.content == CALENDAR % line
    assert message.plain == (None if kind is None else "Meet")


@pytest.mark.parametrize("parameter", [b"", b"; method=<b>", b'; method="a;b"'])
def test_a_method_that_is_no_word_is_left_out(parameter: bytes) -> None:
    raw = b"Content-Type: text/calendar" + parameter + b"\r\n\r\nBEGIN:VCALENDAR\r\nMETHOD:<x>\r\n"
    assert parse_message(raw).attachments[0].content_type == "text/calendar"


def test_a_file_inside_a_text_is_attached_and_the_text_stays() -> None:
    message = parse_message(b"Subject: x\r\n\r\n" + UU)
    assert message.plain == UU.decode()
    assert [(a.file_name, a.content_type, a.content) for a in message.attachments] == [
        ("a b.txt", "text/plain", b"abc")
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"begin 644 x\r\n#86)C\r\nno end",
        b"begin 644 x\r\nso he said\r\nend\r\n",
        b"  begin 644 x\r\n#86)C\r\nend\r\n",
        b"begin 644 x\r\nend\r\n",
        b"begin with 1 end",
    ],
)
def test_what_only_looks_like_a_file_is_not_attached(text: bytes) -> None:
    assert parse_message(b"Subject: x\r\n\r\n" + text).attachments == ()


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("smime")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    options = ["-nodes", "-days", "2", "-subj", "/CN=Ann", "-addext", "subjectAltName=email:ann@example.com"]
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", certificate, *options)
    return certificate, key


def test_a_detached_signature_verifies_from_what_is_handed_on(identity: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = identity
    raw = headed(run("openssl", "smime", "-sign", "-crlfeol", "-signer", certificate, "-inkey", key, stdin=SIGNED_TEXT))
    message = parse_message(raw)
    assert message.plain is not None
    assert message.plain.startswith("Signed: Grüße")
    (signature,) = message.attachments
    assert (signature.file_name, signature.content_type) == ("smime.p7s", "application/x-pkcs7-signature")
    assert message.defects == ()

    verified = run("openssl", "smime", "-verify", "-CAfile", certificate, "-purpose", "any", stdin=raw)
    assert verified == SIGNED_TEXT
    # The same from the parts: the signed entity as it stands in the raw mail, the signature as an attachment.
    (tmp_path / "entity").write_bytes(first_part(raw))
    (tmp_path / "signature").write_bytes(signature.content)
    options = ["-inform", "DER", "-in", tmp_path / "signature", "-content", tmp_path / "entity"]
    run("openssl", "smime", "-verify", "-CAfile", certificate, "-purpose", "any", *options)
    (tmp_path / "entity").write_bytes(first_part(raw).replace(b"Ann", b"Eve"))
    with pytest.raises(subprocess.CalledProcessError):
        run("openssl", "smime", "-verify", "-CAfile", certificate, "-purpose", "any", *options)


def test_an_opaque_signature_is_one_attachment_that_verifies(identity: tuple[Path, Path]) -> None:
    certificate, key = identity
    signing = ["-sign", "-nodetach", "-crlfeol", "-signer", certificate, "-inkey", key]
    message = parse_message(headed(run("openssl", "smime", *signing, stdin=SIGNED_TEXT)))
    (envelope,) = message.attachments
    assert (envelope.file_name, envelope.content_type) == ("smime.p7m", "application/x-pkcs7-mime")
    assert message.plain is None
    checking = ["-verify", "-inform", "DER", "-CAfile", certificate, "-purpose", "any"]
    assert run("openssl", "smime", *checking, stdin=envelope.content) == SIGNED_TEXT


def test_an_encrypted_mail_is_one_attachment_that_decrypts(identity: tuple[Path, Path]) -> None:
    certificate, key = identity
    raw = headed(run("openssl", "smime", "-encrypt", "-aes256", "-crlfeol", certificate, stdin=SIGNED_TEXT))
    message = parse_message(raw)
    (envelope,) = message.attachments
    assert (envelope.file_name, message.plain, message.html) == ("smime.p7m", None, None)
    decrypting = ["-decrypt", "-inform", "DER", "-inkey", key, "-recip", certificate]
    assert run("openssl", "smime", *decrypting, stdin=envelope.content) == SIGNED_TEXT


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A GnuPG home with one key; its agent ends with the tests."""
    need_program("gpg")
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    run("gpg", "--homedir", home, *GPG, "--quick-generate-key", "ann@example.com", "rsa2048", "sign,cert", "never")
    fingerprint = run("gpg", "--homedir", home, "--with-colons", "--list-keys").split(b"fpr:::::::::")[1].split(b":")[0]
    run("gpg", "--homedir", home, *GPG, "--quick-add-key", fingerprint.decode(), "rsa2048", "encrypt", "never")
    yield home
    subprocess.run([need_program("gpgconf"), "--homedir", str(home), "--kill", "all"], check=False)


GPG = ("--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--trust-model", "always")


def test_a_pgp_signature_verifies_from_what_is_handed_on(keyring: Path, tmp_path: Path) -> None:
    signature = run("gpg", "--homedir", keyring, *GPG, "--armor", "--detach-sign", stdin=SIGNED_TEXT)
    raw = (
        b'Subject: x\r\nContent-Type: multipart/signed; boundary=b; micalg=pgp-sha512;\r\n protocol="application/pgp-'
        b'signature"\r\n\r\n--b\r\n'
        + SIGNED_TEXT
        + b"\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\n"
        + signature.replace(b"\n", b"\r\n")
        + b"\r\n--b--\r\n"
    )
    message = parse_message(raw)
    assert message.plain is not None
    assert message.plain.startswith("Signed: Grüße")
    (attached,) = message.attachments
    assert attached.file_name == "signature.asc"
    (tmp_path / "signature").write_bytes(attached.content)
    run("gpg", "--homedir", keyring, *GPG, "--verify", tmp_path / "signature", "-", stdin=first_part(raw))


def test_a_pgp_encrypted_mail_keeps_both_parts(keyring: Path) -> None:
    options = [*GPG, "--armor", "--encrypt", "-r", "ann@example.com"]
    encrypted = run("gpg", "--homedir", keyring, *options, stdin=SIGNED_TEXT)
    raw = (
        b'Content-Type: multipart/encrypted; boundary=b; protocol="application/pgp-encrypted"\r\n\r\n--b\r\n'
        b"Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--b\r\n"
        b"Content-Type: application/octet-stream\r\n\r\n" + encrypted.replace(b"\n", b"\r\n") + b"\r\n--b--\r\n"
    )
    message = parse_message(raw)
    assert [a.content_type for a in message.attachments] == ["application/pgp-encrypted", "application/octet-stream"]
    assert run("gpg", "--homedir", keyring, *GPG, "--decrypt", stdin=message.attachments[1].content) == SIGNED_TEXT


def test_a_signed_mail_with_a_winmail_inside_reports_no_more_than_that() -> None:
    raw = (
        b"Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\nContent-Type: application/ms-tnef\r\n\r\nx\r\n--b--"
    )
    assert [defect.kind for defect in parse_message(raw).defects] == [DefectKind.TNEF_BROKEN]


def run(program: str, *arguments: str | Path, stdin: bytes = b"") -> bytes:
    command = [need_program(program), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=60).stdout


def headed(entity: bytes) -> bytes:
    """An entity as openssl writes it, as a mail would arrive: with CRLF throughout and headers of its own."""
    return b"From: ann@example.com\r\nSubject: x\r\n" + entity.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def first_part(raw: bytes) -> bytes:
    """The signed entity, byte for byte: between the first two boundary lines, without the last line break."""
    boundary = b"--" + raw.partition(b"boundary=")[2].splitlines()[0].split(b";")[0].strip(b'"')
    return raw.split(b"\r\n" + boundary)[1].removeprefix(b"\r\n")
