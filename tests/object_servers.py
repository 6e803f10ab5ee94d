"""Object stores on loopback for tests: moto's S3, which verifies signatures; Azurite; and a stand-in for Google's.

moto and Azurite are installed by `tests/object-servers.sh` into a cache folder outside the tree, at pinned versions:
moto's libraries exclude versions of ours, and Azurite is a program of Node. Where they cannot be had, tests skip.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import requests
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from core.store_settings import StoreKind, StoreSettings
from tests.ports import free_port
from tests.programs import missing

SCRIPT = Path(__file__).with_name("object-servers.sh")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pillarbox-tests"
INSTALL_S = 240
START_S = 60.0
REGION = "eu-central-1"
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's well-known account: no secret."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """moto, with one user who may use one bucket and not the other."""

    url: str
    bucket: str
    forbidden_bucket: str
    access_key_id: str
    secret_access_key: str

    def settings(self, **changes: object) -> StoreSettings:
        """The store of that bucket; `changes` replace any of its fields."""
        fields: dict[str, object] = {
            "bucket": self.bucket, "region": REGION, "endpoint": self.url, "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
        }  # fmt: skip
        return StoreSettings(StoreKind.S3, **{**fields, **changes})  # type: ignore[arg-type]

    def verify_signatures(self, does: bool) -> None:
        """From now on check who calls, or nothing."""
        requests.post(f"{self.url}/moto-api/reset-auth", data="0" if does else "inf", timeout=20)

    @contextmanager
    def unverified(self) -> Iterator[None]:
        """moto verifies signatures in headers, and fails over those in a URL: within, it takes them without looking."""
        self.verify_signatures(False)
        try:
            yield
        finally:
            self.verify_signatures(True)


@dataclass(frozen=True, slots=True)
class AzureServer:
    """Azurite, with one private and one public container."""

    url: str
    container: str
    public_container: str

    def settings(self, **changes: object) -> StoreSettings:
        """The store of the private container, by the account's key."""
        fields: dict[str, object] = {
            "bucket": self.container, "endpoint": self.url, "account": AZURITE_ACCOUNT, "account_key": AZURITE_KEY,
        }  # fmt: skip
        return StoreSettings(StoreKind.AZURE, **{**fields, **changes})  # type: ignore[arg-type]


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """moto, which from the moment it is set up checks who calls and whether he may."""
    program = _installed("moto") / "bin" / "moto_server"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _running([str(program), "-H", "127.0.0.1", "-p", str(port)], folder / "moto.log", f"{url}/moto-api/"):
        yield _set_up_s3(url)


def _set_up_s3(url: str) -> S3Server:
    def call(service: str, method: str, path: str = "/", **options: object) -> str:
        scope = f"Credential=setup/20260101/{REGION}/{service}/aws4_request"
        headers = {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}
        answer = requests.request(method, url + path, headers=headers, timeout=20, **options)  # type: ignore[arg-type]
        assert answer.ok, answer.text
        return answer.text

    def ask_iam(action: str, **parameters: str) -> str:
        return call("iam", "POST", data={"Action": action, "Version": "2010-05-08", **parameters})

    where = f"<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
    for bucket in ("attachments", "forbidden"):
        call("s3", "PUT", f"/{bucket}", data=where)
    policy = (
        '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*",'
        '"Resource":["arn:aws:s3:::attachments","arn:aws:s3:::attachments/*","arn:aws:s3:::missing/*"]}}'
    )
    ask_iam("CreateUser", UserName="gateway")
    ask_iam("PutUserPolicy", UserName="gateway", PolicyName="one", PolicyDocument=policy)
    made = ask_iam("CreateAccessKey", UserName="gateway")
    key_id, secret = (_element(made, name) for name in ("AccessKeyId", "SecretAccessKey"))
    server = S3Server(url, "attachments", "forbidden", key_id, secret)
    server.verify_signatures(True)
    return server


def _element(xml: str, name: str) -> str:
    found = re.search(f"<{name}>(.*?)</{name}>", xml)
    assert found, xml
    return found[1]


@contextmanager
def running_azurite(folder: Path) -> Iterator[AzureServer]:
    """Azurite, which verifies SAS tokens."""
    program = _installed("azurite") / "node_modules" / ".bin" / "azurite-blob"
    port = free_port()
    command = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    endpoint = f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"
    with _running([*command, "--silent", "--skipApiVersionCheck"], folder / "azurite.log", endpoint):
        for container, access in (("private", ""), ("public", "blob")):
            _make_container(endpoint, container, access)
        yield AzureServer(endpoint, "private", "public")


