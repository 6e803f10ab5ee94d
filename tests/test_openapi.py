"""The OpenAPI document: valid, truthful, and nothing that follows (or flouts) it is answered with an accident."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from core.services.accounts import NewAccount
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.zone_server import running_zone
from web.api.message_examples import MESSAGE_EXAMPLES
from web.reference import ERROR_EXAMPLES

EXAMPLES = 20
"""For each operation, mode and database: some thousand requests in all."""
CHECKS: list[Any] = [
    schemathesis.checks.not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
]
NOUNS = (
    *("addresses", "custom_domains", "incoming_statuses", "rules", "outbound_messages", "layouts", "sending_domains"),
    *("webhooks", "suppressions", "credentials"),
)
READINESS = "/healthz"  # 503 is its way of saying that there is no receiver here


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Iterator[Api]:
    with running_zone() as zone:
        yield Api(database, account, api_settings(tmp_path, resolver=f"127.0.0.1:{zone.port}"))


@pytest.fixture
def schema(api: Api) -> Any:
    return schemathesis.openapi.from_wsgi("/openapi.json", api.app)


def attack(schema: Any, mode: GenerationMode, prepare: Callable[[Case], dict[str, str]]) -> dict[int, int]:
    """Send requests made from the document; give how often each status came back."""
    seen: dict[int, int] = {}

    def send(case: Case) -> None:
        response = case.call(headers=prepare(case))
        seen[response.status_code] = seen.get(response.status_code, 0) + 1
        case.validate_response(response, checks=CHECKS)

    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path != READINESS:
            limits = settings(
                max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )
            limits(given(operation.as_strategy(generation_mode=mode))(send))()
    return seen


def _known_of_sending(api: Api) -> dict[str, str]:
    """One of everything that sending knows."""
    webhook_id = api.post("/webhooks", {"url": "https://example.com/events"}).json["id"]
    message = {"from": "a@example.com", "to": "b@example.net", "plain": "x"}
    return {
        "webhook_id": webhook_id,
        "delivery_id": api.post(f"/webhooks/{webhook_id}/test", {}).json["delivery_id"],
        "message_id": api.post("/messages", message).json["id"],
        "layout_id": api.post("/layouts", {"name": "plain", "html": "<p>{{ content }}</p>"}).json["id"],
        "suppression": api.post("/suppressions", {"addresses": ["gone@example.net"]}).json[0]["id"],
        "sending_domain_id": api.post("/sending_domains", {"domain": "example.org"}).json["id"],
        "credential_id": api.post("/credentials", {"kind": "smtp"}).json["id"],
    }


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_with_a_key_no_request_is_an_accident(api: Api, schema: Any, mode: GenerationMode) -> None:
    address_id = api.new_address()
    known = {
        "address_id": address_id,
        "custom_domain_id": api.post("/custom_domains", {"domain": "a.example", "address_id": address_id}).json["id"],
        "status_id": api.receive_and_attempt(address_id, 404),
        "rule_id": api.post("/rules", {"action": "flag", "conditions": {}}).json["id"],
        **_known_of_sending(api),
    }
    turns = 0

    def prepare(case: Case) -> dict[str, str]:
        nonlocal turns
        turns += 1
        case.path_parameters["account_id"] = api.account.account_id
        if turns % 2:  # every other request names something that exists (unless it was deleted before)
            case.path_parameters.update({name: known[name] for name in case.path_parameters if name in known})
        return {"Authorization": f"Bearer {api.account.api_key}"}

    seen = attack(schema, mode, prepare)
    assert 500 not in seen
    if mode is GenerationMode.POSITIVE:
        assert sum(seen[code] for code in seen if code < 300) > 30, f"few real handlers were reached: {seen}"
    else:
        assert seen[422] > 30, f"few wrong requests were made: {seen}"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_without_a_key_every_request_is_refused(schema: Any, mode: GenerationMode) -> None:
    seen = attack(schema, mode, lambda case: {})
    assert set(seen) <= {401, 404, 405}
    assert seen[401] > 100


def test_the_document_is_valid_openapi(schema: Any) -> None:
    schema.validate()
    assert schema.raw_schema["openapi"].startswith("3.1")


def test_the_document_describes_every_call(api: Api) -> None:
    document = api.client.get("/openapi.json").json
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    routed = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for rule in api.app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS") and rule.rule.startswith(("/api", "/healthz"))
    }
    assert described == routed


def test_every_call_is_explained_and_says_what_it_needs(api: Api) -> None:
    document = api.client.get("/openapi.json").json
    assert document["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert "500" in operation["responses"]
            assert path == READINESS or operation["security"] == [{"api_key": []}]
            assert path == READINESS or {"401", "503"} <= set(operation["responses"])
            assert all(parameter.get("description") for parameter in operation.get("parameters", []))
            for status, response in operation["responses"].items():
                is_error = int(status) >= 400 and path != READINESS
                schema = response["content"].get("application/json", {}).get("schema", {})
                assert not is_error or schema == {"$ref": "#/components/schemas/Error"}


def test_tools_that_read_json_as_yaml_read_the_document_too(api: Api) -> None:
    answer = api.client.get("/openapi.json")
    assert yaml.load(answer.text, yaml.CSafeLoader) == answer.json  # type: ignore[unused-ignore]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", MESSAGE_EXAMPLES)
def test_each_example_of_a_message_can_be_sent(api: Api, name: str) -> None:
    shown = api.client.get("/openapi.json").json["paths"]["/api/v0.1/{account_id}/messages"]["post"]["requestBody"]
    example = shown["content"]["application/json"]["examples"][name]["value"]
    answer = api.post("/messages", example)
    assert (answer.status_code, answer.json["test_mode"]) == (202, True), answer.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_errors_it_shows_are_those_that_are_given(api: Api) -> None:
    shown = api.client.get("/openapi.json").json["paths"]["/api/v0.1/{account_id}/messages"]["post"]["responses"]
    sender = api.post("/credentials", {"kind": "api", "scopes": ["send"]}).json
    as_sender = {"Authorization": f"Bearer {sender['secret']}"}
    given = [
        api.call("POST", "/messages", headers={"Authorization": "Bearer wrong"}, json={}),
        api.call("POST", "/layouts", headers=as_sender, json={}),
        api.call("POST", "/messages", data="{}"),
    ]
    assert [answer.json for answer in given] == [
        shown[code]["content"]["application/json"]["example"] for code in ("401", "403", "415")
    ]
    assert {code for code in shown if "example" in shown[code]["content"]["application/json"]} == set(ERROR_EXAMPLES)


def test_page_numbers_are_marked_as_deprecated(api: Api) -> None:
    document = api.client.get("/openapi.json").json
    for noun in NOUNS:
        parameters = document["paths"][f"/api/v0.1/{{account_id}}/{noun}"]["get"]["parameters"]
        deprecated = {entry["name"] for entry in parameters if entry.get("deprecated")}
        assert deprecated == {"page"}


def test_the_page_loads_nothing_from_elsewhere(api: Api) -> None:
    page = api.client.get("/docs")
    assert page.status_code == 200
    assert "//" not in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    script = api.client.get("/docs/js/scalar.standalone.js")
    assert (script.status_code, script.mimetype) == (200, "text/javascript")
    assert len(script.data) > 1_000_000
