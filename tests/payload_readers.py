"""Readers of form payloads that are not ours: Werkzeug, Django and the standard library, with their own limits."""

from __future__ import annotations

import email
import email.policy
import io
from dataclasses import dataclass

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from werkzeug.formparser import parse_form_data

from inbound.payloads import Payload

FLASK_FORM_MEMORY = 500_000
FLASK_FORM_PARTS = 1000


@dataclass(frozen=True)
class ReadForm:
    """A form as an application gets it."""

    fields: list[tuple[str, str]]
    files: list[tuple[str, str, str, bytes]]
    """Field name, file name, content type, content."""

    def __getitem__(self, name: str) -> str:
        return dict(self.fields)[name]

    def __contains__(self, name: str) -> bool:
        return name in dict(self.fields)


def set_up_django() -> None:
    """A Django application of one inbound view, once for the process; limits are Django's own.

    Django would set the process's time zone and logging too, which other tests share.
    """
    if settings.configured:
        return
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.anymail_urls",
        INSTALLED_APPS=["anymail"],
        ANYMAIL={"WEBHOOK_SECRET": "user:pass"},
        SECRET_KEY="not a secret",
        TIME_ZONE="UTC",
        LOGGING_CONFIG=None,
    )
    django.setup()


def read_with_werkzeug(payload: Payload) -> ReadForm:
    """As a Flask application would."""
    _, form, files = parse_form_data(
        _environ(payload), silent=False, max_form_memory_size=FLASK_FORM_MEMORY, max_form_parts=FLASK_FORM_PARTS
    )
    found = [(name, file.filename or "", file.content_type, file.read()) for name, file in files.items(multi=True)]
    return ReadForm(list(form.items(multi=True)), found)


def read_with_django(payload: Payload) -> ReadForm:
    """As a Django view would."""
    set_up_django()
    request = WSGIRequest({**_environ(payload), "SERVER_NAME": "x", "SERVER_PORT": "80"})
    fields = [(name, value) for name, values in request.POST.lists() for value in values]
    files = [
        (name, file.name, file.content_type, file.read()) for name, found in request.FILES.lists() for file in found
    ]
    return ReadForm(fields, files)


def read_with_standard_library(payload: Payload) -> ReadForm:
    """As a MIME message."""
    head = f"Content-Type: {payload.content_type}\r\n\r\n".encode()
    parts = email.message_from_bytes(head + payload.body, policy=email.policy.HTTP).get_payload()
    form = ReadForm([], [])
    assert isinstance(parts, list)
    for part in parts:
        raw_disposition = dict(part.raw_items())["Content-Disposition"]
        disposition = raw_disposition.encode("ascii", "surrogateescape").decode("utf-8")
        name = disposition.split('name="')[1].split('"')[0]
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if 'filename="' in disposition:
            file_name = disposition.split('filename="')[1].split('"')[0]
            form.files.append((name, file_name, part.get_content_type(), content))
        else:
            form.fields.append((name, content.decode("utf-8")))
    return form


def _environ(payload: Payload) -> dict[str, object]:
    return {
        "wsgi.input": io.BytesIO(payload.body),
        "CONTENT_LENGTH": str(len(payload.body)),
        "CONTENT_TYPE": payload.content_type,
        "REQUEST_METHOD": "POST",
    }
