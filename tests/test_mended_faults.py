"""What a review of the whole once found wrong, and that it stays mended: each test failed before."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from core.address_settings import AddressSettings, AuthorizationCallback, DeliveryMode, FailAction
from core.clock import SECOND_MS, system_clock
from core.config import load_settings
from core.delivery import HTTP_POLICY, INLINE_POLICY, DeliveryKind, Outcome, Verdict
from core.formats import TargetFormat
from core.netguard import LOOPBACK, TargetPolicy
from core.routing import Route
from core.rule_conditions import read_conditions
from core.rules import Rule, RuleAction
from core.services.acceptance import AcceptedMail, DeliveryPlan, store_accepted
from core.services.accounts import create_account
from core.services.addresses import AddressDraft, create_address, update_address
from core.services.arrivals import ArrivalKind, arrive
from core.services.claims import claim
from core.services.leases import FinishedAttempt
from core.services.notices import follow_received
from core.services.received import ClaimedDelivery, FinishedMail, load_received
from core.services.recording import record
from core.services.replay import Wish, replay_one
from core.store.blobs import DiskBlobs
from core.store.db import Database
from core.store_settings import StoreKind, StoreSettings
from core.verdicts import AuthResult, SpfVerdict, Verdicts
from inbound.attempt import MEMORY_BUDGET
from inbound.authentication import ClientFacts
from inbound.bounce import Bouncer
from inbound.callbacks import AuthorizationClient, ErrorCallbackAttempt
from inbound.forward import Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from inbound.inspection import open_inspector
from inbound.smtp.inline import InlineDelivery
from inbound.smtp.mail_handler import InboundEnvelope
from inbound.smtp.message_gate import MessageGate
from inbound.smtp.recipient_gate import ASKING_THREADS, RecipientGate
from inbound.smtp.spool import SpooledMessage
from outbound.forward_mail import MailForwarder
from outbound.policy import SMTP_POLICY
from tests.api_support import Api, accepted_mail, api_settings
from tests.attempt_parts import make_attempt
from tests.conftest import NOW_MS
from tests.deliveries import Deliveries, claim_request
from tests.gateway import running_gateway
from tests.http_target import HttpTarget, running_target
from tests.mx_support import OUR_NAME, edge_to
from tests.raw_server import running_raw_server
from tests.scripted_smtp import Script, running_peer
from tests.test_doorbell import running_redis
from tests.test_mx_forward import ENVELOPE, FORWARD, OURS, SRS
from workers import worker as worker_module
from workers.doorbell import open_redis
from workers.engine import Engine, EngineLimits, Line

TARGET = "https://one.example/in"
MAILBOX = "mailto:user@forwards.example"
INLINE = AddressSettings(mode=DeliveryMode.INLINE)
WINDOW_MS = 3_600 * SECOND_MS
LEASE_MS = 40 * SECOND_MS


@pytest.fixture
def mail(database_url: str) -> Iterator[Deliveries]:
    opened = Database(database_url)
    yield Deliveries(opened, create_account(opened, "test", NOW_MS))
    opened.close()


@pytest.fixture
def sqlite_mail(tmp_path: Path) -> Iterator[Deliveries]:
    opened = Database(f"sqlite:///{tmp_path / 'one.sqlite3'}")
    opened.migrate()
    yield Deliveries(opened, create_account(opened, "test", NOW_MS))
    opened.close()


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


def forwarder() -> Forwarder:
    return Forwarder(guarded_session(TargetPolicy(LOOPBACK), 8, None), DeadlineWatch(), 20, system_clock)


def inline_mail(mail: Deliveries, token: str, at_ms: int = NOW_MS, target: str = TARGET) -> AcceptedMail:
    """A mail as `InlineDelivery` hands it to `arrive`; always the same envelope and bytes."""
    route = Route(mail.account.account_id, mail.address(target), None, target, INLINE)
    plan = DeliveryPlan(duplicate_window_ms=WINDOW_MS, lease_token=token, lease_end_ms=at_ms + LEASE_MS)
    return accepted_mail(at_ms, (("in@pillarbox.test", route),), plans={route.delivery_key: plan})


def put_off(mail: Deliveries, claimed: ClaimedDelivery | None, at_ms: int) -> None:
    """Record what an inline attempt comes to whose sender gets 450."""
    assert claimed is not None
    outcome = Outcome(Verdict.TEMPORARY, 503, at_ms, 50)
    with mail.database.transaction():
        record(mail.database, [FinishedAttempt(claimed, outcome)], INLINE_POLICY, at_ms)


# --- lost mail ---


def test_a_250_after_an_inline_lease_ran_out_is_not_taken_back_by_the_first_attempt(
    mail: Deliveries,
) -> None:
    first = arrive(mail.database, inline_mail(mail, "inline-one"), NOW_MS)
    later = NOW_MS + LEASE_MS + 1  # the first attempt still runs: it waited for memory, or for the blob store
    again = arrive(mail.database, inline_mail(mail, "inline-two", later), later)
    assert again.kind is ArrivalKind.TAKEN  # the sender hears 250
    put_off(mail, first.claimed, later + 1)  # the first attempt ends with 450, to a session that is gone
    assert mail.rows("state") == [("pending",)]  # was 'deferred': nobody works on it, and the sender has its 250


def test_a_250_from_the_acceptor_does_not_rest_on_an_inline_attempt_in_flight(mail: Deliveries) -> None:
    first = arrive(mail.database, inline_mail(mail, "inline-one"), NOW_MS)
    route = Route(mail.account.account_id, mail.address(TARGET), None, TARGET)  # meanwhile set to queued, or held
    plan = DeliveryPlan(duplicate_window_ms=WINDOW_MS)
    mail_again = accepted_mail(NOW_MS + 1, (("in@pillarbox.test", route),), plans={route.delivery_key: plan})
    store_accepted(mail.database, [mail_again])  # the sender hears 250
    put_off(mail, first.claimed, NOW_MS + 2)
    assert "pending" in [state for (state,) in mail.rows("state")]


def test_a_mail_that_was_refused_inline_and_comes_again_as_queued_is_not_swallowed(mail: Deliveries) -> None:
    first = arrive(mail.database, inline_mail(mail, "inline-one"), NOW_MS)
    with mail.database.transaction():
        refused = FinishedAttempt(first.claimed, Outcome(Verdict.PERMANENT, 422, NOW_MS, 50))  # type: ignore[arg-type]
        record(mail.database, [refused], INLINE_POLICY, NOW_MS)  # the sender hears 554
    route = Route(mail.account.account_id, mail.address(TARGET), None, TARGET)
    plan = DeliveryPlan(duplicate_window_ms=WINDOW_MS)
    again = accepted_mail(NOW_MS + 1, (("in@pillarbox.test", route),), plans={route.delivery_key: plan})
    store_accepted(mail.database, [again])  # the sender hears 250
    assert [state for (state,) in mail.rows("state")] == ["rejected", "pending"]


# --- the wrong transport ---


@pytest.mark.parametrize(("state", "wish"), [("rejected", Wish.RETRY), ("quarantined", Wish.RELEASE)])
def test_a_retry_after_the_target_has_become_a_mailbox_goes_by_the_transport_of_mailboxes(
    mail: Deliveries, state: str, wish: Wish
) -> None:
    account_id = mail.account.account_id
    draft = AddressDraft(TARGET, TargetFormat.JSON_N)
    made = create_address(mail.database, account_id, draft, NOW_MS)
    mail.addresses[TARGET] = made.address_id
    (delivery_id,) = mail.accept(TARGET)
    mail.execute("UPDATE delivery SET state = ?", (state,))
    changed = replace(draft, target=MAILBOX)
    update_address(mail.database, account_id, made.address_id, changed, NOW_MS, keep_nickname=True)
    replay_one(mail.database, account_id, delivery_id, NOW_MS, wish)
    # As 'inbound' it is sent by SMTP (up to 300 s) under the lease of a POST: sent twice, and by the wrong schedule.
    assert mail.rows("kind, target_host") == [("forward", "mailto://forwards.example")]


# --- fairness ---


def test_mailboxes_that_do_not_exist_do_not_stop_forwarding_to_their_whole_domain(mail: Deliveries) -> None:
    wrong = "mailto:nobody@big-provider.example"
    mail.accept(wrong, 6)
    for _ in range(6):
        claimed = mail.claim(kind=DeliveryKind.FORWARD, free_places=1).deliveries
        if not claimed:
            break
        with mail.database.transaction():
            no_such_user = Outcome(Verdict.PERMANENT, 550, NOW_MS, 50, response="550 5.1.1 No such user")
            record(mail.database, [FinishedAttempt(claimed[0], no_such_user)], HTTP_POLICY, NOW_MS)
    mail.accept("mailto:another.customer@big-provider.example")
    assert len(mail.claim(kind=DeliveryKind.FORWARD).deliveries) == 1


def test_inline_mail_in_flight_does_not_keep_a_worker_from_the_same_host(mail: Deliveries) -> None:
    for number in range(20):
        route = Route(mail.account.account_id, mail.address(TARGET), None, TARGET, INLINE)
        plan = DeliveryPlan(lease_token=f"inline-{number}", lease_end_ms=NOW_MS + LEASE_MS)
        one = accepted_mail(NOW_MS, (("in@pillarbox.test", route),), plans={route.delivery_key: plan})
        arrive(mail.database, one, NOW_MS)
    mail.accept("https://one.example/queued", 3)
    mail.set_health("https://ill.example/", failures=1)
    mail.accept("https://ill.example/", 1)
    # Attempts of this worker may take 75 s (20, 15 of scanning, 2 stores): every inline lease looks 20 s old and more,
    # so the host is "slow", and the 20 in flight use up the places of all suspects of a pool that has not one of them.
    assert len(mail.claim(attempt_limit_ms=75 * SECOND_MS).deliveries) == 4


def test_a_hanging_mailbox_host_does_not_stop_large_mail_to_urls(
    sqlite_mail: Deliveries, tmp_path: Path, target: HttpTarget
) -> None:
    let_go, has_begun = threading.Event(), threading.Event()

    def hangs(delivery: object, raw: bytes) -> Outcome:
        has_begun.set()
        let_go.wait(20)
        return Outcome(Verdict.ACCEPTED, 250, NOW_MS, 50)

    attempt = make_attempt(
        tmp_path, sqlite_mail.database, forwarder(), DiskBlobs(tmp_path / "blobs"), lambda: NOW_MS, hangs
    )
    sqlite_mail.accept(MAILBOX)
    sqlite_mail.accept(target.url())
    (forward,) = sqlite_mail.claim(kind=DeliveryKind.FORWARD).deliveries
    (post,) = sqlite_mail.claim().deliveries
    forwarding = threading.Thread(target=attempt, args=(replace(forward, size=MEMORY_BUDGET),), daemon=True)
    posting = threading.Thread(target=attempt, args=(replace(post, size=1 << 20),), daemon=True)
    forwarding.start()
    assert has_begun.wait(5)
    posting.start()
    posting.join(3)
    was_stuck = posting.is_alive()  # in a place of the pool of URLs, for up to 300 s, its lease running out
    let_go.set()
    posting.join(5)
    forwarding.join(5)
    assert not was_stuck


def test_an_attempt_that_waited_for_memory_past_its_lease_is_not_made(
    sqlite_mail: Deliveries, tmp_path: Path, target: HttpTarget
) -> None:
    now = [NOW_MS]
    attempt = make_attempt(tmp_path, sqlite_mail.database, forwarder(), DiskBlobs(tmp_path / "blobs"), lambda: now[0])
    sqlite_mail.accept(target.url())
    (post,) = sqlite_mail.claim().deliveries
    waiting = threading.Thread(target=attempt, args=(replace(post, size=1 << 20),), daemon=True)
    with attempt._budget.hold(MEMORY_BUDGET):
        waiting.start()
        time.sleep(0.2)
        now[0] += 10 * 60 * SECOND_MS  # others hold the memory; the lease of 35 s has run out
        (second,) = sqlite_mail.claim(now[0]).deliveries
        assert second.delivery_id == post.delivery_id
    waiting.join(5)
    assert target.received == []  # it is another worker's now


def test_a_full_engine_of_a_side_kind_does_not_hold_up_the_jobs_of_mail(
    sqlite_mail: Deliveries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job loop of a worker serves all kinds, one job at a time."""
    answers: list[Callable[[str], None]] = []
    let_go = threading.Event()

    class NoJobs:
        asked: threading.Event

        def __init__(self, *arguments: object, **options: object) -> None: ...
        def work(self, **options: object) -> None:
            self.asked.set()

    def hangs(delivery: ClaimedDelivery) -> FinishedAttempt:
        let_go.wait(60)
        return FinishedAttempt(delivery, Outcome(Verdict.ACCEPTED, 250, NOW_MS, 50))

    monkeypatch.setattr(worker_module, "DrainWorker", NoJobs)
    monkeypatch.setattr(worker_module, "answer_with", answers.append)
    sqlite_mail.accept(MAILBOX, 3)
    limits = EngineLimits(DeliveryKind.FORWARD, threads=1, host_concurrency=8, attempt_limit_ms=315_000)
    engine = Engine(
        sqlite_mail.database, Line(hangs, SMTP_POLICY, load_received, follow_received), limits, lambda: NOW_MS
    )
    engine.start()
    with running_redis(tmp_path / "redis") as url:
        worker_module._work_until_stopped({DeliveryKind.FORWARD: engine}, open_redis(url), 1)
        answering = threading.Thread(target=answers[0], args=("forward",), daemon=True)
        answering.start()
        answering.join(3)
        is_held_up = answering.is_alive()  # for DRAIN_LIMIT_S = 30, and then it enqueues the next such job itself
        let_go.set()
        answering.join(10)
    engine.stop(5)
    assert not is_held_up


