"""Who a message is from: SPF, DKIM, DMARC and ARC, and the Authentication-Results header that tells it on."""

from inbound.authentication.address_list import from_domain
from inbound.authentication.authenticator import Authenticator, ClientFacts, behind_forwarders
from inbound.authentication.results import results_header, with_trace, without_forged

__all__ = [
    "Authenticator",
    "ClientFacts",
    "behind_forwarders",
    "from_domain",
    "results_header",
    "with_trace",
    "without_forged",
]
