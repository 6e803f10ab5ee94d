"""POST a payload to a target and report the `Outcome`. Never raises for what a target does."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from importlib.metadata import version
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests

from core.clock import SECOND_MS, Clock, to_datetime
from core.delivery import RESPONSE_EXCERPT_BYTES, Outcome, Verdict, http_verdict
from core.errors import InvalidField, TargetBlocked
from core.netguard import check_url, target_host
from core.signing import signature_headers
from inbound.guarded_http import TRANSPORT_ERRORS, Deadline, DeadlineWatch

MAX_REDIRECTS = 3  # as CloudMailin
FOLLOWED_REDIRECTS = frozenset({301, 302, 307, 308})
"""All with POST and the whole payload again: a GET to the new place would lose the mail and look like success."""
DRAINED_BYTES = 64 * 1024
"""An answer up to this size is read to its end, so that the connection can be used again."""
MAX_ERROR_LENGTH = 500
ATTEMPT_HEADER = "pillarbox-attempt"
USER_AGENT = f"Pillarbox/{version('pillarbox')}"


@dataclass(frozen=True, slots=True)
class Post:
    """One POST to be made."""

    delivery_id: str
    attempt_number: int
    target: str
    secret: str
    content_type: str
    body: bytes
    previous_secret: str | None = None
    """Signs as well, while a rotation lasts."""
    timeout_s: float | None = None
    """For the whole attempt; None for the forwarder's own."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL to call, its credentials taken out."""

    url: str
    authorization: str | None

    @property
    def origin(self) -> str:
        return target_host(self.url)


class Forwarder:
    """Makes POSTs from any thread."""

    def __init__(self, session: requests.Session, watch: DeadlineWatch, timeout_s: float, clock: Clock) -> None:
        self._session = session
        self._watch = watch
        self._timeout_s = timeout_s
        self._clock = clock

    def send(self, post: Post) -> Outcome:
        """Make one attempt, redirects included, within the timeout."""
        started_ms = self._clock()
        timeout_s = post.timeout_s or self._timeout_s
        try:
            with self._watch.limit(timeout_s) as deadline:
                return self._send(post, deadline, started_ms)
        except TargetBlocked as error:
            return self._failure(started_ms, f"the target must not be called: {error}")
        except InvalidField as error:
            return self._failure(started_ms, f"the URL cannot be called: {error}")
        except TRANSPORT_ERRORS as error:
            expired = deadline.is_expired or isinstance(error, requests.Timeout)
            return self._failure(started_ms, _describe(error, expired, timeout_s), is_timeout=expired)

    def _send(self, post: Post, deadline: Deadline, started_ms: int) -> Outcome:
        place = _place("target", post.target)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._call(post, place, deadline)
            with response:
                onward = _redirect(place, response)
                if onward is None:
                    return self._outcome(response, started_ms)
            place = onward
        return self._failure(started_ms, f"redirected more than {MAX_REDIRECTS} times", response.status_code)

    def _call(self, post: Post, place: _Place, deadline: Deadline) -> requests.Response:
        request = self._request(post, place)
        try:
            return self._transmit(request, deadline)
        except requests.ConnectionError as error:
            if not deadline.was_reused or deadline.is_expired or isinstance(error, requests.Timeout):
                raise
            # The target closed a kept-open connection just as it was used again: no answer is lost by asking anew,
            # and should the POST have arrived, the stable webhook-id tells. (urllib3's pool puts an empty place on top
            # for the one that broke, so this call opens a new connection.)
            return self._transmit(request, deadline)

    def _transmit(self, request: requests.PreparedRequest, deadline: Deadline) -> requests.Response:
        response = self._session.send(request, timeout=deadline.remaining, stream=True, allow_redirects=False)
        if deadline.is_expired:  # the cut ended the headers, which looks as if they were complete
            response.close()
            raise requests.ReadTimeout("the headers did not end in time")
        return response

    def _request(self, post: Post, place: _Place) -> requests.PreparedRequest:
        request = requests.PreparedRequest()
        request.method = "POST"
        request.url = place.url
        request.body = post.body
        headers = {
            "Content-Type": post.content_type,
            "Content-Length": str(len(post.body)),
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            ATTEMPT_HEADER: str(post.attempt_number),
            **signature_headers(
                post.secret, post.delivery_id, self._clock() // SECOND_MS, post.body, post.previous_secret
            ),
        }
        if place.authorization is not None:
            headers["Authorization"] = place.authorization
        request.prepare_headers(headers)
        return request

    def _outcome(self, response: requests.Response, started_ms: int) -> Outcome:
        verdict = http_verdict(response.status_code)
        is_accepted = verdict is Verdict.ACCEPTED
        excerpt = _read_some(response)
        return Outcome(
            verdict=verdict,
            status=response.status_code,
            started_ms=started_ms,
            duration_ms=max(0, self._clock() - started_ms),
            response=None if is_accepted else excerpt,
            refusal_text=excerpt if verdict is Verdict.PERMANENT and _is_plain_text(response) else None,
            retry_after_ms=None if is_accepted else retry_after_ms(response.headers.get("Retry-After"), self._clock()),
        )

    def _failure(self, started_ms: int, error: str, status: int = 0, *, is_timeout: bool = False) -> Outcome:
        duration_ms = max(0, self._clock() - started_ms)
        text = _printable(error)
        return Outcome(Verdict.TEMPORARY, status, started_ms, duration_ms, error=text, is_timeout=is_timeout)