def test_a_signal_before_rq_listens_for_signals_ends_the_worker_all_the_same(tmp_path: Path) -> None:
    asked = threading.Event()
    asked.set()
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        with running_redis(tmp_path / "redis") as url:
            engines = {DeliveryKind.INBOUND: cast(Engine[Any], None)}  # no job comes
            assert worker_module._take_jobs(engines, open_redis(url), asked)
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def test_a_hanging_authorization_server_does_not_hold_up_those_of_others(target: HttpTarget, tmp_path: Path) -> None:
    settings = load_settings({"PILLARBOX_DATA": str(tmp_path)})
    gate = RecipientGate(settings, AuthorizationClient(forwarder()), None)
    client = ClientFacts("192.0.2.7", "client.example", "sender@example.com")

    def route(path: str) -> Route:
        callback = AuthorizationCallback(target.url(path))
        return Route("a", path, None, TARGET, AddressSettings(authorization=callback))

    async def ask() -> float:
        hanging = [
            asyncio.ensure_future(gate.refusal(client, InboundEnvelope(), "a@b.example", route("/sleep/4")))
            for _ in range(ASKING_THREADS)
        ]
        await asyncio.sleep(0.2)
        started = time.monotonic()
        assert await gate.refusal(client, InboundEnvelope(), "c@d.example", route("/ok")) is None
        took = time.monotonic() - started
        await asyncio.gather(*hanging)
        return took

    took = asyncio.run(ask())
    gate.stop()
    assert took < 2.0


