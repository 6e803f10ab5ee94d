"""The records, lists and figures in `docs/sending-domains.md` are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from core.clock import DAY_MS
from core.sending.domain_questions import VERIFY_S
from core.sending.domain_status import CheckState
from core.sending.key_rotation import OVERLAP_MS, KeyState
from core.sending.sending_domains import (
    RSA_BITS,
    TXT_STRING_OCTETS,
    SendingHosts,
    operator_records,
    records_without_cname,
    required_records,
)
from outbound.dkim import MAX_FIELDS, MAX_HEADER_BYTES, OVERSIGNED, SIGNED_IF_PRESENT

PAGE = (Path(__file__).parents[1] / "docs" / "sending-domains.md").read_text()
TEXT = " ".join(PAGE.split())
HOSTS = SendingHosts(
    "returns.gateway.example", "mx.gateway.example", ("192.0.2.1", "2001:db8::1"), "dmarc@gateway.example"
)


def test_the_records() -> None:
    needed = required_records("example.com", "pb20260921k3fq", "v=DKIM1; k=rsa; p=MIIBIjANBgkq…", HOSTS)
    others = [*(item.record for item in records_without_cname("example.com", HOSTS)), *operator_records(HOSTS)]
    for record in [*(item.record for item in needed), *others]:
        assert f"| `{record.name}` | {record.type} | `{record.value}` |" in PAGE
    unnamed = operator_records(SendingHosts("returns.gateway.example", "mx.gateway.example"))
    assert "`a:mx.gateway.example`" in TEXT
    assert "a:mx.gateway.example" in unnamed[1].value


def test_the_lists_of_fields() -> None:
    blocks = re.findall(r"((?:^> .*\n)+)", PAGE, re.MULTILINE)
    listed = [[name.strip().lower() for name in block.replace(">", "").split(",")] for block in blocks]
    assert listed == [[name.decode() for name in names] for names in (OVERSIGNED, SIGNED_IF_PRESENT)]


def test_the_states() -> None:
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGE, re.MULTILINE) == [state.value for state in CheckState]
    assert all(f"`{state.value}`" in TEXT for state in KeyState)


def test_the_figures() -> None:
    assert f"at most {VERIFY_S:.0f} seconds" in TEXT
    assert f"stay for {OVERLAP_MS // DAY_MS} days" in TEXT
    assert f"RSA with {RSA_BITS} bits" in TEXT
    assert f"more than {MAX_FIELDS} fields or more than {MAX_HEADER_BYTES // 1024**2} MiB" in TEXT
    assert f"at most {TXT_STRING_OCTETS} octets" in TEXT
