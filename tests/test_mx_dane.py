"""DANE as a sender: TLSA records from a resolver that says AD, and real hosts with all kinds of certificates."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dns.resolver
import pytest

from core.config import Settings
from core.delivery import Verdict
from core.errors import ConfigurationError
from core.mx_check import make_resolver
from outbound.dane import CertificateRejected, believes_dnssec, check_certificate
from outbound.mx import mx_transport_for
from outbound.pool import NO_REUSE, ConnectionPool
from outbound.tls import TlsaRecord, TlsLevel
from tests.certificate_authority import Issued, issue, make_root
from tests.mx_support import DOMAIN, HOST, MAIL, SECOND_HOST
from tests.scripted_smtp import Peer, Script, running_peer
from tests.tls_support import SecureEdge, Trust, policy_file, secure_edge

OFFERED = ("STARTTLS", "PIPELINING")
CANONICAL = "host.provider.test"
NOUGHT = "00" * 32


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust.make(tmp_path_factory.mktemp("dane"))


@pytest.fixture(scope="module")
def private() -> Issued:
    """An authority that nobody trusts but for TLSA records."""
    return make_root("Private Root", is_plain=True)


def tlsa(usage: int, selector: int, matching: int, issued: Issued) -> str:
    """A record that names this certificate."""
    content = issued.public_key if selector == 1 else issued.der
    digest = {0: lambda data: data, 1: lambda data: hashlib.sha256(data).digest()}.get(
        matching, lambda data: hashlib.sha512(data).digest()
    )
    return f"{usage} {selector} {matching} {digest(content).hex()}"


@contextmanager
def world(
    trust: Trust, shown: Issued, *records: str, script: Script | None = None, is_validating: bool = True
) -> Iterator[tuple[Peer, SecureEdge]]:
    """A host that shows this, whose zone is signed and has these TLSA records."""
    with ExitStack() as stack:
        peer = stack.enter_context(running_peer(script or Script(features=OFFERED), shown.context(trust.folder)))
        edge = stack.enter_context(secure_edge(peer.port, trust, is_validating=is_validating))
        name = f"_{peer.port}._tcp.{HOST}"
        if records:
            edge.zone.add(name, "TLSA", *records)
        edge.zone.authentic = {DOMAIN, HOST, name}
        yield peer, edge


@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("usage", [2, 3])
def test_a_certificate_that_is_named_gets_the_mail(
    trust: Trust, private: Issued, usage: int, selector: int, matching: int
) -> None:
    shown = issue(private, HOST, show=True)
    record = tlsa(usage, selector, matching, private if usage == 2 else shown)
    with world(trust, shown, record) as (peer, edge):
        result = edge.send()
    assert result.outcome.verdict is Verdict.ACCEPTED
    assert (result.tls, result.tls_version) == (TlsLevel.DANE, "TLSv1.3")
    assert peer.taken[0].is_tls


@pytest.mark.parametrize("usage", [2, 3])
def test_another_certificate_keeps_the_mail(trust: Trust, private: Issued, usage: int) -> None:
    other = make_root("Other Root")
    record = tlsa(usage, 1, 1, other)
    with world(trust, issue(private, HOST, show=True), record) as (peer, edge):
        result = edge.send()
    assert (result.outcome.verdict, result.enhanced) == (Verdict.TEMPORARY, "4.7.5")
    assert f"the TLSA records of {HOST}" in (result.outcome.error or "")
    assert (peer.taken, peer.connections) == ([], 1)


def test_even_a_valid_certificate_of_the_public_web_does_not_stand_in(trust: Trust, private: Issued) -> None:
    with world(trust, issue(trust.root, HOST), tlsa(3, 1, 1, private)) as (_, edge):
        edge.serve(policy_file(), "1")
        assert edge.send().outcome.verdict is Verdict.TEMPORARY


@pytest.mark.parametrize("script", [Script(), Script(features=OFFERED, handshake=False)], ids=["no offer", "broken"])
def test_a_downgrade_keeps_the_mail(trust: Trust, private: Issued, script: Script) -> None:
    with world(trust, private, tlsa(3, 1, 1, private), script=script) as (peer, edge):
        assert edge.send().outcome.verdict is Verdict.TEMPORARY
    assert peer.taken == []


def test_one_match_of_many_is_enough(trust: Trust, private: Issued) -> None:
    shown = issue(None, HOST)
    records = (tlsa(3, 1, 1, private), f"0 0 1 {NOUGHT}", tlsa(3, 1, 2, shown))
    with world(trust, shown, *records) as (_, edge):
        assert edge.send().tls is TlsLevel.DANE


@pytest.mark.parametrize(
    ("names", "days"), [(("elsewhere.test",), (-1, 1)), ((HOST,), (-9, -2))], ids=["wrong name", "expired"]
)
def test_for_an_end_entity_neither_name_nor_validity_count_and_under_an_anchor_both_do(
    trust: Trust, private: Issued, names: tuple[str, ...], days: tuple[int, int]
) -> None:
    shown = issue(private, *names, days=days, show=True)
    with world(trust, shown, tlsa(3, 1, 1, shown)) as (_, edge):
        assert edge.send().tls is TlsLevel.DANE
    with world(trust, shown, tlsa(2, 1, 1, private)) as (peer, edge):
        result = edge.send()
    assert (result.outcome.verdict, peer.taken) == (Verdict.TEMPORARY, [])
    assert "trust anchor" in (result.outcome.error or "")


@pytest.mark.parametrize("name", [HOST, "*.example.test", DOMAIN])
def test_names_under_an_anchor(trust: Trust, private: Issued, name: str) -> None:
    """The host, a wildcard, and the recipient's domain will do (RFC 7672 section 3.2.2)."""
    with world(trust, issue(private, name, show=True), tlsa(2, 0, 1, private)) as (_, edge):
        assert edge.send().tls is TlsLevel.DANE