# --- leases ---


class SlowBlobs(DiskBlobs):
    """A store that takes its time, on the test's clock."""

    def __init__(self, folder: Path, pause: Callable[[], None]) -> None:
        super().__init__(folder)
        self._pause = pause

    def put_file(self, key: str, path: Path) -> None:
        self._pause()
        super().put_file(key, path)


def test_the_lease_of_an_inline_mail_begins_when_it_is_stored(
    sqlite_mail: Deliveries, tmp_path: Path, target: HttpTarget
) -> None:
    now = [NOW_MS]
    leases: list[int] = []

    def pause() -> None:
        now[0] += 90 * SECOND_MS  # an object store that has hung for a while, or a long queue before the one clerk

    blobs = SlowBlobs(tmp_path / "blobs", pause)
    made = make_attempt(tmp_path, sqlite_mail.database, forwarder(), blobs, lambda: now[0])
    inline = InlineDelivery(sqlite_mail.database, blobs, made, lambda: now[0], threads=4, host_concurrency=4)
    inner = inline._attempt

    class Watched:
        limit_ms = staticmethod(inner.limit_ms)

        def __call__(self, delivery: object, timeout_s: float) -> FinishedAttempt:
            other = Database(f"sqlite:///{tmp_path / 'one.sqlite3'}")
            leases.extend(row[0] for row in other.execute("SELECT due_ms FROM delivery"))
            other.close()
            return inner(delivery, timeout_s)  # type: ignore[arg-type]

    inline._attempt = Watched()  # type: ignore[assignment]
    path = tmp_path / "spooled"
    path.write_bytes(b"Subject: x\r\n\r\n" + b"x" * 1000)
    route = Route(sqlite_mail.account.account_id, sqlite_mail.address(target.url()), None, target.url(), INLINE)
    large = accepted_mail(NOW_MS, (("in@pillarbox.test", route),), raw=None, size=200_000)
    large = replace(large, blob_key=large.message_id)
    message = SpooledMessage(size=200_000, md5="0" * 32, head=b"", raw=None, path=path)
    asyncio.run(inline.deliver(large, message))
    inline.stop()
    assert leases
    assert leases[0] > now[0]


