"""What is refused at RCPT, before any content: by declared size, rules, and the customer's own server."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from core.address_settings import AuthorizationCallback
from core.config import Settings
from core.delivery import Verdict
from core.netguard import IPNetwork
from core.routing import Route
from core.rule_facts import Facts
from core.rules import JudgedAction, judge_early
from core.verdicts import SpfVerdict
from inbound.authentication import Authenticator, ClientFacts
from inbound.callbacks import AuthorizationClient, AuthorizationQuestion
from inbound.clients import is_within
from inbound.smtp.mail_handler import InboundEnvelope
from inbound.smtp.replies import Reply, blocked, oversize, refused_by_callback

ASKING_THREADS = 64
"""Authorization callbacks in flight at once in a receiver; senders beyond are put off."""
ADDRESS_SHARE = 0.25
"""Of them, for one address: a server that hangs must not hold up those of others."""


class RecipientGate:
    """Decides about recipients whose address is known."""

    def __init__(
        self, settings: Settings, authorization: AuthorizationClient, authenticator: Authenticator | None
    ) -> None:
        self._server_limit = settings.max_message_size
        self._trusted: tuple[IPNetwork, ...] = settings.trusted_forwarder_networks
        self._authorization = authorization
        self._authenticator = authenticator
        self._asking: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(ASKING_THREADS, thread_name_prefix="authorization")

    async def refusal(self, client: ClientFacts, envelope: InboundEnvelope, address: str, route: Route) -> str | None:
        """The reply that refuses a recipient; None when nothing speaks against it so far."""
        if not _may_share(envelope, route):
            return Reply.ONE_AT_A_TIME
        if (envelope.declared_size or 0) > size_limit(route, self._server_limit):
            return oversize(route.settings.oversize_text)
        if route.rules:
            judged = judge_early(route.rules, self._facts(client, address))
            if judged is not None and judged.action is JudgedAction.REJECT:
                return blocked(judged.sender_text)
            if judged is not None and judged.action is JudgedAction.ACCEPT:
                return None  # an allow rule comes before the customer's server too
        if route.settings.authorization is not None:
            return await self._ask(route.settings.authorization, route, client, envelope, address)
        return None

    def stop(self) -> None:
        """Start no more questions."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _facts(self, client: ClientFacts, address: str) -> Facts:
        """A forwarder we trust is not the client that rules are about; who that is, the message will tell."""
        is_hidden = is_within(client.remote_ip, self._trusted)
        return Facts(
            remote_ip=None if is_hidden else client.remote_ip,
            helo=None if is_hidden else client.helo,
            mail_from=client.mail_from,
            recipients=(address,),
        )

    async def _ask(
        self,
        callback: AuthorizationCallback,
        route: Route,
        client: ClientFacts,
        envelope: InboundEnvelope,
        address: str,
    ) -> str | None:
        def ask() -> tuple[Verdict, str | None]:
            question = AuthorizationQuestion(
                to=address,
                from_=client.mail_from,
                size=envelope.declared_size,
                remote_ip=client.remote_ip,
                helo_domain=client.helo,
                spf=self._spf(client, envelope),
            )
            outcome = self._authorization.ask(callback, route, question)
            return outcome.verdict, outcome.refusal_text

        of_address = self._asking[route.address_id]
        if self._asking.total() >= ASKING_THREADS or of_address >= ASKING_THREADS * ADDRESS_SHARE:
            return Reply.CANNOT_ASK
        self._asking[route.address_id] += 1
        try:
            verdict, text = await asyncio.get_running_loop().run_in_executor(self._pool, ask)
        finally:
            self._asking[route.address_id] -= 1
            if not self._asking[route.address_id]:
                del self._asking[route.address_id]
        if verdict is Verdict.PERMANENT:
            return refused_by_callback(text)
        return None if verdict is Verdict.ACCEPTED else Reply.CANNOT_ASK

    def _spf(self, client: ClientFacts, envelope: InboundEnvelope) -> SpfVerdict | None:
        """Looked up once for a transaction."""
        if envelope.spf is None and self._authenticator is not None:
            envelope.spf = self._authenticator.check_spf(client)
        return envelope.spf


def size_limit(route: Route, server_limit: int) -> int:
    """Bytes that mail to one address may have."""
    return min(route.settings.max_message_size or server_limit, server_limit)


def _may_share(envelope: InboundEnvelope, route: Route) -> bool:
    """Whether a recipient may join those of the transaction: an inline answer can be that of one target only."""
    return all(
        other.delivery_key == route.delivery_key or not (other.is_inline or route.is_inline)
        for _, other in envelope.routes
    )