def test_an_intermediate_may_be_the_anchor(trust: Trust, private: Issued) -> None:
    middle = issue(private, "Middle", is_authority=True)
    with world(trust, issue(middle, HOST, show=True), tlsa(2, 1, 1, middle)) as (_, edge):
        assert edge.send().tls is TlsLevel.DANE


def test_a_longer_chain_leads_to_its_anchor(trust: Trust, private: Issued) -> None:
    middle = issue(private, "Middle", is_authority=True, show=True)
    with world(trust, issue(middle, HOST, show=True), tlsa(2, 0, 2, private)) as (_, edge):
        assert edge.send().tls is TlsLevel.DANE


def test_an_anchor_that_is_in_the_dns_need_not_be_shown(trust: Trust, private: Issued) -> None:
    shown = issue(private, HOST)
    with world(trust, shown, tlsa(2, 0, 0, private)) as (_, edge):
        assert edge.send().tls is TlsLevel.DANE
    with world(trust, shown, tlsa(2, 0, 1, private)) as (_, edge):
        assert edge.send().outcome.verdict is Verdict.TEMPORARY


EC_KEY = bytes.fromhex("06072a8648ce3d0201")
"""The algorithm of our keys in DER."""
UNKNOWN_KEY = EC_KEY[:-1] + b"\x63"


@dataclass
class Shown:
    """A session in which these certificates were shown: OpenSSL shows none whose key it does not know."""

    chain: list[bytes]

    def get_unverified_chain(self) -> list[bytes]:
        return self.chain


def test_a_key_of_a_kind_that_nobody_knows_is_compared_as_it_stands(private: Issued) -> None:
    host = issue(private, HOST, show=True)
    strange = host.der.replace(EC_KEY, UNKNOWN_KEY)
    named = TlsaRecord(3, 1, 1, hashlib.sha256(host.public_key.replace(EC_KEY, UNKNOWN_KEY)).digest())
    check_certificate(cast(ssl.SSLSocket, Shown([strange])), [named], (HOST,))
    above = private.der.replace(EC_KEY, UNKNOWN_KEY)
    for usage, chain in ((3, [strange]), (2, [host.der, above])):
        with pytest.raises(CertificateRejected):
            check_certificate(cast(ssl.SSLSocket, Shown(chain)), [TlsaRecord(usage, 1, 1, bytes(32))], (HOST,))
    record = TlsaRecord(2, 1, 1, hashlib.sha256(private.public_key.replace(EC_KEY, UNKNOWN_KEY)).digest())
    with pytest.raises(CertificateRejected):
        check_certificate(cast(ssl.SSLSocket, Shown([host.der, above])), [record], (HOST,))


def test_an_anchor_that_is_only_shown_vouches_for_nobody(trust: Trust, private: Issued) -> None:
    """An attacker shows his own certificate, and the real anchor beside it."""
    forged = issue(make_root("Private Root", is_plain=True), HOST)
    shown = Issued(forged.certificate, forged.key, (private.certificate,))
    with world(trust, shown, tlsa(2, 1, 1, private)) as (peer, edge):
        assert edge.send().outcome.verdict is Verdict.TEMPORARY
    assert peer.taken == []


@pytest.mark.parametrize("is_self_signed", [True, False])
def test_a_host_is_not_its_own_anchor(trust: Trust, private: Issued, is_self_signed: bool) -> None:
    shown = issue(None if is_self_signed else private, HOST, show=True)
    with world(trust, shown, tlsa(2, 1, 1, shown)) as (peer, edge):
        result = edge.send()
        assert "no certificate that was shown is a trust anchor" in (result.outcome.error or "")
    assert peer.taken == []


