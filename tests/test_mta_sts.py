"""MTA-STS and TLS reports: the policy, the records, and who is served which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.config import Settings
from core.errors import ConfigurationError
from core.mta_sts import DnsRecord, policy_domain, policy_id, policy_text, records_for, report_uri
from core.services.accounts import NewAccount
from core.services.custom_domains import DomainDraft, create_domain, delete_domain
from core.services.policy_domains import is_received_for
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS

PATH = "/.well-known/mta-sts.txt"
SETTINGS = Settings(data=Path("unused"), domain="in.us.test", mta_sts="enforce", tls_rpt="tls@us.test")


def test_the_policy_has_the_form_of_the_rfc() -> None:
    text = policy_text("enforce", "mx.us.test")
    assert text == "version: STSv1\r\nmode: enforce\r\nmx: mx.us.test\r\nmax_age: 604800\r\n"
    assert "mode: testing" in policy_text("testing", "mx.us.test")
    assert policy_text("none", "mx.us.test").endswith("max_age: 86400\r\n")


def test_another_policy_has_another_id() -> None:
    ids = {
        policy_id(policy_text(mode, host)) for mode in ("enforce", "testing", "none") for host in ("a.test", "b.test")
    }
    assert len(ids) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9]{1,32}", one) for one in ids)


def test_the_records_to_publish() -> None:
    policy = policy_text("enforce", "mx.in.us.test")
    assert records_for("example.com", SETTINGS) == (
        DnsRecord("_mta-sts.example.com", "TXT", f"v=STSv1; id={policy_id(policy)};"),
        DnsRecord("mta-sts.example.com", "CNAME", "mx.in.us.test"),
        DnsRecord("_smtp._tls.example.com", "TXT", "v=TLSRPTv1; rua=mailto:tls@us.test"),
    )


def test_policies_are_served_where_the_api_is() -> None:
    settings = Settings(data=Path("unused"), domain="in.us.test", public_url="https://Gateway.us.test:8443/x")
    assert records_for("example.com", settings)[1].value == "gateway.us.test"
    assert [record.type for record in records_for("example.com", settings)] == ["TXT", "CNAME"]


def test_a_wildcard_has_no_records() -> None:
    assert records_for("*.example.com", SETTINGS) == ()


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("", None),
        ("tls@us.test", "mailto:tls@us.test"),
        ("mailto:tls@us.test", "mailto:tls@us.test"),
        ("https://us.test/tls?a=1,2;3!", "https://us.test/tls?a=1%2C2%3B3%21"),
    ],
)
def test_where_reports_go(given: str, uri: str | None) -> None:
    assert report_uri(given) == uri


@pytest.mark.parametrize("given", ["nobody", "http://us.test/", "https://us.test/ x", 'https://us.test/"', "a@b@c"])
def test_a_place_for_reports_that_is_none_names_the_setting(given: str) -> None:
    with pytest.raises(ConfigurationError, match="PILLARBOX_TLS_RPT"):
        report_uri(given)


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("mta-sts.example.com", "example.com"),
        ("MTA-STS.Example.COM:8443", "example.com"),
        ("mta-sts.example.com.", "example.com"),
        ("example.com", None),
        ("mta-sts.", None),
        ("", None),
        ("[::1]:80", None),
    ],
)
def test_which_domain_is_asked_about(host: str, domain: str | None) -> None:
    assert policy_domain(host) == domain


@pytest.fixture
def domain_ids(database: Database, account: NewAccount, tmp_path: Path) -> dict[str, str]:
    """Live custom domains and their ids."""
    api = Api(database, account, api_settings(tmp_path))
    address = api.new_address()
    made = {}
    for domain in ("example.com", "*.wild.example", "gone.example"):
        draft = DomainDraft(address, domain)
        made[domain] = create_domain(database, account.account_id, draft, "in.us.test", None, NOW_MS).domain_id
    delete_domain(database, account.account_id, made["gone.example"], NOW_MS)
    return made


@pytest.mark.parametrize(
    ("domain", "is_ours"),
    [
        ("in.us.test", True),
        ("example.com", True),
        ("a.wild.example", True),
        ("wild.example", False),
        ("a.b.wild.example", False),
        ("gone.example", False),
        ("other.example", False),
        ("*.wild.example", False),
        ("exa'mple.com", False),
        ("", False),
        ("[127.0.0.1]", False),
    ],
)
@pytest.mark.usefixtures("domain_ids")
def test_which_domains_are_ours(database: Database, domain: str, is_ours: bool) -> None:
    assert is_received_for(database, domain, "in.us.test") == is_ours
