"""What the checks found out, in every format: the names of the contract, and no key for what was not looked at."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest

from core.formats import TargetFormat
from core.verdicts import AuthResult, DkimVerdict, DmarcVerdict, ScanStatus, SpamVerdict, SpfVerdict, Verdicts
from inbound.payloads import render
from inbound.reading.parse import parse_message
from tests.payload_readers import read_with_django, read_with_werkzeug
from tests.payload_samples import ENVELOPE, JUDGED, MAIL, OPTIONS, SAMPLES, SCANS, rendered, rendered_sample

JSON_FORMATS = [TargetFormat.JSON_N, TargetFormat.JSON]
FORMS_WITH_ENVELOPE = [TargetFormat.MULTIPART_N, TargetFormat.MULTIPART, TargetFormat.RAW]
STORED = SAMPLES["judged_and_stored"]
URL = "https://store.example/a/1f0c?sig=a%2Fb"
SIGNATURES = [
    {
        "result": "pass",
        "domain": "example.com",
        "selector": "s1",
        "length_limited": False,
        "algorithm": "rsa-sha256",
    },
    {
        "result": "fail",
        "domain": "list.example.org",
        "selector": "s2",
        "length_limited": True,
        "algorithm": "ed25519-sha256",
        "reason": "body hash differs",
    },
]
EXPECTED = {
    "store_url": "https://store.example/mail/5f.eml?sig=a%2Fb",
    "spf": {"result": "pass", "domain": "example.com"},
    "dkim": {"success": True, "result": SIGNATURES},
    "dmarc": {
        "success": True,
        "result": "pass",
        "details": {
            "domain": "example.com",
            "policy": "reject",
            "spf_result": "pass",
            "dmarc_spf_result": "fail",
            "dmarc_dkim_result": "pass",
            "dkim_results": SIGNATURES,
        },
    },
    "arc": {"result": "pass", "sealers": ["list.example.org", "forwarder.example"], "trusted": True},
    "spamd": {
        "score": "7.25",
        "symbols": ["HTML_MESSAGE", "MISSING_DATE"],
        "success": True,
        "description": " pts rule\n 7.2 MISSING_DATE",
    },
}


@pytest.mark.parametrize("target_format", JSON_FORMATS)
def test_json_has_all_verdicts_under_the_names_of_the_contract(target_format: TargetFormat) -> None:
    document = _json(target_format, JUDGED)
    assert {key: document["envelope"][key] for key in EXPECTED} == EXPECTED
    own = document["pillarbox"]
    assert (own["judged_ip"], own["judged_helo"]) == ("198.51.100.9", "first.example.org")
    assert own["flags"] == ["dmarc", "spam"]


@pytest.mark.parametrize("target_format", FORMS_WITH_ENVELOPE)
@pytest.mark.parametrize("read", [read_with_werkzeug, read_with_django])
def test_forms_have_the_same_verdicts_in_brackets(target_format: TargetFormat, read: Any) -> None:
    form = read(rendered(target_format, MAIL, JUDGED))
    for name, text in _bracketed("envelope", EXPECTED):
        assert form[name].replace("\r\n", "\n") == text, name
    assert (form["pillarbox[judged_ip]"], form["pillarbox[flags][1]"]) == ("198.51.100.9", "spam")
    assert form["pillarbox[scans][1][status]"] == "found"
    assert form["pillarbox[scans][1][matches][0]"] == "Eicar-Test-Signature"


@pytest.mark.parametrize("target_format", [TargetFormat.JSON_N, TargetFormat.JSON, TargetFormat.POSTMARK])
def test_no_check_no_key(target_format: TargetFormat) -> None:
    document = _json(target_format, ENVELOPE)
    own = document["pillarbox"]
    assert not set(EXPECTED) & set(document.get("envelope", own.get("envelope")))
    assert not {"judged_ip", "judged_helo", "flags", "scans"} & set(own)
    assert all("scan" not in attachment for attachment in document.get("attachments", []))


@pytest.mark.parametrize("target_format", [*FORMS_WITH_ENVELOPE, TargetFormat.ORIGINAL])
def test_no_check_no_field(target_format: TargetFormat) -> None:
    names = [name for name, _ in read_with_werkzeug(rendered(target_format, MAIL)).fields]
    words = ("spf", "dkim", "dmarc", "arc", "spamd", "store_url", "judged", "flags", "scans")
    assert [name for name in names if any(f"[{word}" in name or name.startswith(word) for word in words)] == []


@pytest.mark.parametrize("target_format", JSON_FORMATS)
def test_each_attachment_has_its_own_scan_and_a_stored_one_a_url(target_format: TargetFormat) -> None:
    pdf, logo = orjson.loads(rendered_sample(target_format, STORED).body)["attachments"]
    assert (pdf["url"], pdf["size"], "content" in pdf) == (URL, len(STORED.message().attachments[0].content), False)
    assert pdf["scan"] == {"status": "ok", "matches": [], "md5": SCANS[0].md5, "sha256": "a" * 64}
    assert ("url" in logo, logo["content"]) == (False, "bG9nbw==")
    assert logo["scan"]["matches"] == ["Eicar-Test-Signature"]


@pytest.mark.parametrize("target_format", JSON_FORMATS)
def test_scans_that_do_not_match_the_attachments_are_left_out(target_format: TargetFormat) -> None:
    envelope = replace(ENVELOPE, verdicts=Verdicts(scans=SCANS[:1]))
    assert all("scan" not in attachment for attachment in _json(target_format, envelope)["attachments"])


@pytest.mark.parametrize(
    ("target_format", "prefix", "file_field"),
    [
        (TargetFormat.MULTIPART_N, "attachments[]", "attachments[]"),
        (TargetFormat.MULTIPART, "attachments[0]", "attachments[1]"),
    ],
)
def test_a_stored_attachment_is_fields_in_a_form(target_format: TargetFormat, prefix: str, file_field: str) -> None:
    payload = rendered_sample(target_format, STORED)
    for form in (read_with_werkzeug(payload), read_with_django(payload)):
        stored = [(name, value) for name, value in form.fields if name.startswith("attachments")]
        assert stored == [
            (f"{prefix}[file_name]", "Übersicht 2024.pdf"),
            (f"{prefix}[content_type]", "application/pdf"),
            (f"{prefix}[size]", str(len(STORED.message().attachments[0].content))),
            (f"{prefix}[disposition]", "attachment"),
            (f"{prefix}[url]", URL),
        ]
        assert form.files == [(file_field, "logo.png", "image/png", b"logo")]


def test_checks_that_failed_to_run_say_so() -> None:
    verdicts = Verdicts(
        spf=SpfVerdict(AuthResult.TEMPERROR, "example.com"),
        dkim=DkimVerdict(),
        dmarc=DmarcVerdict(AuthResult.TEMPERROR, ""),
        spam=SpamVerdict(success=False, description="the scanner did not answer"),
    )
    envelope = _json(TargetFormat.JSON_N, replace(ENVELOPE, verdicts=verdicts))["envelope"]
    assert envelope["dkim"] == {"success": True, "result": []}
    assert envelope["dmarc"]["success"] is False
    assert envelope["dmarc"]["details"]["policy"] is None
    assert envelope["dmarc"]["details"]["dmarc_spf_result"] == "temperror"
    assert envelope["spamd"] == {
        "score": None,
        "symbols": [],
        "success": False,
        "description": "the scanner did not answer",
    }


def test_one_signature_that_passes_is_enough_for_success() -> None:
    assert JUDGED.verdicts.dkim is not None
    passing, other = JUDGED.verdicts.dkim.signatures
    slow = replace(other, result=AuthResult.TEMPERROR)
    for signatures, success in (((passing, slow), True), ((slow,), False), ((other,), True)):
        envelope = replace(ENVELOPE, verdicts=Verdicts(dkim=DkimVerdict(signatures)))
        assert _json(TargetFormat.JSON_N, envelope)["envelope"]["dkim"]["success"] is success


@pytest.mark.parametrize("target_format", [*FORMS_WITH_ENVELOPE, TargetFormat.ORIGINAL])
def test_of_very_many_scans_a_form_tells_those_that_are_not_ok(target_format: TargetFormat) -> None:
    scans = (SCANS[0],) * 399 + (SCANS[1],)
    form = read_with_werkzeug(rendered(target_format, MAIL, replace(ENVELOPE, verdicts=Verdicts(scans=scans))))
    told = [name for name, _ in form.fields if name.startswith("pillarbox[scans][") and name.endswith("[status]")]
    assert told == ["pillarbox[scans][399][status]"]
    assert form["pillarbox[scans_omitted]"] == "true"


def test_text_that_is_no_unicode_does_not_stop_a_payload() -> None:
    """A domain from a header may hold lone surrogates; an error here would repeat at every attempt."""
    bad = "a\udcff"
    scans = tuple(replace(scan, status=ScanStatus.FOUND, matches=(bad,)) for scan in SCANS)
    dkim = JUDGED.verdicts.dkim
    assert dkim is not None
    signatures = tuple(replace(found, domain=bad, selector=bad, reason=bad) for found in dkim.signatures)
    verdicts = replace(
        JUDGED.verdicts,
        spf=SpfVerdict(AuthResult.FAIL, bad),
        dkim=DkimVerdict(signatures),
        scans=scans,
        judged_helo=bad,
        spam=SpamVerdict(True, 1.0, (bad,), bad),
    )
    envelope = replace(JUDGED, verdicts=verdicts, flags=(bad,), helo=bad, mail_from=bad)
    for target_format in TargetFormat:
        options = replace(OPTIONS, with_raw=True)
        assert render(target_format, MAIL, partial(parse_message, MAIL), envelope, options).body


def test_postmark_has_everything_under_our_own_key() -> None:
    own = _json(TargetFormat.POSTMARK, JUDGED)["pillarbox"]
    assert {key: own["envelope"][key] for key in EXPECTED} == EXPECTED
    assert [scan["status"] for scan in own["scans"]] == ["ok", "found"]
    assert own["flags"] == ["dmarc", "spam"]


def test_original_has_spf_by_name_and_the_rest_under_our_own() -> None:
    form = read_with_werkzeug(rendered(TargetFormat.ORIGINAL, MAIL, JUDGED))
    assert (form["spf[result]"], form["spf[domain]"]) == ("pass", "example.com")
    others = {key: value for key, value in EXPECTED.items() if key != "spf"}
    for name, text in _bracketed("pillarbox", others):
        assert form[name].replace("\r\n", "\n") == text, name
    assert form["pillarbox[scans][0][sha256]"] == "a" * 64


def _json(target_format: TargetFormat, envelope: Any) -> dict[str, Any]:
    return dict(orjson.loads(rendered(target_format, MAIL, envelope).body))


def _bracketed(name: str, value: Any) -> list[tuple[str, str]]:
    """The fields that a form must have for a JSON value, written down apart from the code under test."""
    if isinstance(value, dict):
        return [field for key, item in value.items() for field in _bracketed(f"{name}[{key}]", item)]
    if isinstance(value, list):
        return [field for index, item in enumerate(value) for field in _bracketed(f"{name}[{index}]", item)]
    return [(name, {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else str(value))]
