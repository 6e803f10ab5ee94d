"""Public keys of signers, out of the DNS (RFC 6376 section 3.6, RFC 8463 section 4)."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from core.authentication.tags import MalformedTags, TagList, read_tags
from core.dns_lookup import DnsLookup, LookupBudget, RecordType
from core.verdicts import AuthResult

MIN_RSA_BITS = 1024
"""Shorter keys are not believed (RFC 8301 section 3.2)."""
MAX_RSA_BITS = 8192
"""Nobody has such keys; longer ones only cost time."""
MAX_KEY_RECORDS = 4
"""TXT records at one selector that are looked at; there should be one (RFC 6376 section 3.6.2.2)."""
_PREHASHED = Prehashed(SHA256())


class KeyProblem(Exception):
    """No key to verify with, and what that makes of the signature."""

    def __init__(self, result: AuthResult, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A key that can verify."""

    public: RSAPublicKey | Ed25519PublicKey
    is_testing: bool
    """`t=y`: the signer is only trying DKIM out."""
    is_strict: bool
    """`t=s`: no subdomains in `i=`."""

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Whether it is a signature over data with this SHA-256 hash."""
        try:
            if isinstance(self.public, RSAPublicKey):
                self.public.verify(signature, digest, PKCS1v15(), _PREHASHED)
            else:
                self.public.verify(signature, digest)
        except InvalidSignature:
            return False
        return True


def find_key(domain: str, selector: str, algorithm: str, lookup: DnsLookup, budget: LookupBudget) -> SignerKey:
    """The key of a signature; `algorithm` is `rsa` or `ed25519`. Raises `KeyProblem` and `LookupFailed`."""
    texts = lookup.find(f"{selector}._domainkey.{domain}", RecordType.TXT, budget).texts
    problem = KeyProblem(AuthResult.PERMERROR, "there is no key at this selector")
    for text in texts[:MAX_KEY_RECORDS]:
        try:
            return read_key(text, algorithm)
        except MalformedTags as error:
            problem = KeyProblem(AuthResult.PERMERROR, f"the key record is malformed: {error}")
        except KeyProblem as error:
            problem = error
    raise problem


def read_key(text: bytes, algorithm: str) -> SignerKey:
    """The key in one TXT record. Raises `KeyProblem` and `MalformedTags`."""
    tags = read_tags(text)
    tags.require("p")
    if "v" in tags.values and (tags.values["v"] != b"DKIM1" or tags.order[0] != "v"):
        raise MalformedTags("v= is not DKIM1 in first place")
    if tags.text("k", "rsa") != algorithm:
        raise KeyProblem(AuthResult.PERMERROR, f"the key is not one for {algorithm}")
    if "h" in tags.values and "sha256" not in tags.items("h"):
        raise KeyProblem(AuthResult.PERMERROR, "the key does not allow sha256")
    if not {"*", "email"} & set(tags.items("s", "*")):
        raise KeyProblem(AuthResult.PERMERROR, "the key is not one for email")
    if not tags.values["p"]:
        raise KeyProblem(AuthResult.PERMERROR, "the key has been revoked")
    flags = tags.items("t")
    return SignerKey(_read_public(tags, algorithm), "y" in flags, "s" in flags)


def _read_public(tags: TagList, algorithm: str) -> RSAPublicKey | Ed25519PublicKey:
    data = tags.octets("p")
    try:
        if algorithm == "ed25519":
            return Ed25519PublicKey.from_public_bytes(data)
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedTags("p= is no public key") from error
    if not isinstance(key, RSAPublicKey):
        raise MalformedTags("p= is no RSA key")
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise KeyProblem(AuthResult.POLICY, f"an RSA key of {key.key_size} bits is not believed")
    return key