# --- notices ---


def bouncing(mail: Deliveries, tmp_path: Path, settings: AddressSettings) -> Callable[[], FinishedAttempt]:
    """Attempts at one mail from a sender whose SPF passed, each refused for good by the target."""
    mail.accept(TARGET)
    mail.execute("UPDATE address SET settings = ?", (settings.to_json(),))
    verdicts = Verdicts(spf=SpfVerdict(AuthResult.PASS, "example.net"))
    mail.execute("UPDATE message SET verdicts = ?", (verdicts.to_json(),))
    bouncer = Bouncer(load_settings({"PILLARBOX_DATA": str(tmp_path)}), lambda: NOW_MS)

    def make() -> FinishedAttempt:
        mail.execute("DELETE FROM target_health")
        (claimed,) = mail.claim().deliveries
        outcome = Outcome(Verdict.PERMANENT, 422, NOW_MS, 50)
        finished = FinishedMail(claimed, outcome, bounce=bouncer.compose(claimed, b"Subject: x\r\n\r\n", outcome))
        with mail.database.transaction():
            record(mail.database, [finished], HTTP_POLICY, NOW_MS)
        return finished

    return make


def test_a_replay_that_is_refused_again_sends_no_second_bounce(sqlite_mail: Deliveries, tmp_path: Path) -> None:
    attempt = bouncing(sqlite_mail, tmp_path, AddressSettings(bounce_rejected=True))
    delivery_id = attempt().delivery.delivery_id
    replay_one(sqlite_mail.database, sqlite_mail.account.account_id, delivery_id, NOW_MS)
    attempt()
    assert sqlite_mail.execute("SELECT count(*) FROM delivery WHERE kind = 'bounce'") == [(1,)]


