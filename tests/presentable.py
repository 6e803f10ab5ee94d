"""What must hold of every parsed message, whatever its bytes were: it can be stored, sent on and shown."""

from __future__ import annotations

import orjson

from inbound.reading.parsed import ParsedMessage


def assert_presentable(message: ParsedMessage) -> None:
    """No lone surrogates, no control characters in headers, safe and different file names."""
    for name, value in message.headers:
        assert not set("\x00\r\n") & set(name + value)
    texts = [message.plain, message.html, message.subject, message.message_id]
    texts += [text for header in message.headers for text in header]
    texts += [defect.detail for defect in message.defects]
    for attachment in message.attachments:
        texts += [attachment.file_name, attachment.content_type, attachment.content_id]
        assert attachment.file_name
        assert not set("/\\\x00\r\n;|&$`<>\"'") & set(attachment.file_name)
        assert not set("\x00\r\n") & set(attachment.content_type + (attachment.content_id or ""))
    orjson.dumps(texts)  # refuses lone surrogates
    assert not any("\x00" in text for text in (message.plain, message.html) if text)
    names = [attachment.file_name.casefold() for attachment in message.attachments]
    assert len(set(names)) == len(names)
