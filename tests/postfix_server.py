"""A real Postfix that relays everything to one port: its own configuration, queue and log in a temporary folder."""

from __future__ import annotations

import os
import shutil
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port
from tests.programs import missing, need_program

ROOT = 0
START_S = 20.0
WAIT_S = 30.0
MAIN_CF = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log/mail.log
maillog_file_prefixes = {folder}
myhostname = relay.example
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
default_transport = smtp:[127.0.0.1]:{next_hop}
smtp_host_lookup = native
smtp_dns_support_level = disabled
smtp_tls_security_level = may
smtp_destination_recipient_limit = 1000
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_limit = 2000
message_size_limit = 60000000
mailbox_size_limit = 0
minimal_backoff_time = 600s
queue_run_delay = 600s
"""
# service type private unpriv chroot wakeup maxproc command
MASTER_CF = """
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 600 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
showq unix n - n - - showq
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True, slots=True)
class Postfix:
    """A running instance."""

    folder: Path
    port: int

    def send(self, sender: str, recipients: Sequence[str], message: bytes, options: Sequence[str] = ()) -> None:
        """Submit by SMTP, exactly these bytes."""
        with smtplib.SMTP("127.0.0.1", self.port, "submitter.example", timeout=60) as client:
            client.ehlo()
            client.sendmail(sender, recipients, message, options)

    def sendmail(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Submit by the `sendmail` command."""
        command = [need_program("sendmail"), "-C", str(self.configuration), "-i", "-f", sender, "--", *recipients]
        subprocess.run(command, input=message, check=True, capture_output=True, timeout=30)

    def flush(self) -> None:
        """Try everything that was put off again, now."""
        subprocess.run([need_program("postqueue"), "-c", self.configuration, "-f"], check=True, timeout=30)

    def queue(self) -> str:
        """What waits, as `postqueue -p` shows it."""
        command = [need_program("postqueue"), "-c", str(self.configuration), "-p"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def log(self) -> str:
        """What it has logged."""
        path = self.folder / "log" / "mail.log"
        return path.read_text() if path.exists() else ""

    def wait_for_log(self, *parts: str) -> str:
        """Wait for a line that holds all these parts; gives it."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for line in self.log().splitlines():
                if all(part in line for part in parts):
                    return line
            time.sleep(0.05)
        raise AssertionError(f"no line with {parts} in\n{self.log()}")

    def wait_until_empty(self) -> None:
        """Wait until nothing is queued."""
        deadline = time.monotonic() + WAIT_S
        while "Mail queue is empty" not in (queue := self.queue()):
            assert time.monotonic() < deadline, queue + self.log()
            time.sleep(0.05)

    @property
    def configuration(self) -> Path:
        """The folder of `main.cf`."""
        return self.folder / "etc"


@contextmanager
def running_postfix(
    next_hop: int, main_cf: str = "", master_cf: str = "", prefix: Sequence[str] = ()
) -> Iterator[Postfix]:
    """Start an instance that sends all mail to a port of this machine; stop and remove it afterwards.

    `main_cf` and `master_cf` are further lines of its configuration, in the first of which `{folder}` is the folder of
    `main.cf`; `prefix` is what it is started by, if it needs surroundings of its own.
    """
    program = need_program("postfix")
    if os.geteuid() != ROOT:
        missing("Postfix starts as root only")
    folder = Path(tempfile.mkdtemp(prefix="pillarbox-postfix-"))
    try:
        postfix = _configure(folder, next_hop, main_cf, master_cf)
        control = [program, "-c", str(postfix.configuration)]
        subprocess.run([*prefix, *control, "start"], check=True, capture_output=True, timeout=60)
        try:
            _wait_until_greeted(postfix)
            yield postfix
        finally:
            subprocess.run([*control, "stop"], check=False, capture_output=True, timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, next_hop: int, main_cf: str, master_cf: str) -> Postfix:
    port = free_port()
    folder.chmod(0o755)  # its daemons are not root
    for name in ("etc", "queue", "data", "log"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    further = main_cf.replace("{folder}", str(folder / "etc"))
    usual = MAIN_CF.format(folder=folder, next_hop=next_hop)
    (folder / "etc" / "main.cf").write_text(_without(usual, further) + further)
    (folder / "etc" / "master.cf").write_text(MASTER_CF.format(port=port) + master_cf)
    return Postfix(folder, port)


def _without(usual: str, further: str) -> str:
    """The usual lines but for those that are set anew: each process would warn of that, and master, which starts
    whoever takes the warnings, waits for ever once ten of them lie in the socket's queue."""
    anew = {line.partition("=")[0].strip() for line in further.splitlines()}
    return "".join(f"{line}\n" for line in usual.splitlines() if line.partition("=")[0].strip() not in anew - {""})


def _wait_until_greeted(postfix: Postfix) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with smtplib.SMTP("127.0.0.1", postfix.port, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, postfix.log()
            time.sleep(0.05)
