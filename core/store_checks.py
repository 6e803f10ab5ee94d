"""Whether the settings of a store make sense, field by field, before anything is called."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import urlsplit

import orjson

from core.errors import InvalidField
from core.netguard import check_url
from core.store_settings import StoreKind, StoreSettings
from core.store_signing import read_rsa_key

MIN_URL_LIFETIME_S = 60
MAX_URL_LIFETIME_S = 7 * 24 * 3600  # what version 4 signatures allow at most
MAX_PREFIX_LENGTH = 200
MAX_SECRET_LENGTH = 2_000
MAX_SERVICE_ACCOUNT_LENGTH = 10_000
S3_ACLS = frozenset({
    "private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read", "bucket-owner-read",
    "bucket-owner-full-control",
})  # fmt: skip
GCS_ACLS = frozenset({
    "private", "public-read", "public-read-write", "authenticated-read", "project-private", "bucket-owner-read",
    "bucket-owner-full-control",
})  # fmt: skip
"""Of the XML API; it writes them with hyphens."""

_COMMON = ("bucket", "prefix", "endpoint", "url_lifetime_s")
_USED = {
    StoreKind.BUILT_IN: (),
    StoreKind.S3: (*_COMMON, "region", "access_key_id", "secret_access_key", "acl"),
    StoreKind.AZURE: (*_COMMON, "account", "sas", "account_key"),
    StoreKind.GCS: (*_COMMON, "service_account", "acl"),
}
_REQUIRED = {
    StoreKind.BUILT_IN: (),
    StoreKind.S3: ("bucket", "access_key_id", "secret_access_key"),
    StoreKind.AZURE: ("bucket",),
    StoreKind.GCS: ("bucket", "service_account"),
}
OPTIONAL_FIELDS = tuple(name for name in StoreSettings.__dataclass_fields__ if name != "kind")
_FORMS = {
    "bucket": (r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}", "a bucket's name: letters, digits, dots and hyphens"),
    "region": (r"[a-z0-9][a-z0-9-]{0,62}", "a region's name, like eu-central-1"),
    "access_key_id": (r"[\x21-\x2b\x2d\x2e\x30-\x3c\x3e-\x7e]{1,200}", "an access key id"),
    "secret_access_key": (rf"[\x21-\x7e]{{1,{MAX_SECRET_LENGTH}}}", "a secret access key"),
    "account": (r"[a-z0-9]{3,24}", "a storage account's name: 3 to 24 lower-case letters and digits"),
    "sas": (rf"[\x21\x24-\x7e]{{1,{MAX_SECRET_LENGTH}}}", "a SAS token, like sv=…&sig=…, without spaces"),
}
_CONTAINER = r"\$root|\$web|[a-z0-9](-?[a-z0-9]){2,62}"


def validate_store(settings: StoreSettings, field: str = "attachment_store") -> None:
    """Raises `InvalidField`, which names e.g. `attachment_store.bucket` and never repeats a secret."""
    _check_which_fields(settings, field)
    for name, (pattern, form) in _FORMS.items():
        given = getattr(settings, name)
        if name == "bucket" and settings.kind is StoreKind.AZURE:
            pattern, form = _CONTAINER, "a container's name: 3 to 63 lower-case letters, digits and single hyphens"
        if given and not re.fullmatch(pattern, given):
            raise InvalidField(f"{field}.{name}", f"is not {form}")
    _check_prefix(settings.prefix, f"{field}.prefix")
    _check_endpoint(settings.endpoint, f"{field}.endpoint")
    _check_lifetime(settings.url_lifetime_s, f"{field}.url_lifetime_s")
    _OF_KIND[settings.kind](settings, field)


def _check_which_fields(settings: StoreSettings, field: str) -> None:
    for name in OPTIONAL_FIELDS:
        given = getattr(settings, name)
        if given not in ("", None) and name not in _USED[settings.kind]:
            raise InvalidField(f"{field}.{name}", f"is not used by a store of kind {settings.kind.value}; leave it out")
        if not given and name in _REQUIRED[settings.kind]:
            raise InvalidField(f"{field}.{name}", f"is required for a store of kind {settings.kind.value}")


def _check_prefix(prefix: str, field: str) -> None:
    if not prefix:
        return
    if len(prefix.encode("utf-8", "replace")) > MAX_PREFIX_LENGTH:
        raise InvalidField(field, f"is longer than {MAX_PREFIX_LENGTH} bytes")
    if not prefix.isprintable() or "\\" in prefix:
        raise InvalidField(field, "must not contain backslashes, control or other invisible characters")
    if any(step in ("", ".", "..") for step in prefix.split("/")):
        raise InvalidField(field, "must be names with single slashes between, and neither `.` nor `..` among them")


def _check_endpoint(endpoint: str, field: str) -> None:
    if not endpoint:
        return
    parts = urlsplit(check_url(field, endpoint))
    if not endpoint.isascii() or "@" in parts.netloc or parts.query or parts.fragment or "?" in endpoint:
        raise InvalidField(field, "must be scheme, host, port and path only, in ASCII, like https://minio.example.com")
    if any(step in ("", ".", "..") for step in parts.path.strip("/").split("/")) and parts.path.strip("/"):
        raise InvalidField(field, "must not have empty or dotted steps in its path")


def _check_lifetime(lifetime_s: int | None, field: str) -> None:
    if lifetime_s is not None and not MIN_URL_LIFETIME_S <= lifetime_s <= MAX_URL_LIFETIME_S:
        raise InvalidField(field, f"must be {MIN_URL_LIFETIME_S} to {MAX_URL_LIFETIME_S} seconds (7 days), or left out")


def _check_built_in(settings: StoreSettings, field: str) -> None:
    return


def _check_s3(settings: StoreSettings, field: str) -> None:
    if not settings.region and not settings.endpoint:
        raise InvalidField(f"{field}.region", "is required, unless an endpoint is given")
    _check_acl(settings.acl, S3_ACLS, field)


def _check_azure(settings: StoreSettings, field: str) -> None:
    if bool(settings.sas) == bool(settings.account_key):
        raise InvalidField(f"{field}.sas", "is required, or account_key in its place; give one of the two")
    if not settings.account and (settings.account_key or not settings.endpoint):
        raise InvalidField(f"{field}.account", "is required")
    if settings.sas and "sig=" not in settings.sas:
        raise InvalidField(f"{field}.sas", "is not a SAS token: it has no `sig=`")
    if settings.account_key and not _is_base64(settings.account_key):
        raise InvalidField(f"{field}.account_key", "is not an account key: it must be base64")
    if settings.url_lifetime_s is not None and not settings.account_key:
        raise InvalidField(
            f"{field}.url_lifetime_s", "needs account_key: with a SAS token no URL can be signed for others"
        )


def _check_gcs(settings: StoreSettings, field: str) -> None:
    _check_acl(settings.acl, GCS_ACLS, field)
    place = f"{field}.service_account"
    if len(settings.service_account) > MAX_SERVICE_ACCOUNT_LENGTH:
        raise InvalidField(place, f"is longer than {MAX_SERVICE_ACCOUNT_LENGTH} characters")
    try:
        account = orjson.loads(settings.service_account)
        email, private_key = account["client_email"], account["private_key"]
    except (ValueError, TypeError, KeyError):
        raise InvalidField(place, "is not the JSON key of a service account: client_email, private_key …") from None
    if not isinstance(email, str) or not re.fullmatch(r"[\w.+-]{1,200}@[\w.-]{1,200}", email, re.ASCII):
        raise InvalidField(place, "has no mail address for its client_email")
    try:
        read_rsa_key(private_key if isinstance(private_key, str) else "")
    except ValueError as error:
        raise InvalidField(place, f"its private_key is {error}") from None


def _check_acl(acl: str, known: frozenset[str], field: str) -> None:
    if acl and acl not in known:
        raise InvalidField(f"{field}.acl", f"is none of {', '.join(sorted(known))}")


def _is_base64(text: str) -> bool:
    try:
        return len(text) <= MAX_SECRET_LENGTH and bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False


_OF_KIND = {
    StoreKind.BUILT_IN: _check_built_in,
    StoreKind.S3: _check_s3,
    StoreKind.AZURE: _check_azure,
    StoreKind.GCS: _check_gcs,
}
