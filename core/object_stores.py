"""The requests that put an object into a customer's store, take it away again, and the URL it then has.

Nothing is sent from here: `inbound.store_client` does that, with the client that guards our own network.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import quote

import orjson

from core.clock import to_datetime
from core.errors import StorageUnavailable
from core.store_settings import StoreKind, StoreSettings
from core.store_signing import AwsKey, AzureKey, GoogleKey, V4Key, signed_headers, signed_url

REQUEST_LIFETIME_S = 900
"""For how long a request that we sign may be on its way: the clocks of both sides differ."""
DEFAULT_REGION = "us-east-1"
"""What services compatible with S3 take for a region when they have none."""
GOOGLE_ENDPOINT = "https://storage.googleapis.com"
NAME_DIGITS = 32
MAX_EXTENSION_LENGTH = 10
OCTETS = "application/octet-stream"
_MEDIA_TYPE = re.compile(r"[a-z0-9][\w.+-]{0,60}/[a-z0-9][\w.+-]{0,100}(; ?[a-z-]{1,20}=[\w.-]{1,40}){0,3}", re.ASCII)
_NOT_PLAIN = re.compile(r"[^\w.,()+@ -]", re.ASCII)
_DAY = "%Y%m%d"


class StoreFailed(StorageUnavailable):
    """A store did not take what was to be put there. The text says why, to the customer, and holds no secret."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What is to be stored."""

    name: str
    """See `object_name`; without the prefix of the store."""
    content: bytes
    content_type: str
    """As a mail declares it, so anything; what is no media type is stored as a stream of octets."""
    file_name: str
    """Under which a browser saves it."""

    @property
    def headers(self) -> dict[str, str]:
        """What the store is to say of it when it is fetched."""
        return {
            "Content-Type": clean_content_type(self.content_type),
            "Content-Disposition": content_disposition(self.file_name),
        }


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """An HTTP request, ready to be sent."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


class RemoteStore(Protocol):
    """A customer's store."""

    def put(self, item: StoredObject, now: datetime) -> StoreRequest:
        """Store an object; one of the same name is replaced."""

    def delete(self, name: str, now: datetime) -> StoreRequest:
        """Take an object away."""

    def url(self, name: str, now: datetime) -> str:
        """Where it can be fetched: plain, or signed from now on for the lifetime that the settings say."""


def open_store(settings: StoreSettings) -> RemoteStore:
    """The store of checked settings (`core.store_checks`), which must not be the built-in one."""
    match settings.kind:
        case StoreKind.S3:
            return S3Store(settings)
        case StoreKind.GCS:
            return GoogleStore(settings)
        case StoreKind.AZURE:
            return AzureStore(settings)
    raise ValueError("the built-in store is core.built_in_store's")


