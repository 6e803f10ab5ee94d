"""What the checks found out about one message: authentication (RFC 8601), spam and viruses.

Found out once for each message, kept with it as JSON, and shown in every payload and status. A check that is switched
off leaves None: nothing is claimed about what was not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import orjson
from pydantic import TypeAdapter


class AuthResult(StrEnum):
    """The results of SPF (RFC 7208 section 2.6), DKIM, DMARC and ARC, as RFC 8601 section 2.7 writes them."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"  # noqa: S105 (a result)
    FAIL = "fail"
    SOFTFAIL = "softfail"
    POLICY = "policy"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class SpfVerdict:
    """Whether the client may send for the domain of MAIL FROM, or of HELO when MAIL FROM is empty."""

    result: AuthResult
    domain: str
    """The domain that was judged, lower-case."""
    is_helo: bool = False
    explanation: str | None = None


@dataclass(frozen=True, slots=True)
class DkimSignature:
    """One DKIM-Signature header (RFC 6376, Ed25519 by RFC 8463) and what became of it."""

    result: AuthResult
    domain: str
    """The `d=` tag, lower-case."""
    selector: str
    algorithm: str | None = None
    is_length_limited: bool = False
    """Whether it has an `l=` tag, so that anything may have been added to the body."""
    reason: str | None = None
    """Why it does not pass, in words."""


@dataclass(frozen=True, slots=True)
class DkimVerdict:
    """All signatures of a message, in message order."""

    signatures: tuple[DkimSignature, ...] = ()

    @property
    def result(self) -> AuthResult:
        """`pass` when any signature passes, else the first one's result; `none` without any."""
        if any(signature.result is AuthResult.PASS for signature in self.signatures):
            return AuthResult.PASS
        return self.signatures[0].result if self.signatures else AuthResult.NONE


class DmarcPolicy(StrEnum):
    """What a domain's owner asks for (RFC 7489 section 6.3)."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class DmarcVerdict:
    """Whether the domain in the From header is who it says (RFC 7489)."""

    result: AuthResult
    domain: str
    """The domain of the From header, lower-case; empty when there is not exactly one."""
    policy: DmarcPolicy | None = None
    """The policy in force for this domain (`p` or `sp`); None without a record."""
    is_spf_aligned: bool = False
    """SPF passes, and for an aligned domain."""
    is_dkim_aligned: bool = False
    """A signature passes, is of an aligned domain, and covers the whole body."""


@dataclass(frozen=True, slots=True)
class ArcVerdict:
    """The chain of those who handled the message before (RFC 8617)."""

    result: AuthResult
    sealers: tuple[str, ...] = ()
    """The `d=` of each ARC-Seal, the oldest first."""
    is_trusted: bool = False
    """The chain passes and its last sealer is one we trust (`PILLARBOX_TRUSTED_SEALERS`)."""


@dataclass(frozen=True, slots=True)
class SpamVerdict:
    """What SpamAssassin or rspamd says."""

    success: bool
    """Whether the scanner answered."""
    score: float | None = None
    symbols: tuple[str, ...] = ()
    description: str = ""
    is_spam: bool = False
    """By the scanner's own threshold."""
    is_skipped: bool = False
    """Whether the scanner was not asked, because the message is too large for it: that is no failure."""


class ScanStatus(StrEnum):
    """Where the virus scan of one attachment stands."""

    OK = "ok"
    FOUND = "found"
    PENDING = "pending"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AttachmentScan:
    """The virus scan of one attachment; they stand in the order of the attachments."""

    status: ScanStatus
    md5: str
    sha256: str
    matches: tuple[str, ...] = ()
    """Names of the signatures that were found."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Everything that was found out about one message."""

    spf: SpfVerdict | None = None
    dkim: DkimVerdict | None = None
    dmarc: DmarcVerdict | None = None
    arc: ArcVerdict | None = None
    spam: SpamVerdict | None = None
    scans: tuple[AttachmentScan, ...] | None = None
    judged_ip: str | None = None
    """The client that SPF was judged by, when it is not the one that connected: behind a trusted forwarder."""
    judged_helo: str | None = None
    """The name that client gave, as the forwarder wrote it down."""
    checked_ms: int = 0

    def to_json(self) -> str:
        """For the database."""
        return orjson.dumps(self).decode()


_ADAPTER: TypeAdapter[Verdicts] = TypeAdapter(Verdicts)


def read_verdicts(text: str) -> Verdicts:
    """What `to_json` wrote; also what an older version of it wrote, as long as fields are only added."""
    return _ADAPTER.validate_json(text)
