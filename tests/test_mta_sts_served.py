"""`/.well-known/mta-sts.txt` as a sender asks for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.mta_sts import POLICY_PATH, policy_text
from core.services.accounts import NewAccount
from core.services.custom_domains import DomainDraft, create_domain, delete_domain
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS
from web.mta_sts import policies

DOMAIN = "example.com"


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return served(database, account, tmp_path)


def served(database: Database, account: NewAccount, folder: Path, mode: str = "enforce") -> Api:
    """An application with this mode."""
    made = Api(database, account, replace(api_settings(folder), mta_sts=mode, domain="in.us.test"))
    if policies.name not in made.app.blueprints:
        made.app.register_blueprint(policies)
    return made


def ask(api: Api, host: str, method: str = "GET") -> tuple[int, str, str]:
    """Status, type and text."""
    answer = api.client.open(POLICY_PATH, method=method, headers={"Host": host})
    return answer.status_code, answer.content_type, answer.text


def add_domain(api: Api, domain: str = DOMAIN) -> str:
    draft = DomainDraft(api.new_address(), domain)
    return create_domain(api.database, api.account.account_id, draft, "in.us.test", None, NOW_MS).domain_id


@pytest.mark.parametrize("host", ["mta-sts.example.com", "MTA-STS.EXAMPLE.COM:443", "mta-sts.in.us.test"])
def test_a_domain_of_ours_has_a_policy(api: Api, host: str) -> None:
    add_domain(api)
    status, content_type, text = ask(api, host)
    assert (status, text) == (200, policy_text("enforce", "mx.in.us.test"))
    assert content_type.partition(";")[0] == "text/plain"
    assert ask(api, host, "HEAD")[0] == 200


@pytest.mark.parametrize("host", ["example.com", "mta-sts.other.example", "mta-sts.", "localhost", "[::1]:80", "a b"])
def test_no_other_has_one(api: Api, host: str) -> None:
    add_domain(api)
    assert ask(api, host)[0] in (400, 404)


def test_a_domain_that_has_left_has_none(api: Api) -> None:
    domain_id = add_domain(api)
    delete_domain(api.database, api.account.account_id, domain_id, NOW_MS)
    assert ask(api, "mta-sts.example.com")[0] == 404


def test_a_wildcard_serves_each_name(api: Api) -> None:
    add_domain(api, "*.example.com")
    assert ask(api, "mta-sts.a.example.com")[0] == 200
    assert ask(api, "mta-sts.example.com")[0] == 404


def test_switched_off_it_says_so(database: Database, account: NewAccount, tmp_path: Path) -> None:
    """RFC 8461 section 8.3: senders that hold an older policy must be told, so it is no 404."""
    api = served(database, account, tmp_path, "none")
    assert "mode: none\r\n" in ask(api, "mta-sts.in.us.test")[2]