class S3Store:
    """Amazon S3, or a service compatible with it."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._place = _s3_place(settings)
        self._key = AwsKey(settings.access_key_id, settings.secret_access_key, region=settings.region or DEFAULT_REGION)

    def put(self, item: StoredObject, now: datetime) -> StoreRequest:
        """The body is under the signature: what arrives changed is refused."""
        headers = item.headers | ({"x-amz-acl": self._settings.acl} if self._settings.acl else {})
        url = self._url(item.name)
        return StoreRequest("PUT", url, signed_headers(self._key, "PUT", url, headers, item.content, now), item.content)

    def delete(self, name: str, now: datetime) -> StoreRequest:
        """Take an object away."""
        url = self._url(name)
        return StoreRequest("DELETE", url, signed_headers(self._key, "DELETE", url, {}, b"", now))

    def url(self, name: str, now: datetime) -> str:
        """Plain or signed."""
        return _fetch_url(self._key, self._url(name), self._settings.url_lifetime_s, now)

    def _url(self, name: str) -> str:
        return self._place + _object_path(self._settings, name)


class GoogleStore:
    """Google Cloud Storage by its XML API, whose signed URLs need no token to be fetched first."""

    def __init__(self, settings: StoreSettings) -> None:
        account = orjson.loads(settings.service_account)
        self._settings = settings
        self._place = f"{settings.endpoint.rstrip('/') or GOOGLE_ENDPOINT}/{settings.bucket}"
        self._key = GoogleKey(account["client_email"], account["private_key"])

    def put(self, item: StoredObject, now: datetime) -> StoreRequest:
        """The headers are under the signature."""
        headers = item.headers | ({"x-goog-acl": self._settings.acl} if self._settings.acl else {})
        return StoreRequest("PUT", self._signed("PUT", item.name, headers, now), headers, item.content)

    def delete(self, name: str, now: datetime) -> StoreRequest:
        """Take an object away."""
        return StoreRequest("DELETE", self._signed("DELETE", name, {}, now), {})

    def url(self, name: str, now: datetime) -> str:
        """Plain or signed."""
        return _fetch_url(self._key, self._url(name), self._settings.url_lifetime_s, now)

    def _url(self, name: str) -> str:
        return self._place + _object_path(self._settings, name)

    def _signed(self, method: str, name: str, headers: Mapping[str, str], now: datetime) -> str:
        return signed_url(self._key, method, self._url(name), headers, REQUEST_LIFETIME_S, now)


class AzureStore:
    """A container of Azure Blob Storage."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        host = settings.endpoint.rstrip("/") or f"https://{settings.account}.blob.core.windows.net"
        self._place = f"{host}/{quote(settings.bucket, safe='$')}"

    def put(self, item: StoredObject, now: datetime) -> StoreRequest:
        """One block blob in one request, which takes up to 5,000 MiB."""
        headers = {f"x-ms-blob-{name.lower()}": value for name, value in item.headers.items()}
        headers["x-ms-blob-type"] = "BlockBlob"
        headers["Content-Type"] = item.headers["Content-Type"]
        return StoreRequest("PUT", self._authorized(item.name, "cw", now), headers, item.content)

    def delete(self, name: str, now: datetime) -> StoreRequest:
        """Take an object away."""
        return StoreRequest("DELETE", self._authorized(name, "d", now), {})

    def url(self, name: str, now: datetime) -> str:
        """Plain, or with a SAS of its own that can only read. (The customer's SAS can write: it is never given out.)"""
        lifetime_s = self._settings.url_lifetime_s
        return self._url(name) if lifetime_s is None else f"{self._url(name)}?{self._sas(name, 'r', lifetime_s, now)}"

    def _authorized(self, name: str, permissions: str, now: datetime) -> str:
        sas = self._settings.sas or self._sas(name, permissions, REQUEST_LIFETIME_S, now)
        return f"{self._url(name)}?{sas}"

    def _sas(self, name: str, permissions: str, lifetime_s: int, now: datetime) -> str:
        blob = _key_of(self._settings, name)
        key = AzureKey(self._settings.account, self._settings.account_key)
        return key.blob_sas(self._settings.bucket, blob, permissions, lifetime_s, now)

    def _url(self, name: str) -> str:
        return self._place + _object_path(self._settings, name)


def object_name(secret: bytes, delivery_id: str, part: str, file_name: str) -> str:
    """`YYYYMMDD/` and 32 hex digits that nobody can guess, with the extension of the file name where it is harmless.

    The same for the same part of the same delivery, so that a retry replaces what the last one stored. The day is that
    of the delivery's id (a UUID version 7), and what the day's folder holds can be dropped together.
    """
    digits = hmac.digest(secret, f"name\0{delivery_id}\0{part}".encode(), hashlib.sha256).hex()[:NAME_DIGITS]
    day = to_datetime(uuid.UUID(delivery_id).int >> 80).strftime(_DAY)  # RFC 9562 section 5.7: 48 bits of milliseconds
    return f"{day}/{digits}{_extension(file_name)}"


def clean_content_type(declared: str) -> str:
    """A media type that can stand in a header."""
    lowered = declared.strip()
    return lowered if _MEDIA_TYPE.fullmatch(lowered) else OCTETS


def content_disposition(file_name: str) -> str:
    """`attachment` with the name, for browsers that read RFC 6266 and for those that do not."""
    plain = _NOT_PLAIN.sub("_", file_name)
    encoded = "" if plain == file_name else f"; filename*=UTF-8''{quote(file_name, safe='', errors='replace')}"
    return f'attachment; filename="{" ".join(plain.split())}"{encoded}'


def _extension(file_name: str) -> str:
    extension = file_name.rpartition(".")[2].lower() if "." in file_name else ""
    is_harmless = extension.isascii() and extension.isalnum() and len(extension) <= MAX_EXTENSION_LENGTH
    return f".{extension}" if is_harmless else ""


def _key_of(settings: StoreSettings, name: str) -> str:
    return f"{settings.prefix}/{name}" if settings.prefix else name


def _object_path(settings: StoreSettings, name: str) -> str:
    return "/" + quote(_key_of(settings, name), safe="/~")


def _s3_place(settings: StoreSettings) -> str:
    """Amazon wants the bucket in the host name; a dot in it would not fit the certificate. Others take either form."""
    if settings.endpoint:
        return f"{settings.endpoint.rstrip('/')}/{settings.bucket}"
    host = f"s3.{settings.region}.amazonaws.com" + (".cn" if settings.region.startswith("cn-") else "")
    return f"https://{host}/{settings.bucket}" if "." in settings.bucket else f"https://{settings.bucket}.{host}"


def _fetch_url(key: V4Key, url: str, lifetime_s: int | None, now: datetime) -> str:
    return url if lifetime_s is None else signed_url(key, "GET", url, {}, lifetime_s, now)
