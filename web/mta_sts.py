"""`/.well-known/mta-sts.txt` at `mta-sts.` and any domain we receive for (RFC 8461 section 3.3).

Senders ask over HTTPS with a certificate for that very name: a proxy before us has it, and passes the Host header on.
"""

from __future__ import annotations

from flask import Blueprint, Response, abort, request

from core.mta_sts import POLICY_PATH, policy_domain, policy_text
from core.services.policy_domains import is_received_for
from web.context import context

policies = Blueprint("mta_sts", __name__)


@policies.get(POLICY_PATH)
def policy() -> Response:
    """The policy of the domain that the request names; 404 for domains that are not ours."""
    settings = context().settings
    domain = policy_domain(request.headers.get("Host", ""))
    if domain is None or not is_received_for(context().database, domain, settings.domain):
        abort(404)
    return Response(policy_text(settings.mta_sts, settings.mx_hostname), mimetype="text/plain")
