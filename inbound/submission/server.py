"""The submission process: listens where the settings say, serves sessions, stops without losing what is in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog
import uvloop

from core.clock import system_clock
from core.config import Settings
from core.delivery import DeliveryKind
from core.errors import ConfigurationError
from core.services.credential_use import CredentialUse
from core.setting_values import Listen
from core.store.db import Database
from inbound.smtp.certificate import tls_context
from inbound.smtp.connections import Connections
from inbound.smtp.listening import Entrance, make_spool_folder, serve_until_signalled
from inbound.smtp.wire import SessionParts
from inbound.submission.handler import SubmissionHandler, Submit
from inbound.submission.logins import Logins
from inbound.submission.session import SubmissionSession

log = structlog.get_logger("submission")


def serve(settings: Settings, database: Database, submit: Submit, ring: Callable[[DeliveryKind], None]) -> None:
    """Run until SIGTERM or SIGINT. `ring` is called after each commit and must not block or raise.

    Raises `ConfigurationError`, also where no place to listen is set.
    """
    if not (settings.submission_places or settings.submission_tls_places):
        raise ConfigurationError("PILLARBOX_SUBMISSION and PILLARBOX_SUBMISSION_TLS: both are off; give one a place")
    use = CredentialUse(database, system_clock)
    logins = Logins(database, use, system_clock)
    handler = SubmissionHandler(settings, logins, submit, ring, make_spool_folder(settings))
    try:
        uvloop.run(_serve_until_signalled(settings, logins, handler))
    finally:
        logins.stop()
        handler.stop()
        use.stop()


def as_sessions_see_them(settings: Settings) -> Settings:
    """The settings with the limits of sending in the place of those of receiving.

    How fast a customer may send is for the send gate to say, which holds mail and refuses none.
    """
    return replace(
        settings,
        max_message_size=settings.max_send_size,
        max_recipients=settings.max_send_recipients,
        rate_per_ip=0,
        rate_per_domain=0,
        greeting_delay_ms=0,
    )


async def _serve_until_signalled(settings: Settings, logins: Logins, handler: SubmissionHandler) -> None:
    seen = as_sessions_see_them(settings)
    connections = Connections(seen)
    shared = SessionParts(handler, connections, seen, tls_context(settings))
    in_clear = [
        Entrance("PILLARBOX_SUBMISSION", listen, lambda: SubmissionSession(shared, logins))
        for listen in settings.submission_places
    ]
    in_tls = [
        Entrance("PILLARBOX_SUBMISSION_TLS", listen, lambda: SubmissionSession(shared, logins, is_tls_first=True))
        for listen in settings.submission_tls_places
    ]
    await serve_until_signalled([*in_clear, *in_tls], connections, lambda: _announce(settings))


def _announce(settings: Settings) -> None:
    log.info(
        "taking mail to be sent",
        starttls=_shown(settings.submission_places),
        tls=_shown(settings.submission_tls_places),
    )


def _shown(places: tuple[Listen, ...]) -> str:
    return ", ".join(map(str, places)) or "off"
