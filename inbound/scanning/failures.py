"""Why a scanner gave no verdict. None of these leaves `inbound.scanning`."""

from __future__ import annotations


class ScannerFailure(Exception):
    """Base; its text is the reason, for the log and the verdict."""


class Unreachable(ScannerFailure):
    """Nobody takes the connection, or nobody did a moment ago."""


class NoAnswer(ScannerFailure):
    """It took the connection, but what it answered is late, cut short or no answer of this protocol."""


class Declined(ScannerFailure):
    """It works, but will not or cannot judge this message."""


class NoTimeLeft(ScannerFailure):
    """The time for scanners was over before this one was asked, which says nothing about it."""
