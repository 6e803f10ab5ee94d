"""The built-in store: durable files, URLs that nobody can make or change, downloads that never run, days that go."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from werkzeug.test import TestResponse

from core.address_settings import AddressSettings
from core.built_in_store import FolderStore, ObjectFolderStore, open_built_in, purge_built_in, read_stored_link
from core.clock import DAY_MS, HOUR_MS, to_datetime
from core.config import Settings
from core.errors import NotFound, StorageUnavailable
from core.ids import new_time_ordered_id
from core.services.accounts import NewAccount
from core.services.secrets import STORING_SECRET, shared_secret
from core.store.db import Database
from core.store_settings import StoreKind, StoreSettings
from inbound.reading.parse import parse_message
from inbound.reading.parsed import Attachment, Disposition
from inbound.storing import Storing, open_storing
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS
from web.stored import stored

BUILT_IN = AddressSettings(attachment_store=StoreSettings(StoreKind.BUILT_IN))
PAGE = b"<script>alert(document.domain)</script>"
NAME = "20260101/" + "0f" * 16 + ".pdf"
HOSTILE_NAMES = [
    "report.pdf", "Ünï çødé 日本.pdf", "100% sure?.txt", "a#b&c=d;e.txt", "..", 'q"uo\'te.html', "x" * 190 + ".txt",
]  # fmt: skip


@dataclass
class Site:
    """A gateway's web application, its worker's storing, and a clock for both."""

    api: Api
    storing: Storing
    database: Database
    settings: Settings

    def store(self, content: bytes = PAGE, file_name: str = "page.html", content_type: str = "text/html") -> str:
        """Store one attachment as the only one of a new delivery; its URL."""
        attachment = Attachment(file_name, content_type, content, Disposition.ATTACHMENT, None)
        message = parse_message(b"Subject: x\r\n\r\n")
        made = self.storing.attachments(
            replace(message, attachments=(attachment,)), new_time_ordered_id(self.api.now_ms), BUILT_IN
        )
        url = made.attachments[0].url
        assert url is not None
        return url

    def get(self, url: str) -> TestResponse:
        """Fetch without any key."""
        parts = urlsplit(url)
        assert url.startswith(f"{self.settings.api_url}/stored/")
        return self.api.client.get(parts.path)


@pytest.fixture
def site(database: Database, account: NewAccount, tmp_path: Path) -> Site:
    settings = api_settings(tmp_path)
    api = Api(database, account, settings)
    if "stored" not in api.app.blueprints:
        api.app.register_blueprint(stored)
    return Site(api, open_storing(settings, database, lambda: api.now_ms), database, settings)


# --- what is served ---


@pytest.mark.parametrize("size", [0, 1, 200_000])
def test_a_stored_file_comes_back_byte_for_byte(site: Site, size: int) -> None:
    content = os.urandom(size)
    answer = site.get(site.store(content, "report.pdf", "application/pdf"))
    assert (answer.status_code, answer.data) == (200, content)
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Length"] == str(size)


def test_a_page_that_came_by_mail_is_never_shown_as_one_of_ours(site: Site) -> None:
    headers = site.get(site.store()).headers
    assert headers["Content-Disposition"] == 'attachment; filename="page.html"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize("file_name", HOSTILE_NAMES)
def test_any_file_name_survives_the_url(site: Site, file_name: str) -> None:
    url = site.store(file_name=file_name)
    assert unquote(url.rpartition("/")[2]) == file_name
    if file_name != "..":  # clients resolve that one; `inbound.reading.filenames` gives no such name
        assert site.get(url).status_code == 200


def test_the_declared_type_cannot_inject_anything(site: Site) -> None:
    answer = site.get(site.store(content_type="text/html\r\nSet-Cookie: a=b"))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert "Set-Cookie" not in answer.headers


def test_a_type_with_a_dot_is_not_taken_for_an_extension(site: Site) -> None:
    answer = site.get(site.store(file_name="noextension", content_type="a.b/c.d"))
    assert answer.headers["Content-Type"] == "a.b/c.d"


def test_head_tells_the_size_and_sends_nothing(site: Site) -> None:
    answer = site.api.client.head(urlsplit(site.store()).path)
    assert (answer.status_code, answer.headers["Content-Length"], answer.data) == (200, str(len(PAGE)), b"")


# --- who gets it ---


def change_token(change: Callable[[bytes], bytes]) -> Callable[[str], str]:
    def changed(url: str) -> str:
        start, token, name = url.rsplit("/", 2)
        data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        return f"{start}/{base64.urlsafe_b64encode(change(data)).rstrip(b'=').decode()}/{name}"

    return changed


@pytest.mark.parametrize("change", [
    lambda url: url.replace("page.html", "page.exe"),
    change_token(lambda data: data[:16] + b"9" + data[17:]),  # a later end
    change_token(lambda data: bytes([data[0] ^ 1]) + data[1:]),
    change_token(lambda data: data[:-1] + b"?"),
    change_token(lambda data: data[:16]),
    change_token(lambda data: data[:15]),
    change_token(lambda data: data[:16] + b"9999999999\n../../../etc/passwd\ntext/plain"),
    lambda url: url.rsplit("/", 2)[0] + "/x/page.html",
    lambda url: url.rsplit("/", 2)[0] + "/%C3%A4/page.html",
    lambda url: url.rsplit("/", 2)[0] + "/" + "A" * 5000 + "/page.html",
])  # fmt: skip
def test_a_url_that_we_did_not_make_is_404(site: Site, change: Callable[[str], str]) -> None:
    answer = site.get(change(site.store()))
    assert answer.status_code == 404
    assert answer.json is not None
    assert answer.json["status"] == 404
    assert "there is no such file" in answer.json["error"]


def test_a_url_is_good_for_its_hours_and_no_longer(site: Site) -> None:
    url = site.store()
    site.api.now_ms += site.settings.stored_url_hours * HOUR_MS - 1000
    assert site.get(url).status_code == 200
    site.api.now_ms += 1000
    answer = site.get(url)
    assert answer.status_code == 410
    assert answer.json is not None
    assert "expired" in answer.json["error"]


def test_a_retry_replaces_the_file_and_both_urls_work(site: Site, tmp_path: Path) -> None:
    attachment = Attachment("a.txt", "text/plain", b"x", Disposition.ATTACHMENT, None)
    message = replace(parse_message(b"Subject: x\r\n\r\n"), attachments=(attachment, attachment))
    delivery_id = new_time_ordered_id(NOW_MS)
    urls = []
    for _ in range(3):
        urls += [entry.url for entry in site.storing.attachments(message, delivery_id, BUILT_IN).attachments]
        site.api.now_ms += HOUR_MS
    files = [path for path in (tmp_path / "messages" / "stored").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {site.get(str(url)).status_code for url in urls} == {200}


def test_a_file_whose_time_is_over_is_410(site: Site) -> None:
    url = site.store()
    purge_built_in(site.settings, to_datetime(site.api.now_ms + DAY_MS), 100)
    answer = site.get(url)
    assert answer.status_code == 410
    assert answer.json is not None
    assert "not kept any more" in answer.json["error"]


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for name in ("../x", "/etc/passwd", "20260101/../../x", "20260101/" + "0" * 32 + ".pdf/..", NAME + "\n", ""):
        with pytest.raises(NotFound):
            store.open(name)
        with pytest.raises(NotFound):
            store.put(name, b"")


# --- the store itself, on a disk and in an object store ---


@pytest.fixture(params=["disk", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FolderStore | ObjectFolderStore:
    """obstore's store of a local folder drives the second; S3 itself is in test_blobs.py."""
    (tmp_path / "blobs").mkdir()
    if request.param == "disk":
        return FolderStore(tmp_path / "blobs" / "stored")
    return ObjectFolderStore(f"file://{tmp_path / 'blobs'}")


