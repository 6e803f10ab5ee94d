"""Identifiers: their form, their order, and that none comes twice."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import system_clock, to_datetime, to_rfc3339
from core.ids import (
    new_account_id,
    new_address_id,
    new_api_key,
    new_domain_id,
    new_message_id,
    new_signing_secret,
    new_time_ordered_id,
    secret_digest,
)
from tests.conftest import NOW_MS


@given(st.integers(0, 2**48 - 1))
def test_a_time_ordered_id_is_a_uuid_of_version_7_that_holds_its_moment(moment_ms: int) -> None:
    made = uuid.UUID(new_time_ordered_id(moment_ms))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == moment_ms


@given(st.integers(0, 2**48 - 1))
def test_the_id_of_a_message_is_a_uuid_of_version_4_that_sorts_by_its_moment(moment_ms: int) -> None:
    made = uuid.UUID(new_message_id(moment_ms))
    assert (made.version, made.variant) == (4, uuid.RFC_4122)
    assert made.int >> 80 == moment_ms


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=20, unique=True))
def test_time_ordered_ids_sort_as_text_by_their_moment(moments: list[int]) -> None:
    made = [new_time_ordered_id(moment) for moment in sorted(moments)]
    assert made == sorted(made)


def test_a_time_ordered_id_is_of_now_by_default() -> None:
    before = system_clock()
    made = uuid.UUID(new_time_ordered_id()).int >> 80
    assert before <= made <= system_clock()


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (new_address_id, "[0-9a-f]{20}"),
        (new_domain_id, "[0-9a-f]{16}"),
        (new_account_id, "[0-9a-f]{16}"),
        (new_api_key, "[A-Za-z0-9_-]{32}"),
        (new_signing_secret, "whsec_[A-Za-z0-9+/]{43}="),
        (lambda: new_time_ordered_id(NOW_MS), "[0-9a-f-]{36}"),
    ],
)
def test_each_kind_has_its_form_and_none_comes_twice(make: object, form: str) -> None:
    assert callable(make)
    made = [make() for _ in range(2_000)]
    assert all(re.fullmatch(form, one) for one in made)
    assert len(set(made)) == len(made)


def test_a_signing_secret_has_the_length_the_specification_asks_for() -> None:
    assert 24 <= len(base64.b64decode(new_signing_secret().removeprefix("whsec_"))) <= 64


def test_a_key_is_kept_as_its_sha256() -> None:
    assert secret_digest("abc") == hashlib.sha256(b"abc").hexdigest()


def test_moments_are_printed_in_utc_with_milliseconds() -> None:
    assert to_rfc3339(1_790_000_000_000) == "2026-09-21T14:13:20.000Z"
    assert to_rfc3339(1_790_000_000_007) == "2026-09-21T14:13:20.007Z"
    assert to_datetime(1_790_000_000_007).tzinfo is not None