def test_a_host_is_no_authority(trust: Trust, private: Issued) -> None:
    """Whoever has any certificate under the anchor could otherwise make one for every name."""
    customer = issue(private, "customer.test", show=True)
    with world(trust, issue(customer, HOST, show=True), tlsa(2, 1, 1, private)) as (peer, edge):
        assert edge.send().outcome.verdict is Verdict.TEMPORARY
    assert peer.taken == []


@pytest.mark.parametrize(
    "record", [f"0 0 1 {NOUGHT}", f"1 1 1 {NOUGHT}", f"3 7 1 {NOUGHT}", "3 1 9 00", f"9 1 1 {NOUGHT}"]
)
def test_records_that_cannot_be_used_demand_encryption_and_no_more(trust: Trust, private: Issued, record: str) -> None:
    with world(trust, private, record) as (_, edge):
        result = edge.send()
        assert (result.outcome.verdict, result.tls) == (Verdict.ACCEPTED, TlsLevel.OPPORTUNISTIC)
    with world(trust, private, record, script=Script()) as (peer, edge):
        assert edge.send().enhanced == "4.7.10"
    assert peer.taken == []


@pytest.mark.parametrize("is_valid", [True, False])
def test_records_that_cannot_be_used_do_not_weaken_a_policy(trust: Trust, private: Issued, is_valid: bool) -> None:
    shown = issue(trust.root if is_valid else private, HOST)
    with world(trust, shown, f"0 0 1 {NOUGHT}") as (_, edge):
        edge.serve(policy_file(), "1")
        result = edge.send()
    assert result.tls is (TlsLevel.STS if is_valid else TlsLevel.NONE)
    assert (result.outcome.verdict is Verdict.ACCEPTED) is is_valid


def test_a_connection_that_was_only_encrypted_does_not_serve_a_policy(trust: Trust, private: Issued) -> None:
    """Both are required, but not the same: the first mail goes to a host whose certificate nothing is known of."""
    with (
        running_peer(Script(features=OFFERED), private.context(trust.folder)) as peer,
        secure_edge(peer.port, trust, pool=ConnectionPool(), is_validating=True) as edge,
    ):
        name = f"_{peer.port}._tcp.{HOST}"
        edge.zone.mx("other.test", HOST)
        edge.zone.add(name, "TLSA", f"0 0 1 {NOUGHT}")
        edge.zone.authentic = {DOMAIN, "other.test", HOST, name}
        edge.serve(policy_file(), "1")
        assert edge.send(recipients=("user@other.test",)).tls is TlsLevel.OPPORTUNISTIC
        assert edge.pool.idle == 1
        assert edge.send().outcome.verdict is Verdict.TEMPORARY


def test_records_come_before_a_policy(trust: Trust, private: Issued) -> None:
    shown = issue(None, HOST)
    with world(trust, shown, tlsa(3, 1, 1, shown)) as (_, edge):
        edge.serve(policy_file(), "1")
        assert edge.send().tls is TlsLevel.DANE


# --- what the DNS says, and who says it ---


@pytest.mark.parametrize("unsigned", ["MX", "address", "TLSA"])
def test_what_dnssec_does_not_vouch_for_demands_nothing(trust: Trust, private: Issued, unsigned: str) -> None:
    with world(trust, issue(None, HOST), tlsa(3, 1, 1, private)) as (peer, edge):
        name = f"_{peer.port}._tcp.{HOST}"
        edge.zone.authentic.discard({"MX": DOMAIN, "address": HOST, "TLSA": name}[unsigned])
        result = edge.send()
        assert ((name, "TLSA") in edge.zone.asked) is (unsigned == "TLSA")
    assert (result.outcome.verdict, result.tls) == (Verdict.ACCEPTED, TlsLevel.OPPORTUNISTIC)


def test_without_records_tls_is_opportunistic(trust: Trust, private: Issued) -> None:
    with world(trust, private) as (_, edge):
        assert edge.send().tls is TlsLevel.OPPORTUNISTIC


def test_a_resolver_that_is_not_believed_is_not_asked(trust: Trust, private: Issued) -> None:
    with world(trust, issue(None, HOST), tlsa(3, 1, 1, private), is_validating=False) as (_, edge):
        assert edge.send().tls is TlsLevel.OPPORTUNISTIC
        assert "TLSA" not in {kind for _, kind in edge.zone.asked}