Store = FolderStore | ObjectFolderStore


def test_put_replaces_and_open_reads(store: Store) -> None:
    for content in (b"first", b"second" * 100_000):
        store.put(NAME, content)
        opened = store.open(NAME)
        assert (opened.size, b"".join(opened.chunks)) == (len(content), content)


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        store.open(NAME)


def test_days_go_oldest_first_up_to_the_limit(store: Store) -> None:
    days = ("20251230", "20251231", "20260101", "20260102")
    for day in days:
        for number in range(3):
            store.put(f"{day}/{number:032x}.txt", b"x")
    removed = [store.purge("20260102", 4) for _ in range(4)]
    assert removed == [4, 4, 1, 0]
    left = [day for day in days for number in range(3) if is_there(store, f"{day}/{number:032x}.txt")]
    assert left == ["20260102"] * 3


def is_there(store: Store, name: str) -> bool:
    try:
        store.open(name)
    except NotFound:
        return False
    return True


def test_a_purge_of_nothing_removes_nothing(store: Store, tmp_path: Path) -> None:
    assert store.purge("20260101", 10) == 0
    (tmp_path / "blobs" / "stored").mkdir(exist_ok=True)
    (tmp_path / "blobs" / "stored" / "README").write_text("not ours")
    assert store.purge("99999999", 10) == 0
    assert (tmp_path / "blobs" / "stored" / "README").exists()


