"""The real scanners: spamd with SpamAssassin's rules, rspamd and clamd, each on a port or socket of its own.

None of them touches the network: spamd makes local tests only, rspamd has a configuration of ten lines and one rule,
clamd one signature. Programs that check mail must not find what they look for in this repository, so the test strings
are put together here.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port
from tests.programs import need_program

EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"-".join([b"EICAR", b"STANDARD", b"ANTIVIRUS", b"TEST", b"FILE!$H+H*"])
"""What every virus scanner calls a virus (https://www.eicar.org/download-anti-malware-testfile/)."""
GTUBE = "*".join(["XJS", "C4JDBQADN1.NSBN3", "2IDNEN", "-".join(["GTUBE", "STANDARD-ANTI-UBE-TEST-EMAIL"]), "C.34X"])
"""What every spam scanner calls spam (https://spamassassin.apache.org/gtube/)."""
STREAM_LIMIT = 12 * 1024 * 1024
"""clamd's `StreamMaxLength` here."""
ROOT = 0
START_S = 30.0
UNPRIVILEGED = "nobody"
SIGNATURE = "Test.Eicar"
FOUND_AS = f"{SIGNATURE}.UNOFFICIAL"  # clamd says so of every signature that ClamAV did not sign

SPAMD_RULES = r"""
header SEEN_CLIENT X-Spam-Relays-External =~ /^\[ ip=198\.18\.0\.7 rdns=mail\.sender\.test helo=helo\.test by=mx\.test /
describe SEEN_CLIENT The client, its name and its HELO
score SEEN_CLIENT 0.5
header SEEN_SENDER EnvelopeFrom:addr =~ /^from\@sender\.test$/
describe SEEN_SENDER The envelope sender
score SEEN_SENDER 0.25
header SEEN_RECIPIENT X-Envelope-To =~ /two\@here\.test/
describe SEEN_RECIPIENT The second recipient
score SEEN_RECIPIENT 0.125
"""
RSPAMD_CONF = """
options {{
  pidfile = "{folder}/rspamd.pid";
  cache_file = "{folder}/symbols.cache";
  history_file = "{folder}/history";
  hs_cache_dir = "{folder}/";
  control_socket = "{folder}/control.sock mode=0600";
  url_tld = "{folder}/tld";  # compiling the public list takes ten seconds
  tempdir = "{folder}";
  filters = "";
  enable_test_patterns = true;
  disable_hyperscan = true;
  max_message = 4mb;
  dns {{ nameserver = ["127.0.0.1:1"]; timeout = 0.1s; retransmits = 1; sockets = 1; }}
}}
logging {{ type = "console"; level = "warning"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 2; }}
actions {{ reject = 15; add_header = 6; greylist = 4; }}
lua = "{folder}/rules.lua";
"""
RSPAMD_RULES = """
rspamd_config.SEEN_FACTS = {
  callback = function(task)
    local from = task:get_from('smtp')
    local seen = {tostring(task:get_from_ip()), task:get_helo() or '?', from and from[1] and from[1].addr or '?'}
    for _, recipient in ipairs(task:get_recipients('smtp') or {}) do seen[#seen + 1] = recipient.addr end
    rspamd_logger.warnx(task, 'seen: %s', table.concat(seen, ' '))
    return true, 1.0, seen
  end,
  score = 1.5,
  description = 'What the client said',
}
rspamd_config.SAYS_SALE = {
  callback = function(task) return (task:get_subject() or ''):find('SALE') ~= nil end,
  score = 7.25,
  description = 'A sale',
}
rspamd_logger = require 'rspamd_logger'
"""
CLAMD_CONF = """
DatabaseDirectory {folder}/db
TemporaryDirectory {folder}
TCPSocket {port}
TCPAddr 127.0.0.1
LocalSocket {folder}/clamd.sock
LocalSocketMode 666
Foreground yes
MaxThreads 8
StreamMaxLength {limit}
"""


@dataclass(frozen=True, slots=True)
class ScannerServer:
    """A running scanner."""

    port: int
    socket_path: Path | None
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    def log(self) -> str:
        """What it has written."""
        return self.log_path.read_text(errors="replace")


@contextmanager
def running_spamd(rules: str = SPAMD_RULES, socket_path: Path | None = None) -> Iterator[ScannerServer]:
    """SpamAssassin with Debian's rules and some of ours, local tests only."""
    program = need_program("spamd")
    with _folder("spamd") as folder:
        site = folder / "site"
        site.mkdir()
        for plugins in Path("/etc/spamassassin").glob("*.pre"):
            shutil.copy(plugins, site)
        (site / "local.cf").write_text(rules)
        port = free_port()
        where = ["--socketpath", str(socket_path), "--socketmode=666"] if socket_path else ["-p", str(port)]
        options = ["-L", "-x", f"--siteconfigpath={site}", "-H", str(folder), "--syslog=stderr", "-m", "4", *where]
        if not socket_path:
            options += ["-i", "127.0.0.1"]
        if os.geteuid() == ROOT:
            options += ["-u", UNPRIVILEGED]
        ping = (b"PING SPAMC/1.2\r\n\r\n", b"PONG")
        with _running([program, *options], folder, port, socket_path, ping) as server:
            yield server


@contextmanager
def running_rspamd() -> Iterator[ScannerServer]:
    """rspamd with two rules of ours and its test patterns."""
    program = need_program("rspamd")
    with _folder("rspamd") as folder:
        port = free_port()
        (folder / "tld").write_text("test\nexample\n")
        (folder / "rules.lua").write_text(RSPAMD_RULES)
        (folder / "rspamd.conf").write_text(RSPAMD_CONF.format(folder=folder, port=port))
        command = [program, "-f", "-c", str(folder / "rspamd.conf")]
        if os.geteuid() == ROOT:
            command += ["-u", UNPRIVILEGED, "-g", "nogroup"]
        with _running(command, folder, port, None, (b"GET /ping HTTP/1.0\r\n\r\n", b"pong")) as server:
            yield server


@contextmanager
def running_clamd() -> Iterator[ScannerServer]:
    """clamd with a signature for EICAR and nothing else, on a port and on a socket."""
    program = need_program("clamd")
    with _folder("clamd") as folder:
        port = free_port()
        (folder / "db").mkdir()
        (folder / "db" / "test.ndb").write_text(f"{SIGNATURE}:0:*:{EICAR.hex()}\n")
        configuration = CLAMD_CONF.format(folder=folder, port=port, limit=STREAM_LIMIT)
        if os.geteuid() == ROOT:
            configuration += f"User {UNPRIVILEGED}\n"
        (folder / "clamd.conf").write_text(configuration)
        command = [program, "-c", str(folder / "clamd.conf")]
        with _running(command, folder, port, folder / "clamd.sock", (b"zPING\0", b"PONG")) as server:
            yield server


@contextmanager
def _folder(scanner: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"pillarbox-{scanner}-"))
    folder.chmod(0o755)
    if os.geteuid() == ROOT:
        shutil.chown(folder, UNPRIVILEGED)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(
    command: Sequence[str], folder: Path, port: int, socket_path: Path | None, ping: tuple[bytes, bytes]
) -> Iterator[ScannerServer]:
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)
    server = ScannerServer(port, socket_path, process, log_path)
    try:
        _wait_until_alive(server, *ping)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own session: itself and its children
            process.wait(10)


def _wait_until_alive(server: ScannerServer, question: bytes, answer: bytes) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(server, question, answer):
        assert server.process.poll() is None, server.log()
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.02)


def _answers(server: ScannerServer, question: bytes, answer: bytes) -> bool:
    by_path = server.socket_path is not None
    try:
        with socket.socket(socket.AF_UNIX if by_path else socket.AF_INET) as client:
            client.settimeout(5)
            client.connect(str(server.socket_path) if by_path else ("127.0.0.1", server.port))
            client.sendall(question)
            received = b""
            while answer not in received and (piece := client.recv(4096)):
                received += piece
            return answer in received
    except OSError:
        return False