def test_a_host_whose_records_cannot_be_had_is_passed_over(trust: Trust, private: Issued) -> None:
    """Else an attacker who drops answers would have his way (RFC 7672 section 2.1.1)."""
    with world(trust, private) as (peer, edge):
        edge.zone.failing = {f"_{peer.port}._tcp.{HOST}"}
        result = edge.send()
        assert (result.outcome.verdict, peer.connections) == (Verdict.TEMPORARY, 0)
        assert "TLSA" in (result.outcome.error or "")
        edge.zone.mx(DOMAIN, HOST, SECOND_HOST)
        assert edge.send().host == SECOND_HOST


def test_a_domain_without_mx_is_its_own_host(trust: Trust, private: Issued) -> None:
    with world(trust, private) as (peer, edge):
        del edge.zone.records[(DOMAIN, "MX")]
        edge.zone.add(DOMAIN, "A", "127.0.0.1")
        name = f"_{peer.port}._tcp.{DOMAIN}"
        edge.zone.add(name, "TLSA", tlsa(3, 1, 1, private))
        edge.zone.authentic = {DOMAIN, name}
        assert edge.send().tls is TlsLevel.DANE


@pytest.mark.parametrize("owner", [CANONICAL, HOST])
def test_an_alias_has_the_records_of_the_host_behind_it_or_its_own(trust: Trust, private: Issued, owner: str) -> None:
    names: list[str | None] = []
    shown = issue(private, CANONICAL, show=True)
    context = shown.context(trust.folder)
    context.sni_callback = lambda session, name, given: names.append(name)  # type: ignore[assignment]
    with (
        running_peer(Script(features=OFFERED), context) as peer,
        secure_edge(peer.port, trust, is_validating=True) as edge,
    ):
        del edge.zone.records[(HOST, "A")]
        edge.zone.add(HOST, "CNAME", f"{CANONICAL}.")
        edge.zone.add(CANONICAL, "A", "127.0.0.1")
        name = f"_{peer.port}._tcp.{owner}"
        edge.zone.add(name, "TLSA", tlsa(3, 1, 1, shown))
        edge.zone.authentic = {DOMAIN, HOST, name}
        assert edge.send().tls is TlsLevel.DANE
    assert names == [owner]


def test_records_that_change_are_not_met_by_a_kept_connection(trust: Trust, private: Issued) -> None:
    shown = issue(None, HOST)
    with (
        running_peer(Script(features=OFFERED), shown.context(trust.folder)) as peer,
        secure_edge(peer.port, trust, pool=ConnectionPool(), is_validating=True) as edge,
    ):
        name = f"_{peer.port}._tcp.{HOST}"
        edge.zone.add(name, "TLSA", tlsa(3, 1, 1, shown))
        edge.zone.authentic = {DOMAIN, HOST, name}
        assert [edge.send().tls for _ in range(2)] == [TlsLevel.DANE] * 2
        assert peer.connections == 1
        edge.zone.add(name, "TLSA", tlsa(3, 1, 1, private))
        assert edge.send().outcome.verdict is Verdict.TEMPORARY


@pytest.mark.parametrize(
    ("servers", "choice", "is_believed"),
    [
        ("127.0.0.1", "auto", True),
        ("[::1]:5353,127.0.0.53", "auto", True),
        ("127.0.0.1,192.0.2.1", "auto", False),
        ("192.0.2.1", "auto", False),
        ("127.0.0.11", "auto", False),
        ("192.0.2.1", "on", True),
        ("127.0.0.1", "off", False),
    ],
)
def test_who_is_believed(servers: str, choice: str, is_believed: bool) -> None:
    assert believes_dnssec(choice, make_resolver(servers)) is is_believed


def test_the_systems_resolvers_are_judged_alike() -> None:
    resolver = dns.resolver.Resolver(configure=False)
    assert not believes_dnssec("auto", resolver)
    resolver.nameservers = ["127.0.0.1", "::1"]
    assert believes_dnssec("auto", resolver)
    resolver.nameservers = ["127.0.0.1", "https://dns.example/dns-query"]
    assert not believes_dnssec("auto", resolver)


def test_the_setting_is_checked() -> None:
    with pytest.raises(ConfigurationError, match="PILLARBOX_DNSSEC"):
        believes_dnssec("maybe", make_resolver("127.0.0.1"))


@pytest.mark.parametrize(("dnssec", "level"), [("auto", TlsLevel.DANE), ("off", TlsLevel.OPPORTUNISTIC)])
def test_the_transport_as_configured(
    trust: Trust, private: Issued, tmp_path: Path, dnssec: str, level: TlsLevel
) -> None:
    with world(trust, private, tlsa(3, 1, 1, private)) as (peer, edge):
        settings = Settings(
            data=tmp_path, resolver=f"127.0.0.1:{edge.zone.port}", domain="us.test", allow_private_targets="loopback"
        )
        transport = mx_transport_for(settings, edge.clock, ConnectionPool(NO_REUSE), peer.port, dnssec)
        assert transport.deliver(MAIL)[0].tls is level
