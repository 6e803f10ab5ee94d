"""Return paths: made, read back, and not to be forged (`core.sending.verp`)."""

from __future__ import annotations

import base64
import hmac
import uuid
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.addresses import parse_mailbox
from core.clock import DAY_MS
from core.ids import new_time_ordered_id
from core.sending.verp import ReturnPaths

SECRET = b"a secret of all processes"
NOW_MS = 1_790_000_000_000
DOMAIN = "mta.us.test"
ID = "01a0c535-2400-7abc-8def-0123456789ab"
MAX_LOCAL_OCTETS = 64


@dataclass
class Time:
    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def paths(time: Time | None = None, secret: bytes = SECRET) -> ReturnPaths:
    return ReturnPaths(secret, time or Time())


def test_a_known_address() -> None:
    """Built here from RFC 4648 and RFC 2104, apart from the code."""
    packed = base64.b32encode(uuid.UUID(ID).bytes).decode().strip("=").lower()
    mac = base64.b32encode(hmac.digest(SECRET, f"b-{packed}".encode(), "sha256")).decode().lower()[:16]
    assert paths().make(ID, DOMAIN) == f"b-{packed}-{mac}@{DOMAIN}"


@given(st.uuids(), st.integers(0, 60 * DAY_MS))
def test_what_is_made_is_read_in_any_case(random: uuid.UUID, age_ms: int) -> None:
    made = (NOW_MS - age_ms) << 80 | random.int & ((1 << 80) - 1)
    identifier = str(uuid.UUID(int=made & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62))
    address = paths().make(identifier, DOMAIN)
    mailbox = parse_mailbox(address)
    assert mailbox is not None
    assert mailbox.domain == DOMAIN
    assert len(mailbox.local.encode()) <= MAX_LOCAL_OCTETS
    assert mailbox.local == mailbox.local.lower()
    for local in (mailbox.local, mailbox.local.upper(), mailbox.local.title()):
        assert paths().read(local) == identifier


@given(st.text() | st.from_regex(r"b-[a-z2-7]{26}-[a-z2-7]{16}", fullmatch=True))
def test_anything_else_is_not_ours_and_never_an_error(text: str) -> None:
    assert paths().read(text) is None


def test_every_changed_letter_is_noticed() -> None:
    local = paths().local_part(ID)
    for place, letter in enumerate(local):
        for other in ("a", "b", "7", "-"):
            if other != letter:
                assert paths().read(local[:place] + other + local[place + 1 :]) is None


@pytest.mark.parametrize("change", [" {}", "{} ", "{}\n", "x{}", "{}a", "{}@mta.us.test", "{}\x00"])
def test_nothing_may_stand_around_it(change: str) -> None:
    assert paths().read(change.format(paths().local_part(ID))) is None


def test_letters_that_only_become_ascii_in_lower_case_are_not_ours() -> None:
    local = next(one for n in range(200) if "k" in (one := paths().local_part(f"{ID[:-3]}{n:03}")))
    assert paths().read(local.replace("k", "\u212a")) is None


def test_another_secret_makes_others() -> None:
    assert paths(secret=b"another").read(paths().local_part(ID)) is None


def test_it_ends_after_sixty_days() -> None:
    time = Time()
    local = paths(time).local_part(new_time_ordered_id(NOW_MS))
    time.now_ms = NOW_MS + 60 * DAY_MS
    assert paths(time).read(local) is not None
    time.now_ms += 1
    assert paths(time).read(local) is None


def test_one_made_by_a_clock_that_is_ahead_is_good() -> None:
    assert paths().read(paths().local_part(new_time_ordered_id(NOW_MS + DAY_MS))) is not None


@pytest.mark.parametrize("wrong", ["", "no id", "9f3c2c1e-8a43-4c39-9d5f-3d0f6a1d2b11"])
def test_what_is_no_time_ordered_id_has_no_return_path(wrong: str) -> None:
    with pytest.raises(ValueError):
        paths().make(wrong, DOMAIN)
