"""The submission process as a process: killed in a burst, stopped, kept running by `up`."""

from __future__ import annotations

import smtplib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from cli.setup import credentials
from core.services.accounts import NewAccount
from tests.gateway import Gateway, any_certificate, running_gateway
from tests.ports import free_port
from tests.smtp_client import stuffed
from tests.submission_support import MAIL, QUEUED, TO, logged_in, secured, submit
from tests.up_process import PILLARBOX, running_up, wait_until

SENDERS = 8
BEFORE_KILL = 60


def test_what_was_answered_250_before_a_kill_is_in_the_database(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "submission", PILLARBOX_TARPIT_MS="0") as gateway:
        acked: list[str] = []

        def send_until_killed(number: int) -> None:
            message = MAIL + (b"x" * 200_000 + b"\r\n" if number % 2 else b"")  # in the row, and in the blob store
            with (
                suppress(OSError, AssertionError),
                closing(logged_in(gateway.submission_port, gateway.account)) as client,
            ):
                while True:
                    reply = submit(client, message)
                    if reply.startswith(QUEUED):
                        acked.append(reply.removeprefix(QUEUED))

        for _ in range(2):
            goal = len(acked) + BEFORE_KILL
            with ThreadPoolExecutor(SENDERS) as pool:
                sending = [pool.submit(send_until_killed, number) for number in range(SENDERS)]
                wait_until(lambda goal=goal: len(acked) >= goal, 60, gateway.log)  # type: ignore[misc]
                gateway.kill("submission")
                for future in sending:
                    future.result(30)
            gateway.start("submission")

        assert whole(gateway) >= set(acked)
        assert len(acked) == len(set(acked)) >= 2 * BEFORE_KILL
        gateway.submit(TO, MAIL)


def whole(gateway: Gateway) -> set[str]:
    """The messages of which everything is there: row, content, deliveries, events."""
    query = """
    SELECT m.id, r.blob_key FROM message m JOIN raw_message r ON r.message_id = m.id
    JOIN sent_message s ON s.message_id = m.id JOIN delivery d ON d.message_id = m.id
    WHERE EXISTS (SELECT 1 FROM event e WHERE e.message_id = m.id)"""
    with gateway.database.reading():
        rows = gateway.database.execute(query)
    folder = gateway.settings.data / "messages"
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    return {row[0] for row in rows if row[1] is None or row[1] in files}


def test_a_stop_finishes_the_message_in_hand_and_says_goodbye(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "submission") as gateway:
        busy, idle = (logged_in(gateway.submission_port, gateway.account) for _ in range(2))
        asked = secured(gateway.submission_port)
        assert asked.ask("AUTH LOGIN").startswith("334 ")  # waits for the client, so nobody waits for it
        busy.begin_data(TO)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(gateway.stop, "submission")
            assert idle.reply() == asked.reply() == "421 4.3.2 The server is restarting; try again at once"
            busy.send(stuffed(MAIL))
            assert busy.reply().startswith(QUEUED)
            assert stopping.result(20) == 0
        assert "Traceback" not in gateway.log()


def test_up_keeps_submission_running_and_a_mail_goes_through(tmp_path: Path) -> None:
    with running_up(tmp_path) as up:
        keys = up.credentials()
        account = NewAccount(keys["account_id"], keys["api_key"], keys["smtp_username"], keys["smtp_password"])
        port = keys["smtp_submission_port"]
        assert f"smtp://127.0.0.1:{port} (STARTTLS), smtps://127.0.0.1:{keys['smtp_submission_tls_port']}" in up.log()
        with closing(logged_in(port, account)) as client:
            assert submit(client, MAIL).startswith(QUEUED)
        up.kill_one("submission")
        wait_until(lambda: bool(up.pids("submission")) and _greets(port), 20, up.log)
        with closing(logged_in(port, account)) as client:
            assert submit(client, MAIL).startswith(QUEUED)
        assert up.stop() == 0
        assert up.remaining_processes() == []


def _greets(port: int) -> bool:
    with suppress(OSError), smtplib.SMTP("127.0.0.1", port, timeout=5):
        return True
    return False


def test_off_starts_no_submission(tmp_path: Path) -> None:
    with running_up(tmp_path, PILLARBOX_SUBMISSION="off", PILLARBOX_SUBMISSION_TLS="off") as up:
        assert up.pids("submission") == []
        assert "Submission    off" in up.log()
        assert not [name for name in up.credentials() if "submission" in name]
        done = subprocess.run(
            [*PILLARBOX, "submission"], env=up.environment, capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 1
    assert (
        done.stderr == "pillarbox: PILLARBOX_SUBMISSION and PILLARBOX_SUBMISSION_TLS: both are off; give one a place\n"
    )


def test_several_places_of_both_kinds_are_served(tmp_path: Path) -> None:
    clear, tls = [free_port(), free_port()], [free_port(), free_port()]
    places = {
        "PILLARBOX_SUBMISSION": ",".join(f"127.0.0.1:{port}" for port in clear),
        "PILLARBOX_SUBMISSION_TLS": ", ".join(f"localhost:{port}" for port in tls),
    }
    with running_gateway(tmp_path, "submission", **places) as gateway:
        for port in clear:
            logged_in(port, gateway.account).close()
        for port in tls:
            with smtplib.SMTP_SSL("127.0.0.1", port, context=any_certificate(), timeout=10) as client:
                assert client.login(gateway.account.smtp_username, gateway.account.smtp_password)[0] == 235
        keys = credentials(gateway.settings, gateway.account)
        assert keys["smtp_submission_port"] == clear[0]
        assert keys["smtp_submission_tls_port"] == tls[0]
