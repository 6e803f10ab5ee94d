"""The two calls to a customer that carry no mail: the authorization callback at RCPT and the error callback.

Both go through the guarded client and its limits, signed like every POST. The names of the fields are CloudMailin's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit
from xml.sax.saxutils import escape

import orjson
import structlog

from core.address_settings import AuthorizationCallback, CallbackFormat
from core.clock import Clock
from core.delivery import Outcome, Verdict, our_fault
from core.ids import new_time_ordered_id
from core.routing import Route
from core.services.leases import FinishedAttempt
from core.services.notices import ErrorReport, read_report
from core.services.received import ClaimedDelivery
from core.verdicts import SpfVerdict
from inbound.forward import Forwarder, Post

AUTHORIZATION_DEADLINE_S = 10.0
"""How long an authorization server may take, redirects included: senders wait five minutes for the answer to RCPT
(RFC 5321 section 4.5.3.2.3), and there may be many recipients."""
log = structlog.get_logger("worker")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class AuthorizationQuestion:
    """What is known when a sender asks to send to a recipient."""

    to: str
    from_: str
    size: int | None
    """As the sender declared it; None when it did not."""
    remote_ip: str
    helo_domain: str
    spf: SpfVerdict | None


class AuthorizationClient:
    """Asks customers' servers whether a mail may come; from any thread."""

    def __init__(self, forwarder: Forwarder, deadline_s: float = AUTHORIZATION_DEADLINE_S) -> None:
        self._forwarder = forwarder
        self._deadline_s = deadline_s

    def ask(self, callback: AuthorizationCallback, route: Route, question: AuthorizationQuestion) -> Outcome:
        """The server's answer: ACCEPTED, PERMANENT with its text, or TEMPORARY for everything that is no answer."""
        content_type, body = _RENDERERS[callback.format](_fields(question))
        return self._forwarder.send(
            Post(
                delivery_id=new_time_ordered_id(),
                attempt_number=1,
                target=callback.url,
                secret=route.secret,
                previous_secret=route.previous_secret,
                content_type=content_type,
                body=body,
                timeout_s=self._deadline_s,
            )
        )


class ErrorCallbackAttempt:
    """Makes attempts at deliveries of kind `ERROR_CALLBACK`, from any thread."""

    def __init__(self, forwarder: Forwarder, clock: Clock) -> None:
        self._forwarder = forwarder
        self._clock = clock

    def __call__(self, delivery: ClaimedDelivery) -> FinishedAttempt:
        """POST the report to where the address wants it now; never raises."""
        try:
            report = read_report(delivery.detail or "")
        except (ValueError, TypeError) as error:
            log.error("a report of another version cannot be read", delivery_id=delivery.delivery_id, reason=str(error))
            now_ms = self._clock()
            return FinishedAttempt(delivery, our_fault(now_ms, now_ms))
        url = delivery.settings.error_callback
        if url is None:
            gone = Outcome(Verdict.PERMANENT, 0, self._clock(), 0, "the address has no error callback any more")
            return FinishedAttempt(delivery, gone)
        return FinishedAttempt(delivery, self._post(delivery, report, url))

    def _post(self, delivery: ClaimedDelivery, report: ErrorReport, url: str) -> Outcome:
        content_type, body = _error_payload(report, url)
        return self._forwarder.send(
            Post(
                delivery_id=delivery.delivery_id,
                attempt_number=delivery.attempt_number,
                target=url,
                secret=delivery.secret,
                previous_secret=delivery.previous_secret,
                content_type=content_type,
                body=body,
            )
        )


Fields = dict[str, str | int | bool | None]


def _error_payload(report: ErrorReport, url: str) -> tuple[str, bytes]:
    """JSON when the URL's path ends in `.json`, else a form."""
    fields: Fields = {
        "status": report.status,
        "to": report.to,
        "from": report.from_,
        "response": report.response,
        "attempt": report.attempt,
        "final": report.is_final,
        "id": report.delivery_id,
    }
    is_json = urlsplit(url).path.lower().endswith(".json")
    return _json(fields) if is_json else _form(fields)


def _fields(question: AuthorizationQuestion) -> Fields:
    spf = question.spf
    return {
        "to": question.to,
        "from": question.from_,
        "size": question.size,
        "remote_ip": question.remote_ip,
        "helo_domain": question.helo_domain,
        "spf": None if spf is None else spf.result.value,
        "spf_domain": None if spf is None else spf.domain,
    }


def _form(fields: Fields) -> tuple[str, bytes]:
    pairs = [(name, _word(value)) for name, value in fields.items() if value is not None]
    return "application/x-www-form-urlencoded", urlencode(pairs, errors="replace").encode()


def _json(fields: Fields) -> tuple[str, bytes]:
    valid = {name: value.encode(errors="replace").decode() if isinstance(value, str) else value
             for name, value in fields.items()}  # fmt: skip
    return "application/json", orjson.dumps(valid)


def _xml(fields: Fields) -> tuple[str, bytes]:
    """Root `parameters`, names with hyphens."""
    elements = "".join(_element(name.replace("_", "-"), value) for name, value in fields.items() if value is not None)
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<parameters>{elements}</parameters>\n'
    return "application/xml", document.encode()


def _element(name: str, value: str | int | bool) -> str:
    return f"<{name}>{escape(_NOT_XML.sub(chr(0xFFFD), _word(value)))}</{name}>"


def _word(value: str | int | bool | None) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_RENDERERS = {CallbackFormat.FORM: _form, CallbackFormat.JSON: _json, CallbackFormat.XML: _xml}
