"""`python -m bench.sending`: mails a second from API to a host that takes them, and Postfix with OpenDKIM beside it.

Both relay the same message over kept connections to the same sink, both keep it on disk before they say yes, and both
sign with an RSA key of 2048 bits. Our way in is HTTP with JSON, Postfix's is SMTP.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import running_module, usage, wait_for_port
from core.clock import system_clock
from core.sending.key_rotation import KeyState
from core.sending.sending_domains import KeyPair, new_key
from core.store.db import Database
from tests.gateway import Gateway, running_gateway
from tests.ports import free_port
from tests.postfix_server import Postfix, running_postfix
from tests.programs import need_program

MAILS = 3_000
CLIENTS = 8
BODY_CHARACTERS = 4_000
PATIENCE_S = 180
DOMAIN = "bench.example"
SELECTOR = "bench"
STARTED = ("redis", "worker", "web")
DATABASE_VARIABLE = "BENCH_DATABASE_URL"
_INSERT_DOMAIN = """
INSERT INTO sending_domain (id, account_id, domain, dkim_verified, return_path_verified, spf_verified, signing_domain,
                            next_check_ms, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_KEY = """
INSERT INTO domain_key (sending_domain_id, selector, algorithm, state, since_ms, private_pem, public_record)
VALUES (?, ?, ?, ?, ?, ?, ?)"""


@dataclass(frozen=True, slots=True)
class Run:
    """One burst."""

    accepted_per_s: float
    delivered_per_s: float
    cpu_ms: dict[str, float]
    """Processor time for each mail, by process."""


def main() -> None:
    """Measure both and print them as Markdown."""
    pair = new_key()
    sink_port = free_port()
    with tempfile.TemporaryDirectory(prefix="pillarbox-bench-") as folder, running_module("bench.mail_sink", sink_port):
        url = os.environ.get(DATABASE_VARIABLE)
        relay = {"PILLARBOX_SMART_HOST": f"127.0.0.1:{sink_port}"}
        with running_gateway(Path(folder), *STARTED, database_url=url, **relay) as gateway:
            _add_domain(gateway, pair)
            text = _run_api(gateway, sink_port, {"plain": "x" * BODY_CHARACTERS})
            html = _run_api(gateway, sink_port, {"html": _html()})
        with running_postfix(sink_port) as postfix, _signing(postfix, pair) as milter:
            rival = _run_postfix(postfix, milter, sink_port)
    _print(text, html, rival)


def _add_domain(gateway: Gateway, pair: KeyPair) -> None:
    """A verified domain, without asking the DNS."""
    now_ms = system_clock()
    database: Database = gateway.database
    with database.transaction():
        values = ("be" * 8, gateway.account.account_id, DOMAIN, True, True, True, DOMAIN, now_ms + 10**9, now_ms)
        database.execute(_INSERT_DOMAIN, values)
        key = (pair.algorithm, KeyState.ACTIVE, now_ms, pair.private_pem, pair.public_record)
        database.execute(_INSERT_KEY, ("be" * 8, SELECTOR, *key))


def _html() -> str:
    rows = "".join(f'<p><a href="https://shop.example/item/{n}">Item {n}</a> is ready</p>' for n in range(20))
    return f"<html><body>{rows}{'<p>word</p>' * 180}</body></html>"


def _run_api(gateway: Gateway, sink_port: int, body: dict[str, str]) -> Run:
    request = {"from": f"news@{DOMAIN}", "to": "reader@example.net", "subject": "A measured mail", **body}
    names = [name for name in STARTED if name in gateway.processes]
    before, _ = _count(sink_port)
    used = {name: usage(gateway.processes[name].pid).cpu_s for name in names}
    started = time.monotonic()
    _post_many(gateway, json.dumps(request))
    accepted = time.monotonic()
    delivered = _wait_for_sink(sink_port, before + MAILS)
    cost = {name: usage(gateway.processes[name].pid).cpu_s - used[name] for name in names}
    return Run(
        MAILS / (accepted - started),
        MAILS / (delivered - started),
        {name: 1000 * seconds / MAILS for name, seconds in cost.items()},
    )


def _post_many(gateway: Gateway, body: str) -> None:
    """By ApacheBench: a client in C, so that its own time hardly counts."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(body)
        file.flush()
        url = f"http://{gateway.settings.http}/api/v0.1/{gateway.account.account_id}/messages"
        command = [
            *(need_program("ab"), "-k", "-q", "-n", str(MAILS), "-c", str(CLIENTS), "-T", "application/json"),
            *("-H", f"Authorization: Bearer {gateway.account.api_key}", "-p", file.name, url),
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    refused = re.search(r"Non-2xx responses:\s+(\d+)", output)
    if refused:
        sys.exit(f"{refused[1]} of {MAILS} requests were refused\n{output}")


def _run_postfix(postfix: Postfix, milter_pid: int, sink_port: int) -> Run:
    """The same by `smtp-source`, over kept connections."""
    size = BODY_CHARACTERS + 300
    command = [
        *(need_program("smtp-source"), "-s", str(CLIENTS), "-m", str(MAILS), "-l", str(size), "-d"),
        *("-f", f"news@{DOMAIN}", "-t", "reader@example.net", f"127.0.0.1:{postfix.port}"),
    ]
    before, _ = _count(sink_port)
    used = _postfix_cpu_s(postfix) + usage(milter_pid).cpu_s
    started = time.monotonic()
    subprocess.run(command, check=True)
    accepted = time.monotonic()
    delivered = _wait_for_sink(sink_port, before + MAILS)
    cost = _postfix_cpu_s(postfix) + usage(milter_pid).cpu_s - used
    return Run(MAILS / (accepted - started), MAILS / (delivered - started), {"all": 1000 * cost / MAILS})


def _postfix_cpu_s(postfix: Postfix) -> float:
    """Of the master, its daemons, and those daemons that have ended."""
    pid = int((postfix.folder / "queue" / "pid" / "master.pid").read_text())
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return usage(pid).cpu_s + ended


@contextmanager
def _signing(postfix: Postfix, pair: KeyPair) -> Iterator[int]:
    """Have Postfix sign by OpenDKIM; gives its pid."""
    folder = Path(tempfile.mkdtemp(prefix="pillarbox-opendkim-"))
    folder.chmod(0o711)  # `smtp-sink` is not root
    socket_path = folder / "milter"  # over TCP each mail waits 90 ms for delayed acknowledgements
    key = folder / "key.pem"
    key.write_text(pair.private_pem)
    key.chmod(0o600)
    configuration = folder / "opendkim.conf"
    configuration.write_text(
        f"Mode s\nDomain {DOMAIN}\nSelector {SELECTOR}\nKeyFile {key}\nSocket local:{socket_path}\nUMask 0000\n"
        "Canonicalization relaxed/relaxed\nInternalHosts 127.0.0.1\nRequireSafeKeys no\nSyslog no\n"
        f"PidFile {folder / 'pid'}\nOversignHeaders From\n"
    )
    process = subprocess.Popen([need_program("opendkim"), "-f", "-x", str(configuration)])
    try:
        _wait_for(socket_path.exists)
        milter = (f"smtpd_milters=unix:{socket_path}", "milter_default_action=tempfail", "milter_protocol=6")
        settings = (*milter, "in_flow_delay=0")  # by default it slows its clients down where the disk is slow
        control = ["-c", str(postfix.configuration)]
        subprocess.run([need_program("postconf"), *control, "-e", *settings], check=True)
        subprocess.run([need_program("postfix"), *control, "reload"], check=True, capture_output=True)
        _prove_signed(postfix, folder)
        yield process.pid
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _prove_signed(postfix: Postfix, folder: Path) -> None:
    """A rival that does not sign would be no rival: OpenDKIM's own tester reads the key, and one mail is looked at."""
    port = free_port()
    taken = folder / "taken"
    taken.mkdir()
    taken.chmod(0o777)
    time.sleep(1)  # a reload has no end to wait for
    with subprocess.Popen(
        [need_program("smtp-sink"), "-u", "nobody", "-d", f"{taken}/%s.", f"127.0.0.1:{port}", "10"]
    ) as sink:
        wait_for_port(port)
        control = ["-c", str(postfix.configuration)]
        hop = subprocess.run(
            [need_program("postconf"), *control, "-h", "default_transport"], check=True, capture_output=True, text=True
        ).stdout.strip()
        _relay_to(postfix, f"smtp:[127.0.0.1]:{port}")
        postfix.send(f"news@{DOMAIN}", ["a@example.net"], f"From: news@{DOMAIN}\r\nSubject: x\r\n\r\nx\r\n".encode())
        postfix.wait_until_empty()
        _relay_to(postfix, hop)
        sink.terminate()
    if not any(b"DKIM-Signature" in path.read_bytes() for path in taken.iterdir()):
        sys.exit("Postfix does not sign: nothing to compare with")


def _relay_to(postfix: Postfix, transport: str) -> None:
    control = ["-c", str(postfix.configuration)]
    subprocess.run([need_program("postconf"), *control, "-e", f"default_transport={transport}"], check=True)
    subprocess.run([need_program("postfix"), *control, "reload"], check=True, capture_output=True)
    time.sleep(1)


def _count(port: int) -> tuple[int, float]:
    """How many mails the sink has taken, and when the last came (`time.monotonic`)."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.recv(200)
        client.sendall(b"COUNT\r\n")
        _, count, last_at = client.recv(200).split()
    return int(count), float(last_at)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("OpenDKIM does not start")
        time.sleep(0.05)


def _wait_for_sink(port: int, count: int) -> float:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        seen, last_at = _count(port)
        if seen >= count:
            return last_at
        time.sleep(0.05)
    sys.exit(f"only {seen} of {count} mails arrived within {PATIENCE_S} s")


def _print(text: Run, html: Run, rival: Run) -> None:
    print(f"{MAILS} mails, {CLIENTS} clients, one worker; text of {BODY_CHARACTERS} characters, HTML of 20 links\n")
    print("| | text by API | HTML, tracked, by API | text, Postfix with OpenDKIM |\n|---|---|---|---|")
    runs = (text, html, rival)
    print(f"| accepted a second | {' | '.join(f'{run.accepted_per_s:.0f}' for run in runs)} |")
    print(f"| delivered a second | {' | '.join(f'{run.delivered_per_s:.0f}' for run in runs)} |")
    ratios = [run.delivered_per_s / rival.delivered_per_s for run in runs]
    print(f"| **delivered / Postfix** | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    totals = [sum(run.cpu_ms.values()) for run in runs]
    print(f"| CPU, ms a mail | {' | '.join(f'{total:.2f}' for total in totals)} |")
    for name in STARTED:
        shown = [f"{run.cpu_ms[name]:.2f}" if name in run.cpu_ms else "" for run in runs]
        print(f"| of it {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
