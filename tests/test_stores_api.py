"""A store in requests and answers: secrets go in and never come out, and one that is kept goes nowhere else."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from core.errors import InvalidField
from core.store_checks import MAX_URL_LIFETIME_S, MIN_URL_LIFETIME_S, OPTIONAL_FIELDS, validate_store
from core.store_settings import StoreKind, StoreSettings
from inbound.store_client import STORE_PATIENCE_S
from inbound.storing import PARALLEL_UPLOADS
from web.api.store_models import MASK, SECRETS, StoreAnswer, StoreBody, StoreField, store_answer

S3 = StoreSettings(
    StoreKind.S3, bucket="mine", region="eu-central-1", access_key_id="AKIA", secret_access_key="hidden",
    url_lifetime_s=600,
)  # fmt: skip
AZURE = StoreSettings(StoreKind.AZURE, bucket="mail", account="myaccount", sas="sig=hidden")
GCS = StoreSettings(StoreKind.GCS, bucket="mine", service_account='{"private_key":"hidden"}')


class Request(BaseModel):
    """A request with such a field."""

    attachments: StoreField = None


def read(value: Any, before: StoreSettings | None = None) -> StoreSettings | None:
    body = Request.model_validate({"attachments": value}).attachments
    return None if body is None else body.to_settings(before, "attachments")


def test_models_and_settings_have_the_same_fields() -> None:
    names = {entry.name for entry in fields(StoreSettings)}
    assert set(StoreBody.model_fields) == names
    assert set(StoreAnswer.model_fields) == names
    assert {name for name in names if "secret" in name or "key" in name} - {"access_key_id"} <= set(SECRETS)


@pytest.mark.parametrize("value", [{}, None])
def test_nothing_means_no_store(value: Any) -> None:
    assert read(value) is None
    assert store_answer(None) == {}


@pytest.mark.parametrize("settings", [S3, AZURE, GCS, StoreSettings(StoreKind.BUILT_IN)])
def test_an_answer_tells_no_secret_and_sent_back_changes_nothing(settings: StoreSettings) -> None:
    answer = store_answer(settings)
    assert "hidden" not in json.dumps(answer)
    assert StoreAnswer.model_validate(answer).model_dump(exclude_none=True, mode="json") == answer
    assert read(answer, before=settings) == settings


def test_a_new_secret_replaces_the_old_one() -> None:
    assert read({**store_answer(S3), "secret_access_key": "new"}, before=S3) == replace(S3, secret_access_key="new")


def test_what_is_left_out_is_not_kept() -> None:
    answer = store_answer(S3)
    del answer["secret_access_key"]
    assert read(answer, before=S3) == replace(S3, secret_access_key="")


@pytest.mark.parametrize(("settings", "changes"), [
    (S3, {"endpoint": "https://evil.example"}),
    (S3, {"bucket": "other"}),
    (AZURE, {"endpoint": "https://evil.example"}),
    (AZURE, {"account": "evilaccount"}),
    (GCS, {"endpoint": "https://evil.example"}),
])  # fmt: skip
def test_a_kept_secret_goes_nowhere_else(settings: StoreSettings, changes: dict[str, str]) -> None:
    with pytest.raises(InvalidField, match=r"must be given in full, not as \*\*\*"):
        read({**store_answer(settings), **changes}, before=settings)


@pytest.mark.parametrize("before", [None, AZURE, replace(S3, secret_access_key="")])
def test_a_mask_over_nothing_is_an_error(before: StoreSettings | None) -> None:
    with pytest.raises(InvalidField, match="but nothing is") as caught:
        read(store_answer(S3), before)
    assert caught.value.field == "attachments.secret_access_key"


def test_the_example_of_the_page_is_a_store() -> None:
    page = (Path(__file__).parents[1] / "docs" / "stores.md").read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    made = read(json.loads(example))
    assert made is not None
    validate_store(made)
    for name in OPTIONAL_FIELDS:
        assert f"`{name}`" in page, name
    assert f"{MIN_URL_LIFETIME_S} to {MAX_URL_LIFETIME_S}" in page
    assert f"{STORE_PATIENCE_S} seconds, eight uploads" in page
    assert PARALLEL_UPLOADS == 8


def test_a_service_account_may_be_an_object() -> None:
    account = {"client_email": "a@b.example", "private_key": "x"}
    made = read({"kind": "gcs", "bucket": "mine", "service_account": account})
    assert made is not None
    assert json.loads(made.service_account) == account


def test_slashes_and_question_marks_that_people_paste_are_dropped() -> None:
    made = read({"kind": "azure", "bucket": "mail", "account": "mine", "sas": "?sv=1&sig=x", "prefix": "/in/"})
    assert made is not None
    assert (made.sas, made.prefix) == ("sv=1&sig=x", "in")


@pytest.mark.parametrize("value", [
    {"kind": "ftp"}, {"bucket": "x"}, {"kind": "s3", "buckets": "x"}, {"kind": "s3", "url_lifetime_s": 5}, [], "s3",
    {"kind": "s3", "bucket": "a\0b"}, {"kind": "s3", "url_lifetime_s": 10**30},
])  # fmt: skip
def test_what_is_no_store_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        read(value)


def test_the_document_says_that_an_empty_object_is_taken() -> None:
    schema = Request.model_json_schema()["properties"]["attachments"]
    assert {"type": "object", "maxProperties": 0} in schema["anyOf"]
    assert {"$ref": "#/$defs/StoreBody"} in schema["anyOf"]
    assert MASK in Request.model_json_schema()["$defs"]["StoreBody"]["properties"]["sas"]["description"]
