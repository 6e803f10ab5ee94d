"""What a store's refusal means, in words for the customer who configured it, and which of his fields to look at.

Codes: AWS "Error responses", Google "HTTP status and error codes for XML", Microsoft "Blob service error codes".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from core.store_settings import StoreKind, StoreSettings

REDIRECTS = frozenset({301, 302, 307, 308})
DENIED = frozenset({401, 403})
WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9_.]{1,60})\s*</Code>")
_REGION = re.compile(rb"<Region>\s*([a-z0-9-]{1,40})\s*</Region>")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A store's answer that is no success."""

    status: int
    code: str = ""
    """The store's own word, such as `NoSuchBucket`; empty when it gave none."""
    region: str = ""
    """Where S3 says the bucket is."""

    def __str__(self) -> str:
        return f"{self.status} {self.code}".rstrip()


def read_refusal(status: int, code_header: str | None, body: bytes) -> Refusal:
    """Only what has the form of a code is read: the answer may come from anywhere, and is shown to the customer."""
    code, region = _CODE.search(body), _REGION.search(body)
    given = code_header if code_header and re.fullmatch(r"[A-Za-z0-9_.]{1,60}", code_header) else ""
    return Refusal(status, given or (code[1].decode() if code else ""), region[1].decode() if region else "")


_S3_CODES = {
    "NoSuchBucket": ("bucket", "there is no such bucket"),
    "InvalidBucketName": ("bucket", "is no name of a bucket there"),
    "InvalidAccessKeyId": ("access_key_id", "the store does not know this key"),
    "SignatureDoesNotMatch": ("secret_access_key", "does not belong to the access key id"),
    "AccessDenied": ("access_key_id", "may not write there; allow it s3:PutObject (with an acl s3:PutObjectAcl too)"),
    "AllAccessDisabled": ("bucket", "is closed by its owner"),
    "AccountProblem": ("access_key_id", "the account behind it is suspended"),
    "AccessControlListNotSupported": ("acl", "the bucket takes no ACLs; leave it out"),
    "InvalidRegion": ("region", "is not the bucket's"),
    "AuthorizationHeaderMalformed": ("region", "is not the bucket's"),
    "PermanentRedirect": ("region", "is not the bucket's"),
    "TemporaryRedirect": ("region", "is not the bucket's yet; a new bucket takes a while"),
    "IllegalLocationConstraintException": ("region", "is not the bucket's"),
}
_GCS_CODES = {
    **{code: _S3_CODES[code] for code in ("NoSuchBucket", "InvalidBucketName")},
    "AccessDenied": ("service_account", "may not write there; allow it storage.objects.create and .delete"),
    "SignatureDoesNotMatch": ("service_account", "its key is not that of the account any more"),
    "InvalidSecurity": ("service_account", "the store does not know this account"),
    "AuthenticationRequired": ("service_account", "the store does not know this account"),
    "UserProjectAccountProblem": ("service_account", "the project behind it is suspended"),
}
_AZURE_CODES = {
    "ContainerNotFound": ("bucket", "there is no such container"),
    "InvalidResourceName": ("bucket", "is no name of a container"),
    "AuthenticationFailed": ("sas", "is not valid: expired, for another container, or not copied whole"),
    "AuthorizationFailure": ("sas", "is not valid, or does not allow to create and write blobs there"),
    "AuthorizationPermissionMismatch": ("sas", "does not allow to create and write blobs"),
    "AuthorizationResourceTypeMismatch": ("sas", "does not allow to write blobs (resource type object)"),
    "AuthorizationProtocolMismatch": ("sas", "is for HTTPS only, and the endpoint is not"),
    "AuthorizationSourceIPMismatch": ("sas", "does not allow our network address"),
    "InvalidAuthenticationInfo": ("sas", "is not valid"),
    "AccountIsDisabled": ("account", "is disabled"),
    "KeyBasedAuthenticationNotPermitted": ("account_key", "the account does not allow its key to be used"),
}
_CODES: dict[StoreKind, dict[str, tuple[str, str]]] = {
    StoreKind.S3: _S3_CODES,
    StoreKind.GCS: _GCS_CODES,
    StoreKind.AZURE: _AZURE_CODES,
}
_CREDENTIAL = {StoreKind.S3: "access_key_id", StoreKind.GCS: "service_account", StoreKind.AZURE: "sas"}
_CLOCK_CODES = frozenset({"RequestTimeTooSkewed", "RequestExpired", "ExpiredToken"})


def explain(settings: StoreSettings, refusal: Refusal) -> tuple[str, str]:
    """The field to look at (empty: none in particular) and what is wrong with it."""
    field, problem = _find(settings, refusal)
    if field == "sas" and settings.account_key:
        field = "account_key"
    if field == "region" and refusal.region:
        problem += f"; that is {refusal.region}"
    if not settings.region and field == "region":
        field, problem = "endpoint", f"the bucket is elsewhere, or its region must be given ({problem})"
    return field, f"{problem} (the store answered {refusal})"


def _find(settings: StoreSettings, refusal: Refusal) -> tuple[str, str]:
    known = _CODES[settings.kind].get(refusal.code)
    if known:
        return known
    if refusal.code in _CLOCK_CODES:
        return "", "the store's clock and that of this gateway differ too much; its operator must set it"
    if refusal.status in DENIED:
        return _CREDENTIAL[settings.kind], "was not let in"
    if refusal.status == HTTPStatus.NOT_FOUND:
        return "bucket", "there is nothing of that name"
    if refusal.status in REDIRECTS:
        return ("region", "is not the bucket's") if settings.kind is StoreKind.S3 else ("endpoint", "leads elsewhere")
    if refusal.status in WORTH_ANOTHER_TRY:
        return "", "the store is in trouble; try again later"
    return "", "the store did not take a test object"
