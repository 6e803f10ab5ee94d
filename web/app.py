"""The web application: the API, its reference, health and test targets."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from urllib.parse import urlsplit, urlunsplit

from flask import Flask, Response, request
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from werkzeug.routing import RequestRedirect

from core.clock import Clock, system_clock
from core.config import Settings
from core.delivery import DeliveryKind
from core.mx_check import mx_check_for
from core.store.blobs import open_blobs
from core.store.db import Database
from inbound.scanning.sent_mail import open_sent_mail_check
from outbound.accepting import SendAcceptor
from web.api import (
    addresses,
    credentials,
    custom_domains,
    incoming_statuses,
    layouts,
    messages,
    outbound_messages,
    rules,
    sending_domains,
    sending_health,
    suppressions,
    tracking_hits,
    webhooks,
)
from web.api.messages import ACCEPTOR
from web.auth import SECURITY_SCHEMES
from web.context import EXTENSION, Context
from web.errors import Error, from_validation, handle_errors
from web.headers import add_security_headers
from web.health import add_health
from web.mta_sts import policies
from web.reference import reference
from web.requests import MAX_BODY_BYTES, JsonRequest
from web.stored import stored
from web.test_targets import targets
from web.tracking import tracking

RESOURCES = (
    *(addresses, custom_domains, incoming_statuses, rules),
    *(messages, outbound_messages, layouts, sending_domains, suppressions, webhooks, sending_health, credentials),
    tracking_hits,
)
DESCRIPTION = (
    "Receive email as HTTP POSTs, send email by HTTP. Every error is JSON with `status` and `error`; times are RFC "
    "3339 in UTC; lists are newest first, and their `Link` header leads to the next page."
)


def create_app(
    settings: Settings,
    database: Database,
    ring: Callable[[DeliveryKind], None],
    clock: Clock = system_clock,
) -> OpenAPI:
    """Build the application. Raises `ConfigurationError`.

    `ring` is called after each commit that made deliveries due; whatever it raises is logged and otherwise ignored.
    """
    app = OpenAPI(
        "web",
        info=Info(title="Pillarbox API", version=version("pillarbox"), description=DESCRIPTION),
        security_schemes=SECURITY_SCHEMES,
        validation_error_model=Error,
        validation_error_status=500,  # else it would add a 422 of its own making to calls that cannot end so
        validation_error_callback=from_validation,
        doc_ui=False,
        static_folder=None,
    )
    app.request_class = JsonRequest
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    blobs = open_blobs(settings.blob_location)
    app.extensions[EXTENSION] = Context(settings, database, blobs, mx_check_for(settings), clock, ring)
    spam_check = open_sent_mail_check(settings, clock)
    app.extensions[ACCEPTOR] = SendAcceptor(settings, database, blobs, clock, spam_check)
    _add_routes(app, settings, database)
    handle_errors(app)
    add_security_headers(app)
    _stay_where_asked(app)
    return app


def _add_routes(app: OpenAPI, settings: Settings, database: Database) -> None:
    for module in RESOURCES:
        app.register_api(module.api)
    add_health(app, settings, database)
    for blueprint in (targets, reference, stored, policies, tracking):
        app.register_blueprint(blueprint)


def _stay_where_asked(app: Flask) -> None:
    """Redirects of the framework's own, as for double slashes in a path, lead to the same host in the same scheme.

    It would name the host of the request with `http`: behind a proxy that speaks TLS the key would then go in clear.
    """

    @app.after_request
    def stay(response: Response) -> Response:
        if isinstance(request.routing_exception, RequestRedirect):
            place = urlsplit(request.routing_exception.new_url)
            response.headers["Location"] = urlunsplit(("", "", place.path, place.query, ""))
        return response