def retry_after_ms(value: str | None, now_ms: int) -> int | None:
    """Read a `Retry-After` header (RFC 9110 section 10.2.3): seconds or a date; None when it is neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return int(text[:12]) * SECOND_MS
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    pause: float = (moment - to_datetime(now_ms)).total_seconds()
    return max(0, int(pause * SECOND_MS))


@lru_cache(maxsize=4096)
def _place(field: str, url: str) -> _Place:
    """Split credentials off a URL, and bring the rest into the form that goes on the wire. Raises `InvalidField`."""
    parts = urlsplit(check_url(field, url))
    address = parts.netloc.rpartition("@")[2]
    request = requests.PreparedRequest()
    try:
        request.prepare_url(urlunsplit((parts.scheme, address, parts.path or "/", parts.query, "")), None)
    except requests.exceptions.InvalidURL as error:
        raise InvalidField(field, f"is not a URL ({error})") from error
    assert request.url is not None
    if parts.username is None:
        return _Place(request.url, None)
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return _Place(request.url, f"Basic {base64.b64encode(credentials.encode()).decode()}")


def _redirect(place: _Place, response: requests.Response) -> _Place | None:
    """Where to go on, if anywhere. Credentials stay with the origin they were given for."""
    location = response.headers.get("Location")
    if response.status_code not in FOLLOWED_REDIRECTS or not location:
        return None
    onward = _place("Location", _join("Location", place.url, location))
    if onward.authorization is None and onward.origin == place.origin:
        return _Place(onward.url, place.authorization)
    return onward


def _join(field: str, base: str, reference: str) -> str:
    """A URL relative to another. Header text arrives as Latin-1; what is not ASCII in a Location is UTF-8."""
    try:
        return urljoin(base, reference.encode("latin-1").decode("utf-8", "replace"))
    except ValueError as error:
        raise InvalidField(field, f"is not a URL ({error})") from error


def _describe(error: Exception, expired: bool, timeout_s: float) -> str:
    if expired:
        return f"no complete answer within {timeout_s:g} seconds"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the TLS connection failed: {_innermost(error)}"
    return f"the target could not be reached: {_innermost(error)}"


def _is_plain_text(response: requests.Response) -> bool:
    media_type: str = response.headers.get("Content-Type", "")
    return media_type.partition(";")[0].strip().lower() == "text/plain"


def _read_some(response: requests.Response) -> str:
    """The beginning of the answer. A status that has arrived counts, even if its body never ends."""
    data = bytearray()
    with suppress(*TRANSPORT_ERRORS):
        while len(data) < DRAINED_BYTES:
            piece = response.raw.read1(DRAINED_BYTES - len(data), decode_content=False)
            if not piece:
                break
            data += piece
    return data[:RESPONSE_EXCERPT_BYTES].decode("utf-8", "replace").replace("\x00", "\ufffd")


def _printable(text: str) -> str:
    """What is kept of an error: it may quote the target's bytes, which may be anything."""
    kept = text[:MAX_ERROR_LENGTH]
    return "".join(character if character.isprintable() else "\ufffd" for character in kept)


def _innermost(error: BaseException) -> str:
    """The plain reason inside the layers that requests and urllib3 wrap around it."""
    for _ in range(10):
        inner = error.__cause__ or error.__context__ or getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return str(error) or type(error).__name__
