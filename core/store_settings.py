"""Where a customer's attachments or whole messages are stored, as he configured it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StoreKind(StrEnum):
    """The kinds of store."""

    BUILT_IN = "built_in"
    """Our own blob store, served by signed, expiring URLs."""
    S3 = "s3"
    AZURE = "azure"
    GCS = "gcs"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """One store. Which fields a kind needs is checked by `core.object_stores`."""

    kind: StoreKind
    bucket: str = ""
    """S3 and GCS: the bucket; Azure: the container."""
    prefix: str = ""
    """Before every object's name, with a `/` between."""
    region: str = ""
    endpoint: str = ""
    """S3-compatible services, Azurite and such: the URL to call in place of the vendor's."""
    access_key_id: str = ""
    secret_access_key: str = ""
    acl: str = ""
    """S3 and GCS: canned ACL of each object, such as `private` or `public-read`."""
    account: str = ""
    """Azure: the storage account."""
    sas: str = ""
    """Azure: the SAS token, without the `?` before it."""
    account_key: str = ""
    """Azure: the key of the account, base64, in place of a SAS token. Only with it can URLs be signed."""
    service_account: str = ""
    """GCS: the service account key, JSON."""
    url_lifetime_s: int | None = None
    """Signed URLs that expire after so many seconds; None for plain ones. The built-in store always signs."""