def test_a_day_that_was_purged_takes_files_again(store: Store) -> None:
    """A replay, long after."""
    store.put(NAME, b"x")
    store.purge("99999999", 10)
    store.put(NAME, b"y")
    assert b"".join(store.open(NAME).chunks) == b"y"


def test_a_day_that_another_process_has_purged_takes_files_again(tmp_path: Path) -> None:
    store, other = FolderStore(tmp_path / "stored"), FolderStore(tmp_path / "stored")
    store.put(NAME, b"x")
    assert other.purge("99999999", 10) == 1
    store.put(NAME, b"y")
    assert b"".join(other.open(NAME).chunks) == b"y"


def test_uploads_and_purges_at_once_lose_nothing_new(tmp_path: Path) -> None:
    """A file of a day that is just being removed may be refused, as an outage; those of other days are not touched."""
    store, tidier = FolderStore(tmp_path / "stored"), FolderStore(tmp_path / "stored")
    over = threading.Event()

    def tidy() -> None:
        while not over.is_set():
            tidier.purge("20260102", 1)

    def put(name: str) -> str | None:
        try:
            store.put(name, name.encode())
        except StorageUnavailable:
            return None
        return name

    thread = threading.Thread(target=tidy)
    thread.start()
    with ThreadPoolExecutor(4) as pool:
        names = [f"2026010{number % 3 + 1}/{number:032x}" for number in range(300)]
        stored_names = list(pool.map(put, names))
    over.set()
    thread.join()
    lasting = [name for name in names if not name.startswith("20260101")]
    assert set(lasting) <= set(stored_names)
    assert all(b"".join(store.open(name).chunks) == name.encode() for name in lasting)


def test_a_disk_that_takes_nothing_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "stored").write_text("a file where the folder should be")
    store = FolderStore(tmp_path / "stored")
    with pytest.raises(StorageUnavailable):
        store.put(NAME, b"x")
    with pytest.raises(StorageUnavailable):
        store.open(NAME)


def test_the_store_lies_with_the_large_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    open_built_in(f"file://{tmp_path}/with%20space").put(NAME, b"x")
    assert (tmp_path / "with space" / "stored" / NAME).read_bytes() == b"x"
    assert isinstance(open_built_in("s3://bucket/prefix"), ObjectFolderStore)


def test_purge_goes_by_the_day_of_the_delivery(site: Site) -> None:
    site.store()
    site.api.now_ms += DAY_MS
    site.store()
    assert purge_built_in(site.settings, to_datetime(NOW_MS), 100) == 0
    assert purge_built_in(site.settings, to_datetime(NOW_MS) + timedelta(days=1), 100) == 1
    assert purge_built_in(site.settings, to_datetime(NOW_MS) + timedelta(days=2), 100) == 1


def test_the_secret_of_another_gateway_opens_nothing(site: Site) -> None:
    url = site.store()
    _, token, name = url.rsplit("/", 2)
    assert (
        read_stored_link(shared_secret(site.database, STORING_SECRET), token, unquote(name)).content_type == "text/html"
    )
    with pytest.raises(NotFound):
        read_stored_link(b"another", token, quote(name))