def test_an_inline_mail_that_was_queued_with_250_and_is_then_rejected_bounces(
    sqlite_mail: Deliveries, tmp_path: Path
) -> None:
    attempt = bouncing(sqlite_mail, tmp_path, replace(INLINE, bounce_rejected=True))  # made by a worker: 250 was said
    assert attempt().bounce is not None


# --- a row that cannot be read, an attempt that raises ---


def test_one_row_that_cannot_be_read_does_not_end_the_clerk_of_every_worker(mail: Deliveries) -> None:
    mail.accept(TARGET)
    mail.accept("https://two.example/in")
    # Written by a newer version, which was then taken back; or while nodes are upgraded one by one.
    mail.execute("UPDATE address SET settings = ? WHERE id = ?", ('{"mode": "digest"}', mail.address(TARGET)))
    claimed = claim(
        mail.database, claim_request(), load_received, NOW_MS
    ).deliveries  # raises: `Engine._run` ends the process
    assert [delivery.target for delivery in claimed] == ["https://two.example/in"]


def test_an_error_callback_never_raises(sqlite_mail: Deliveries) -> None:
    sqlite_mail.accept(TARGET)
    (claimed,) = sqlite_mail.claim().deliveries
    # What raises in the pool is lost there: the place in the engine is never given back, and a stop waits for it.
    attempt = ErrorCallbackAttempt(forwarder(), system_clock)
    assert attempt(replace(claimed, detail='{"status": 500}')).outcome.verdict is Verdict.TEMPORARY


# --- the end of a process ---


