"""Attachments and whole messages go to a store before the target is called; the payload then carries their URLs.

Names are the same for every attempt at a delivery, so that a retry replaces what the last one stored.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from core.address_settings import AddressSettings
from core.built_in_store import BuiltInStore, open_built_in, stored_url
from core.clock import Clock, system_clock, to_datetime
from core.config import Settings
from core.object_stores import StoredObject, object_name, open_store
from core.services.secrets import STORING_SECRET, shared_secret
from core.store.db import Database
from core.store_settings import StoreKind, StoreSettings
from inbound.reading.parsed import Attachment, ParsedMessage
from inbound.store_client import STORE_PATIENCE_S, StoreClient, open_store_client

PARALLEL_UPLOADS = 8
"""Of one message: a mail of many parts must not be beaten by the way to the store and back."""
MESSAGE_PART = "message"


class _Place(Protocol):
    """Where the files of one attempt go."""

    def put(self, item: StoredObject) -> str:
        """Store a file; its URL. Raises `StorageUnavailable`."""


@dataclass(frozen=True, slots=True)
class _OurPlace:
    settings: Settings
    store: BuiltInStore
    secret: bytes
    now_ms: int

    def put(self, item: StoredObject) -> str:
        self.store.put(item.name, item.content)
        return stored_url(self.settings, self.secret, item.name, item.content_type, item.file_name, self.now_ms)


@dataclass(frozen=True, slots=True)
class _TheirPlace:
    settings: StoreSettings
    client: StoreClient
    now_ms: int
    ends_at: float

    def put(self, item: StoredObject) -> str:
        self.client.put(self.settings, item, self.ends_at)
        return open_store(self.settings).url(item.name, to_datetime(self.now_ms))


class Storing:
    """Stores what belongs to deliveries, from any thread."""

    longest_s = STORE_PATIENCE_S
    """How long `attachments` or `message` may take (both: twice that)."""

    def __init__(self, settings: Settings, database: Database, client: StoreClient, clock: Clock) -> None:
        self._settings = settings
        self._database = database
        self._client = client
        self._clock = clock

    def attachments(self, message: ParsedMessage, delivery_id: str, address: AddressSettings) -> ParsedMessage:
        """The message with a URL for each attachment of at least the threshold; all of them, or it raises.

        Raises `StorageUnavailable` (`StoreFailed` for a customer's store): the attempt is to be made again later.
        """
        store = address.attachment_store
        if store is None:
            return message
        chosen = [
            (number, attachment)
            for number, attachment in enumerate(message.attachments)
            if attachment.size >= address.attachment_threshold
        ]
        urls = self._put_all(store, [self._item(delivery_id, number, attachment) for number, attachment in chosen])
        attachments = list(message.attachments)
        for (number, attachment), url in zip(chosen, urls, strict=True):
            attachments[number] = replace(attachment, url=url)
        return replace(message, attachments=tuple(attachments))

    def message(self, content: bytes, content_type: str, extension: str, delivery_id: str, store: StoreSettings) -> str:
        """Store a whole message (`eml` or `json`) and give its URL. Raises as `attachments` does."""
        file_name = f"{MESSAGE_PART}.{extension.lstrip('.')}"
        name = object_name(self._secret(), delivery_id, MESSAGE_PART, file_name)
        return self._put_all(store, [StoredObject(name, content, content_type, file_name)])[0]

    def _item(self, delivery_id: str, number: int, attachment: Attachment) -> StoredObject:
        name = object_name(self._secret(), delivery_id, str(number), attachment.file_name)
        return StoredObject(name, attachment.content, attachment.content_type, attachment.file_name)

    def _put_all(self, store: StoreSettings, items: list[StoredObject]) -> list[str]:
        """In threads of its own when there are several: a store that hangs holds up nobody else's uploads."""
        place = self._place(store)
        if len(items) <= 1:
            return [place.put(item) for item in items]
        with ThreadPoolExecutor(min(PARALLEL_UPLOADS, len(items)), "upload") as pool:
            uploads = [pool.submit(place.put, item) for item in items]
            try:
                return [upload.result() for upload in uploads]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # the rest would fail alike, each in its own time
                raise

    def _place(self, store: StoreSettings) -> _Place:
        if store.kind is StoreKind.BUILT_IN:
            return _OurPlace(self._settings, open_built_in(self._settings.blob_location), self._secret(), self._clock())
        return _TheirPlace(store, self._client, self._clock(), time.monotonic() + STORE_PATIENCE_S)

    def _secret(self) -> bytes:
        return shared_secret(self._database, STORING_SECRET)


def open_storing(settings: Settings, database: Database, clock: Clock = system_clock) -> Storing:
    """Storing as the settings describe it. Raises `ConfigurationError`."""
    return Storing(settings, database, open_store_client(settings), clock)