def _make_container(endpoint: str, container: str, access: str) -> None:
    headers = {"x-ms-blob-public-access": access} if access else {}
    answer = requests.put(
        f"{endpoint}/{container}?restype=container&{account_sas('rwdlac')}", headers=headers, timeout=20
    )
    assert answer.status_code == 201, answer.text


def account_sas(permissions: str, expiry: str = "2099-01-01T00:00:00Z", types: str = "sco") -> str:
    """A SAS token for all of Azurite's account (Microsoft: "Create an account SAS"): what a customer would paste."""
    lines = (AZURITE_ACCOUNT, permissions, "b", types, "", expiry, "", "", "2021-08-06", "", "")
    digest = hmac.digest(base64.b64decode(AZURITE_KEY), "\n".join(lines).encode(), hashlib.sha256)
    signature = quote(base64.b64encode(digest), safe="")
    return f"sv=2021-08-06&ss=b&srt={types}&sp={permissions}&se={quote(expiry, safe='')}&sig={signature}"


@dataclass
class GoogleServer:
    """What stands in for Google Cloud Storage, whose emulators are programs we cannot get: the few calls of its XML API
    that we make, on one bucket, with signatures verified by the account's public key over the request as it came."""

    url: str
    account: dict[str, str]
    """The JSON key of a service account."""
    public_key: rsa.RSAPublicKey
    bucket: str = "attachments"
    objects: dict[str, tuple[dict[str, str], bytes]] = field(default_factory=dict)
    """By path: headers and content."""

    def settings(self, **changes: object) -> StoreSettings:
        """The store of that bucket."""
        fields: dict[str, object] = {
            "bucket": self.bucket, "endpoint": self.url, "service_account": json.dumps(self.account),
        }  # fmt: skip
        return StoreSettings(StoreKind.GCS, **{**fields, **changes})  # type: ignore[arg-type]

    def refusal(self, request: BaseHTTPRequestHandler) -> tuple[int, str] | None:
        """Status and code, unless the signature is right and the bucket ours."""
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        signed, _, signature = parts.query.rpartition("&X-Goog-Signature=")
        if not signature:
            return 403, "AccessDenied"
        email, _, scope = query["X-Goog-Credential"].partition("/")
        if email != self.account["client_email"]:
            return 403, "InvalidSecurity"
        names = query["X-Goog-SignedHeaders"].split(";")
        lines = [f"{name}:{request.headers[name]}\n" for name in names]
        canonical = "\n".join(
            [request.command, parts.path, signed, "".join(lines), ";".join(names), "UNSIGNED-PAYLOAD"]
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join(["GOOG4-RSA-SHA256", query["X-Goog-Date"], scope, digest])
        try:
            self.public_key.verify(bytes.fromhex(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return 403, "SignatureDoesNotMatch"
        return None if parts.path.startswith(f"/{self.bucket}/") else (404, "NoSuchBucket")


def service_account_key(email: str = "gateway@project.example") -> tuple[dict[str, str], rsa.RSAPrivateKey]:
    """The JSON key of a made-up service account, and its private key."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {"type": "service_account", "client_email": email, "private_key": pem, "private_key_id": "1"}
    return account, key


@contextmanager
def running_google() -> Iterator[GoogleServer]:
    """The stand-in for Google Cloud Storage."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self._is_let_in():
                server.objects[urlsplit(self.path).path] = (dict(self.headers), content)
                self._answer(200, b"")

        def do_DELETE(self) -> None:
            if self._is_let_in():
                server.objects.pop(urlsplit(self.path).path, None)
                self._answer(204, b"")

        def do_GET(self) -> None:
            if self._is_let_in():
                found = server.objects.get(urlsplit(self.path).path)
                self._answer(200 if found else 404, found[1] if found else b"")

        def _is_let_in(self) -> bool:
            refusal = server.refusal(self)
            if refusal is not None:
                self._answer(refusal[0], f"<Error><Code>{refusal[1]}</Code></Error>".encode())
            return refusal is None

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    account, key = service_account_key()
    server = GoogleServer(f"http://127.0.0.1:{listener.server_port}", account, key.public_key())
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@contextmanager
def _running(command: Sequence[str], log: Path, url: str) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(url):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, f"{command[0]} is not ready"
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        requests.get(url, timeout=2)
    except requests.ConnectionError:
        return False
    return True


def _installed(name: str) -> Path:
    """The folder of a server, which is installed at first; one test process does that, the others wait."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["sh", str(SCRIPT), name, str(CACHE), sys.executable],
            capture_output=True, text=True, timeout=INSTALL_S, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        missing(f"{name} cannot be installed: {done.stderr.strip()[-300:]}")
    return Path(done.stdout.strip().splitlines()[-1])