def test_a_receiver_with_an_inline_post_in_flight_ends_in_time(tmp_path: Path, target: HttpTarget) -> None:
    settings = AddressSettings(mode=DeliveryMode.INLINE, inline_deadline_s=40)
    with running_gateway(tmp_path, "redis", "smtp") as gateway:
        mailbox = gateway.add_address(target.url("/sleep/30"), settings=settings.to_json())
        client = gateway.connect()
        client.mail("sender@example.com")
        client.rcpt(mailbox)
        client.docmd("DATA")
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        target.wait_for(1)
        started = time.monotonic()
        gateway.stop("smtp")  # fails after 12 s
        assert time.monotonic() - started < 10


# --- more ---


def test_what_was_found_out_is_kept_when_a_store_fails_afterwards(
    sqlite_mail: Deliveries, tmp_path: Path, target: HttpTarget
) -> None:
    sqlite_mail.accept(target.url())
    (claimed,) = sqlite_mail.claim().deliveries
    flag = Rule("0" * 16, None, 1, RuleAction.FLAG, read_conditions('{"subject_pattern": ["(?i)hello"]}'), "seen")
    store = StoreSettings(
        kind=StoreKind.S3,
        bucket="b",
        region="r",
        endpoint="http://127.0.0.1:9",
        access_key_id="k",
        secret_access_key="s",
    )
    settings = replace(claimed.settings, message_store=store)
    attempt = make_attempt(tmp_path, sqlite_mail.database, forwarder(), DiskBlobs(tmp_path / "blobs"), lambda: NOW_MS)
    finished = attempt(replace(claimed, rules=(flag,), settings=settings))
    assert finished.outcome.verdict is Verdict.TEMPORARY
    assert finished.outcome.is_our_fault
    # Else each attempt asks DNS and scanners anew: three days later keys have changed, and the verdict with them.
    assert finished.judgement is not None
    assert finished.body_text


@pytest.mark.parametrize("result", [AuthResult.NEUTRAL, AuthResult.TEMPERROR, AuthResult.PERMERROR, None])
def test_a_sender_of_ours_is_forwarded_as_it_came_only_when_spf_passed(result: AuthResult | None) -> None:
    verdicts = Verdicts(spf=None if result is None else SpfVerdict(result, OURS))
    forged = replace(FORWARD, envelope=replace(ENVELOPE, mail_from=f"boss@{OURS}", verdicts=verdicts))
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        MailForwarder(edge.transport, SRS, OUR_NAME, system_clock).send(forged)
        senders = [taken.mail_from for taken in peer.taken]
    # From our host it passes SPF as ours, and with From: boss@ours DMARC too.
    assert not any(f"<boss@{OURS}>" in sender for sender in senders)


def test_messages_that_wait_for_a_check_are_bounded(tmp_path: Path) -> None:
    """The task outlives its session, so connections do not bound it: whoever hangs up after the dot leaves one more."""
    let_go = threading.Event()

    def hangs(connection: object, number: int) -> None:
        let_go.wait(30)

    with running_raw_server(hangs) as port:
        environment = {"PILLARBOX_SPAMD": f"127.0.0.1:{port}", "PILLARBOX_INSPECTION_THREADS": "1"}
        settings = load_settings({"PILLARBOX_DATA": str(tmp_path), **environment})
        gate = MessageGate(settings, open_inspector(settings, system_clock))
        route = Route("a", "b", None, TARGET, AddressSettings(on_spam=FailAction.REJECT))
        raw = b"Subject: x\r\n\r\nx\r\n"
        message = SpooledMessage(size=len(raw), md5="0" * 32, head=raw, raw=raw, path=None)

        async def flood() -> int:
            mails = [accepted_mail(NOW_MS, (("in@pillarbox.test", route),), raw=raw) for _ in range(2_000)]
            tasks = [asyncio.ensure_future(gate.examine(mail, message)) for mail in mails]
            _, waiting = await asyncio.wait(tasks, timeout=1)
            gate.stop()
            let_go.set()
            for task in waiting:
                task.cancel()
            return len(waiting)

        assert asyncio.run(flood()) < 2_000


def test_a_retry_of_a_forwarded_mail_rings_for_its_kind(database: Database, tmp_path: Path) -> None:
    api = Api(database, create_account(database, "test", NOW_MS), api_settings(tmp_path))
    address_id = api.new_address(MAILBOX)
    status_id = api.receive(address_id, target=MAILBOX)
    assert api.post(f"/incoming_statuses/{status_id}/retry").status_code == 202
    assert DeliveryKind.FORWARD in api.rung
