"""Large messages: durable before anything is answered, in our folder or in an object store.

`ObjectStoreBlobs` is driven through obstore's store for local folders (a `file://` URL, which `open_blobs` itself gives
to `DiskBlobs`) and against S3 (moto). What Google and Azure do is obstore's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.built_in_store import ObjectFolderStore
from core.errors import ConfigurationError, NotFound, StorageUnavailable
from core.store.blobs import OBJECT_STORE_SCHEMES, BlobStore, DiskBlobs, ObjectStoreBlobs, _client_options, open_blobs
from tests.object_servers import REGION, S3Server, running_s3
from tests.programs import missing
from tests.raw_server import running_raw_server

CONTENT = os.urandom(300_000)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an operator sets it, for his own bucket."""
    for name, value in {
        "AWS_ENDPOINT": s3.url, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": s3.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3.secret_access_key, "AWS_REGION": REGION,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["disk", "object store", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    folder = tmp_path / "messages"
    if request.param == "s3":
        request.getfixturevalue("s3_environment")
        return open_blobs(f"s3://attachments/{tmp_path.name}")
    if request.param == "disk":
        return DiskBlobs(folder)
    folder.mkdir()
    return ObjectStoreBlobs(f"file://{folder}")


def spooled(tmp_path: Path, content: bytes = CONTENT) -> Path:
    path = tmp_path / f"spool-{os.urandom(4).hex()}"
    path.write_bytes(content)
    return path


def test_what_was_put_comes_back_byte_for_byte_and_the_spool_file_is_gone(blobs: BlobStore, tmp_path: Path) -> None:
    path = spooled(tmp_path)
    blobs.put_file("0190-abcd", path)
    assert blobs.get("0190-abcd") == CONTENT
    assert not path.exists()


def test_an_empty_message_is_a_message(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.put_file("0190-abcd", spooled(tmp_path, b""))
    assert blobs.get("0190-abcd") == b""


def test_a_deleted_blob_is_gone_and_deleting_again_is_no_error(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.put_file("0190-abcd", spooled(tmp_path))
    blobs.delete("0190-abcd")
    blobs.delete("0190-abcd")
    with pytest.raises(StorageUnavailable, match="0190-abcd"):
        blobs.get("0190-abcd")


@pytest.mark.parametrize("blobs", ["disk", "object store"], indirect=True)
def test_a_failed_put_leaves_the_spool_file_for_another_try(blobs: BlobStore, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "messages")
    (tmp_path / "messages").write_bytes(b"a file where the folder should be")
    path = spooled(tmp_path)
    with pytest.raises(StorageUnavailable):
        blobs.put_file("0190-abcd", path)
    assert path.read_bytes() == CONTENT


def test_a_full_disk_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one fault here that is put in by hand: filling a disk is not for a shared machine."""
    blobs = DiskBlobs(tmp_path / "messages")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageUnavailable, match="cannot be written to now"):
        blobs.put_file("0190-abcd", spooled(tmp_path))


def test_many_threads_may_put_at_once(tmp_path: Path) -> None:
    blobs = DiskBlobs(tmp_path / "messages")
    paths = {f"key-{number:02x}": spooled(tmp_path, str(number).encode()) for number in range(64)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(blobs.put_file, paths, paths.values()))
    assert [blobs.get(f"key-{number:02x}") for number in range(64)] == [str(number).encode() for number in range(64)]


def traced(folder: Path, *keys: str) -> list[str]:
    """The system calls of putting these keys in one fresh process, each as `name path [path]`."""
    strace = shutil.which("strace")
    if strace is None:
        missing("strace is not installed (Debian package strace)")
    script = (
        "import sys; from pathlib import Path; from core.store.blobs import DiskBlobs\n"
        "blobs = DiskBlobs(Path(sys.argv[1]) / 'messages')\n"
        "for key in sys.argv[2:]:\n"
        "    path = Path(sys.argv[1]) / f'spool-{key}'; path.write_bytes(b'x'); blobs.put_file(key, path)\n"
    )
    log = folder / "trace"
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat"
    done = subprocess.run(
        [str(strace), "-f", "-y", "-e", calls, "-o", str(log), sys.executable, "-c", script, str(folder), *keys],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "Operation not permitted" in done.stderr:
        missing("strace may not trace here")
    assert done.returncode == 0, done.stderr
    made = []
    for line in log.read_text().splitlines():
        name = re.search(r"(fsync|fdatasync|rename|mkdir)", line)
        paths = [path.removeprefix(f"{folder}/") for path in re.findall(rf"{re.escape(str(folder))}[^\">]*", line)]
        if name and paths:
            made.append(" ".join([name[1], *paths]))
    return made


def test_the_file_is_synced_before_the_rename_and_both_folders_after(tmp_path: Path) -> None:
    calls = traced(tmp_path, "0190-aaff")
    file, rename = "fsync spool-0190-aaff", "rename spool-0190-aaff messages/ff/0190-aaff"
    shard, folder, outer = "fsync messages/ff", "fsync messages", f"fsync {tmp_path}"
    assert calls.index("mkdir messages/ff") < calls.index(folder)
    assert calls.index("mkdir messages") < calls.index(outer)
    assert calls.index(file) < calls.index(rename) < calls.index(shard)
    assert calls.index(folder) < len(calls)


def test_a_sub_folder_that_another_process_has_just_made_is_synced_all_the_same(tmp_path: Path) -> None:
    """That process may not have come to it yet, and we answer for what we store."""
    (tmp_path / "messages" / "ff").mkdir(parents=True)
    assert "fsync messages" in traced(tmp_path, "0190-aaff")


def test_a_sub_folder_is_synced_once_and_not_for_every_message(tmp_path: Path) -> None:
    calls = traced(tmp_path, "0190-aaff", "0190-bbff", "0190-ccff")
    assert calls.count("fsync messages") == 1
    assert calls.count("fsync messages/ff") == 3


@pytest.mark.parametrize("url", ["ftp://x", "banana", "", "http://bucket"])
def test_an_unknown_kind_of_store_names_the_setting_and_the_cure(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"BLOB_URL: .* use file, s3, gs or az"):
        open_blobs(url)


def test_a_url_opens_the_store_of_its_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert isinstance(open_blobs(f"file://{tmp_path}/with%20space"), DiskBlobs)
    assert (tmp_path / "with space").is_dir()
    assert isinstance(open_blobs("s3://bucket/prefix"), ObjectStoreBlobs)


def test_a_store_that_is_not_there_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "x",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    path = spooled(tmp_path)
    with pytest.raises(StorageUnavailable):
        open_blobs("s3://bucket/prefix").put_file("key", path)
    assert path.exists()


@pytest.mark.usefixtures("s3_environment")
def test_a_large_message_goes_to_s3_in_parts_and_comes_back(tmp_path: Path) -> None:
    content = os.urandom(12_000_000)
    blobs = open_blobs("s3://attachments/large")
    blobs.put_file("0190-abcd", spooled(tmp_path, content))
    assert blobs.get("0190-abcd") == content
    blobs.delete("0190-abcd")


@pytest.mark.parametrize("bucket", ["missing", "forbidden"])
@pytest.mark.usefixtures("s3_environment")
def test_a_bucket_that_refuses_is_an_outage_and_the_spool_file_stays(tmp_path: Path, bucket: str) -> None:
    path = spooled(tmp_path)
    with pytest.raises(StorageUnavailable):
        open_blobs(f"s3://{bucket}/x").put_file("0190-abcd", path)
    assert path.read_bytes() == CONTENT
    with pytest.raises(StorageUnavailable, match="0190-abcd"):
        open_blobs(f"s3://{bucket}/x").get("0190-abcd")


@pytest.mark.usefixtures("s3_environment")
def test_the_built_in_store_lives_on_s3_too() -> None:
    store = ObjectFolderStore("s3://attachments/folder")
    days = ("20251231", "20260101")
    for day in days:
        store.put(f"{day}/{'0' * 32}.txt", day.encode() * 100_000)
    opened = store.open(f"20260101/{'0' * 32}.txt")
    assert (opened.size, b"".join(opened.chunks)) == (800_000, b"20260101" * 100_000)
    assert [store.purge("20260101", 10) for _ in range(2)] == [1, 0]
    with pytest.raises(NotFound):
        store.open(f"20251231/{'0' * 32}.txt")
    with pytest.raises(StorageUnavailable):  # not "not found": nothing was lost
        ObjectFolderStore("s3://missing/x").put(f"20260101/{'0' * 32}.txt", b"x")


def test_a_store_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_environment: None) -> None:
    """With a patience cut short by the environment, as an operator may; obstore's own would be minutes."""
    monkeypatch.setenv("AWS_TIMEOUT", "500ms")
    path = spooled(tmp_path)
    with running_raw_server(lambda connection, number: time.sleep(10)) as port:
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{port}")
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable):
            open_blobs("s3://attachments/x").put_file("0190-abcd", path)
        assert time.monotonic() - begun < 5
    assert path.exists()


def test_patience_is_bounded_for_every_kind_of_store() -> None:
    for scheme in OBJECT_STORE_SCHEMES:
        assert _client_options(scheme)["timeout"] == "20s"
