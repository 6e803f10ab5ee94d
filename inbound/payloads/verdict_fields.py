"""What the checks found out, under the names of the contract (docs/payloads.md); no key for what did not run."""

from __future__ import annotations

from typing import Any

from core.verdicts import (
    ArcVerdict,
    AttachmentScan,
    AuthResult,
    DkimSignature,
    DkimVerdict,
    DmarcVerdict,
    SpamVerdict,
    SpfVerdict,
    Verdicts,
)
from inbound.payloads.written_text import valid_text

SCORE_DECIMALS = 3
"""rspamd gives two, SpamAssassin one; the rest of a float is noise."""

Values = dict[str, Any]


def verdict_values(verdicts: Verdicts) -> Values:
    """`spf`, `dkim`, `dmarc`, `arc` and `spamd`, as far as these were looked at."""
    values: Values = {}
    if verdicts.spf is not None:
        values["spf"] = spf_values(verdicts.spf)
    if verdicts.dkim is not None:
        values["dkim"] = _dkim(verdicts.dkim)
    if verdicts.dmarc is not None:
        values["dmarc"] = _dmarc(verdicts.dmarc, verdicts)
    if verdicts.arc is not None:
        values["arc"] = _arc(verdicts.arc)
    if verdicts.spam is not None:
        values["spamd"] = _spamd(verdicts.spam)
    return values


def spf_values(spf: SpfVerdict) -> Values:
    """The result, and the domain it is about."""
    return {"result": spf.result, "domain": valid_text(spf.domain)}


def scan_values(scan: AttachmentScan) -> Values:
    """The virus scan of one attachment."""
    matches = [valid_text(match) for match in scan.matches]
    return {"status": scan.status, "matches": matches, "md5": scan.md5, "sha256": scan.sha256}


def score_text(score: float) -> str:
    """A spam score as the contract has it, a string: `5.0`, `-0.25`."""
    return str(round(float(score), SCORE_DECIMALS))


def _dkim(dkim: DkimVerdict) -> Values:
    """`success` says that the check came to an end: DNS answered for all signatures, or for one that passes."""
    results = {signature.result for signature in dkim.signatures}
    success = AuthResult.PASS in results or AuthResult.TEMPERROR not in results
    return {"success": success, "result": _signatures(dkim)}


def _signatures(dkim: DkimVerdict | None) -> list[Values]:
    return [_signature(signature) for signature in dkim.signatures] if dkim is not None else []


def _signature(signature: DkimSignature) -> Values:
    values: Values = {
        "result": signature.result,
        "domain": valid_text(signature.domain),
        "selector": valid_text(signature.selector),
        "length_limited": signature.is_length_limited,
        "algorithm": None if signature.algorithm is None else valid_text(signature.algorithm),
    }
    if signature.reason is not None:
        values["reason"] = valid_text(signature.reason)
    return values


def _dmarc(dmarc: DmarcVerdict, verdicts: Verdicts) -> Values:
    return {
        "success": dmarc.result is not AuthResult.TEMPERROR,
        "result": dmarc.result,
        "details": {
            "domain": valid_text(dmarc.domain),
            "policy": dmarc.policy,
            "spf_result": verdicts.spf.result if verdicts.spf is not None else None,
            "dmarc_spf_result": _aligned(dmarc, dmarc.is_spf_aligned),
            "dmarc_dkim_result": _aligned(dmarc, dmarc.is_dkim_aligned),
            "dkim_results": _signatures(verdicts.dkim),
        },
    }


def _aligned(dmarc: DmarcVerdict, is_aligned: bool) -> AuthResult:
    """What a check is worth to DMARC: a pass counts only for an aligned domain (RFC 7489 section 3.1)."""
    if is_aligned:
        return AuthResult.PASS
    return AuthResult.FAIL if dmarc.result in (AuthResult.PASS, AuthResult.FAIL) else dmarc.result


def _arc(arc: ArcVerdict) -> Values:
    return {
        "result": arc.result,
        "sealers": [valid_text(sealer) for sealer in arc.sealers],
        "trusted": arc.is_trusted,
    }


def _spamd(spam: SpamVerdict) -> Values:
    return {
        "score": None if spam.score is None else score_text(spam.score),
        "symbols": [valid_text(symbol) for symbol in spam.symbols],
        "success": spam.success,
        "description": valid_text(spam.description),
    }
