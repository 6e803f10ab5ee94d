"""Why a mail is held: the words that stand with it, and by which the end of a pause knows what it may let go."""

from __future__ import annotations

SPAM_HOLD = "the spam check objects: "
"""Begins the reason of what waits for a person. All else that is held waits for the end of a pause."""
PAUSE_HOLD = "sending is paused: "


def held_for_spam(reason: str) -> str:
    """What is said of a mail that a check before sending holds."""
    return f"{SPAM_HOLD}{reason}"


def held_by_pause(reason: str) -> str:
    """What is said of a mail that came while sending was paused."""
    return f"{PAUSE_HOLD}{reason}"
