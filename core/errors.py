"""The errors that services raise and edges render: each names what was wrong and what to do."""

from __future__ import annotations


class PillarboxError(Exception):
    """Base of every error we raise on purpose; its text is written for the person who caused it."""


class ConfigurationError(PillarboxError):
    """A setting that cannot be used; the text names the environment variable and the cure."""


class InvalidField(PillarboxError):
    """A value given by a caller that cannot be accepted."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class NotFound(PillarboxError):
    """What the caller named does not exist, or is not theirs: the two are never told apart."""


class NotPossibleNow(PillarboxError):
    """What is asked of is there, but not in a state for it: a delivery with its target at this moment, a message whose
    sending has begun, a key that waits already, a pause that only the operator ends."""


class StorageUnavailable(PillarboxError):
    """Database or disk cannot take a write now: to be tried again, never a refusal for good."""


class TargetBlocked(PillarboxError):
    """A URL that must not be called, see `core.netguard`."""
