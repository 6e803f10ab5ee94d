"""Requests to send, as the reference shows them. A test sends each of them."""

from __future__ import annotations

from typing import Any

_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGMwTjsDAAI1AWaKkkQyAAAAAElFTkSuQmCC"

MESSAGE_EXAMPLES: dict[str, Any] = {
    "smallest": {
        "summary": "As little as will do",
        "value": {
            "from": "ann@example.com",
            "to": "bob@example.net",
            "subject": "Hello",
            "plain": "Hello Bob.",
            "test_mode": True,
        },
    },
    "usual": {
        "summary": "Text, HTML with a picture in it, tags",
        "value": {
            "from": "Ann <ann@example.com>",
            "to": ["Bob <bob@example.net>", "carl@example.net"],
            "cc": "dora@example.net",
            "subject": "Your order 1234 ✓",
            "plain": "Thank you.",
            "html": '<p>Thank you. <img src="cid:pixel" alt=""></p>',
            "headers": {"X-Order": "1234"},
            "attachments": [
                {"file_name": "pixel.png", "content": _PIXEL, "content_type": "image/png", "content_id": "pixel"}
            ],
            "tags": ["orders"],
            "metadata": {"order": "1234"},
            "priority": "priority",
            "test_mode": True,
        },
    },
    "markdown": {
        "summary": "From Markdown",
        "value": {
            "from": "ann@example.com",
            "to": "bob@example.net",
            "subject": "News",
            "markdown": "# News\n\nIt was **warm**.\n",
            "tags": "newsletter, august",
            "priority": "digest",
            "unsubscribe": True,
            "test_mode": True,
        },
    },
    "raw": {
        "summary": "A whole message",
        "value": {
            "from": "ann@example.com",
            "to": "bob@example.net",
            "raw": "From: Ann <ann@example.com>\r\nTo: bob@example.net\r\nSubject: Whole\r\n\r\nAll of it.\r\n",
            "test_mode": True,
        },
    },
}
