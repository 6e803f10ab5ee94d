"""A tracked mail in a real browser: it fetches the pixel, follows a link, and reads each address as we do."""

from __future__ import annotations

import html as entities
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from core.sending.tracking_answers import TrackingResponse, click_response, open_response, unknown_link_response
from core.sending.tracking_targets import trackable_target
from core.sending.tracking_tokens import Clicked, Opened, TrackingTokens
from outbound.html_links import find_html_links
from outbound.tracking import Tracker
from tests.ports import free_port
from tests.programs import find_program, missing

DELIVERY = "0198f3c2-7a10-7abc-8def-0123456789ab"
TOKENS = TrackingTokens(b"a secret of all processes")
TIMEOUT_S = 60
LANDING = "<!DOCTYPE html><meta charset=utf-8><p id=landed></p><script>landed.textContent = location.href</script>"
ODD = """<!DOCTYPE html><meta charset=utf-8><body>
<a href="https://a.test/?a=1&copy=2&reg;=3&amp;d=4&lt=5&ampx;">1</a> <a href=https://a.test/unquoted/?x=y/>2</a>
<A HREF='  https://B\u00fccher.example/\u00fc?\u00fc#\u00fc \n'>3</A> <a href="https://a.test/a b&#x20;c&#9;d">4</a>
<a href="https://a.test/1" href="https://a.test/2">5</a> <a/href="&#104;ttps&colon;//A.TEST:443/./x/../y">6</a>
<a title="> <a href='https://no.test/'>" href='https://a.test/"q"'>7</a> <!-- <a href="https://no.test/"> -->
<a href="https://a.test/\u2028\u00a0|^`{}'[]\\x">8</a> <a href="https://stra\u00dfe.example">9</a>
<a href="https://a.test/&notit;&notin;&Acy;&#128;&#x80;">10</a> <map><area href="http://a.test:80"></map>
</body>"""


@dataclass
class Seen:
    """What came to the little server."""

    mail: str = ""
    opened: list[str] = field(default_factory=list)
    clicked: list[Clicked] = field(default_factory=list)

    def answer(self, path: str) -> TrackingResponse:
        name = path.rpartition("/")[2]
        read = TOKENS.read(name)
        if isinstance(read, Opened):
            self.opened.append(read.delivery_id)
            return open_response()
        if isinstance(read, Clicked):
            self.clicked.append(read)
            return click_response(read.link.target)
        page = self.mail if path == "/mail" else LANDING
        if path == "/mail" or path.startswith("/landed"):
            return TrackingResponse(200, {"Content-Type": "text/html; charset=utf-8"}, page.encode())
        return unknown_link_response()


@pytest.fixture
def chromium(tmp_path: Path) -> list[str]:
    program = find_program("chromium")
    if program is None:
        missing("chromium is not installed (Debian package chromium)")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    return [str(program), *options, "--virtual-time-budget=10000"]


@pytest.fixture
def served() -> Iterator[tuple[Seen, str]]:
    seen, port = Seen(), free_port()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = seen.answer(self.path)
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield seen, f"http://127.0.0.1:{port}"
    server.shutdown()
    thread.join()
    server.server_close()


def dom_of(chromium: list[str], url: str) -> str:
    done = subprocess.run([*chromium, url], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return done.stdout


def test_opening_a_mail_and_following_its_link(chromium: list[str], served: tuple[Seen, str]) -> None:
    seen, here = served
    target = f"{here}/landed?a=1&copy=2#part"
    mail = Tracker(TOKENS, f"{here}/track").prepare(f'<p>Hello</p><a href="{target}">look</a></body></html>')
    follow = '<script>onload = () => document.querySelector("a").click()</script>'
    seen.mail = f"<!DOCTYPE html>{mail.html_for(DELIVERY)}{follow}"
    page = dom_of(chromium, f"{here}/mail")
    assert seen.opened == [DELIVERY]
    assert [(click.delivery_id, click.link) for click in seen.clicked] == [(DELIVERY, mail.links[0])]
    assert f">{entities.escape(target, quote=False)}</p>" in page


def test_a_browser_reads_every_odd_address_as_we_do(chromium: list[str], served: tuple[Seen, str]) -> None:
    """The same address, once as the browser takes it from the mail, and once from our redirect."""
    seen, here = served
    links = find_html_links(ODD).links
    ours = [trackable_target(link.url) for link in links]
    assert None not in ours
    script = (
        "const all = [...document.querySelectorAll('a[href], area[href]')].map(a => a.href);"
        f"const ours = {json.dumps(ours)}.map(u => new URL(u).href);"
        "document.body.textContent = JSON.stringify([all, ours]);"
    )
    seen.mail = f"{ODD}<script>{script}</script>"
    match = re.search(r"<body>(.*)</body>", dom_of(chromium, f"{here}/mail"), re.DOTALL)
    assert match
    theirs, after_us = json.loads(entities.unescape(match[1]))
    assert after_us == theirs
    assert len(theirs) == 11
