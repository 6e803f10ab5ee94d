"""Calls to customers' stores, by the client that guards our own network, and over by their deadline.

The address that is checked is the address that is called, redirects are not followed, and of an answer no more is read
than an error needs: what an endpoint may be pointed at is no more than what a target may be.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus

import requests

from core.config import Settings
from core.errors import InvalidField, TargetBlocked
from core.ids import new_time_ordered_id
from core.object_stores import StoredObject, StoreFailed, StoreRequest, object_name, open_store
from core.store_checks import validate_store
from core.store_refusals import WORTH_ANOTHER_TRY, Refusal, explain, read_refusal
from core.store_settings import StoreKind, StoreSettings
from inbound.guarded_http import TRANSPORT_ERRORS, DeadlineWatch, guarded_session

STORE_PATIENCE_S = 20
"""What a store has for all attachments of one attempt together."""
CONNECTIONS_PER_HOST = 32
"""Idle ones that are kept; more may be open."""
ATTEMPTS = 2
PAUSE_S = 0.2
MAX_ANSWER_BYTES = 16 * 1024
PROBE_TEXT = b"Pillarbox wrote this to see whether it may store attachments here. It can be deleted.\n"
PROBE_NAME = "pillarbox-test.txt"


class Unreachable(Exception):
    """No answer came; the text says why."""


class StoreClient:
    """Puts objects into customers' stores, from any thread."""

    def __init__(self, session: requests.Session, watch: DeadlineWatch, ca_file: str | None = None) -> None:
        """`session` is a `guarded_session`. `ca_file` is asked only for endpoints that customers named themselves."""
        self._session = session
        self._watch = watch
        self._ca_file = ca_file

    def put(self, settings: StoreSettings, item: StoredObject, ends_at: float) -> None:
        """Store an object before `ends_at` (`time.monotonic`); trouble that may pass is met with a second try.

        Raises `StoreFailed`.
        """
        for attempt in range(1, ATTEMPTS + 1):
            is_last = attempt == ATTEMPTS or time.monotonic() + PAUSE_S >= ends_at
            try:
                refusal = self._send(settings, open_store(settings).put(item, datetime.now(UTC)), ends_at)
            except Unreachable as error:
                if is_last:
                    raise StoreFailed(f"{_describe(settings)} could not be reached: {error}") from error
            except TargetBlocked as error:
                raise StoreFailed(f"{_describe(settings)} must not be called: {error}") from error
            else:
                if refusal is None:
                    return
                if is_last or refusal.status not in WORTH_ANOTHER_TRY:
                    raise StoreFailed(f"{_describe(settings)} did not take a file: {_reason(settings, refusal)}")
            time.sleep(PAUSE_S)

    def probe(self, settings: StoreSettings, field: str = "attachment_store") -> None:
        """Check settings, write a small object to the store, and delete it where that is allowed.

        Raises `InvalidField`, which names e.g. `attachment_store.bucket`, says what the store refused, and never
        repeats a secret.
        """
        validate_store(settings, field)
        if settings.kind is StoreKind.BUILT_IN:
            return
        store, now = open_store(settings), datetime.now(UTC)
        name = object_name(b"", new_time_ordered_id(), "probe", PROBE_NAME).partition("/")[2]
        item = StoredObject(f"pillarbox-test-{name}", PROBE_TEXT, "text/plain", PROBE_NAME)
        ends_at = time.monotonic() + STORE_PATIENCE_S
        place = _place_field(settings, field)
        try:
            refusal = self._send(settings, store.put(item, now), ends_at)
        except TargetBlocked as error:
            raise InvalidField(place, f"must not be called: {error}") from error
        except Unreachable as error:
            raise InvalidField(place, f"the store could not be reached: {error}") from error
        if refusal is not None:
            name, problem = explain(settings, refusal)
            raise InvalidField(f"{field}.{name}" if name else field, problem)
        with suppress(Unreachable, TargetBlocked):  # a key that can write and not delete is a good key
            self._send(settings, store.delete(item.name, now), ends_at)

    def _send(self, settings: StoreSettings, request: StoreRequest, ends_at: float) -> Refusal | None:
        """One call; None when it succeeded. Raises `Unreachable` and `TargetBlocked`."""
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = request.method, request.url, request.body
        prepared.prepare_headers(
            {**request.headers, "Content-Length": str(len(request.body)), "Accept-Encoding": "identity"}
        )
        verify = (settings.endpoint and self._ca_file) or True
        with self._watch.limit(max(0.001, ends_at - time.monotonic())) as deadline:
            try:
                with self._session.send(
                    prepared, timeout=deadline.remaining, stream=True, allow_redirects=False, verify=verify
                ) as response:
                    refusal = _read_answer(response)
            except TRANSPORT_ERRORS as error:
                raise Unreachable(_in_words(error, deadline.is_expired)) from error
            if deadline.is_expired:  # the cut ended the headers, which looks as if they were complete
                raise Unreachable(_in_words(requests.Timeout(), True))
            return refusal


@lru_cache(maxsize=8)
def open_store_client(settings: Settings) -> StoreClient:
    """The client of this process. Raises `ConfigurationError`."""
    session = guarded_session(settings.target_policy, CONNECTIONS_PER_HOST, None)
    return StoreClient(session, DeadlineWatch(), settings.ca_file or None)


def probe_store(settings: Settings, store: StoreSettings, field: str = "attachment_store") -> None:
    """`StoreClient.probe`, as the gateway's settings allow. Takes up to `STORE_PATIENCE_S`; raises `InvalidField`."""
    open_store_client(settings).probe(store, field)


def _read_answer(response: requests.Response) -> Refusal | None:
    data = bytearray()
    while len(data) < MAX_ANSWER_BYTES:
        piece = response.raw.read1(MAX_ANSWER_BYTES - len(data), decode_content=False)
        if not piece:
            break
        data += piece
    if HTTPStatus(200) <= response.status_code < HTTPStatus(300):
        return None
    return read_refusal(response.status_code, response.headers.get("x-ms-error-code"), bytes(data))


def _reason(settings: StoreSettings, refusal: Refusal) -> str:
    field, problem = explain(settings, refusal)
    return f"{field}: {problem}" if field else problem


def _describe(settings: StoreSettings) -> str:
    return f"the {settings.kind.value} store {settings.bucket}"


def _place_field(settings: StoreSettings, field: str) -> str:
    """Which field decides where is called."""
    if settings.endpoint:
        return f"{field}.endpoint"
    return f"{field}.{ {StoreKind.S3: 'region', StoreKind.AZURE: 'account'}.get(settings.kind, 'bucket') }"


def _in_words(error: Exception, is_expired: bool) -> str:
    """No word of the URL, which may carry a signature."""
    if is_expired or isinstance(error, requests.Timeout):
        return "no complete answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the TLS connection failed"
    text = repr(error)
    if "NameResolutionError" in text:
        return "its name is not in the DNS"
    return "the connection was refused" if "refused" in text else "the connection broke"
