"""Those who verify what we sign: dkimpy, Perl's Mail::DKIM, and our own receiving side."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dkim

from core.sending.sending_domains import KeyAlgorithm, KeyPair, key_name, new_key
from outbound.dkim import SigningKey
from tests.programs import missing, need_program

DOMAIN = "sender.example"
PAST_MS = 1_700_000_000_000
"""When the tests sign: before any clock that runs them, as dkimpy and Mail::DKIM look at the real one."""
PERL_S = 60
PERL_VERIFIER = """
use strict; use warnings;
use Mail::DKIM::Verifier; use Mail::DKIM::DNS; use Net::DNS;
my $resolver = Net::DNS::Resolver->new(nameservers => [$ARGV[1]], port => $ARGV[0], recurse => 1);
Mail::DKIM::DNS::resolver($resolver);
for my $path (@ARGV[2..$#ARGV]) {
  my $verifier = Mail::DKIM::Verifier->new();
  open(my $file, '<:raw', $path) or die $!;
  local $/; $verifier->PRINT(<$file>); $verifier->CLOSE;
  print $verifier->result_detail, "\\n";
}
"""


@dataclass(frozen=True)
class Signer:
    """A key as we sign with it, and what its owner publishes."""

    pair: KeyPair
    key: SigningKey

    @property
    def record_name(self) -> str:
        return key_name(self.key.selector, self.key.domain)


@cache
def signer(algorithm: KeyAlgorithm, selector: str = "") -> Signer:
    """The same one each time."""
    pair = new_key(algorithm)
    return Signer(pair, SigningKey(DOMAIN, selector or algorithm.value, pair.private_pem, algorithm))


def dkimpy_accepts(message: bytes, by: Signer, index: int = 0) -> bool:
    """What dkimpy thinks of one signature, the first if no other is named."""
    records = {f"{by.record_name}.".encode(): by.pair.public_record.encode()}
    verifier = dkim.DKIM(message)
    try:
        return bool(verifier.verify(idx=index, dnsfunc=lambda name, timeout=5: records.get(bytes(name))))
    except dkim.DKIMException:  # a body that has changed, or no From field
        return False


def perl_says(port: int, *paths: str, server: str = "127.0.0.1") -> list[str]:
    """What Mail::DKIM thinks of messages in files, with the keys of a DNS server on this machine."""
    perl = need_program("perl")
    modules = ["-MMail::DKIM::Verifier", "-MNet::DNS"]
    if subprocess.run([perl, *modules, "-e", "1"], capture_output=True, timeout=PERL_S).returncode != 0:
        missing("Mail::DKIM is not installed (Debian package libmail-dkim-perl)")
    done = subprocess.run(
        [perl, "-e", PERL_VERIFIER, str(port), server, *paths], capture_output=True, text=True, timeout=PERL_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def opendkim_says(arrived: Path, keys: Mapping[str, str]) -> list[str]:
    """What OpenDKIM thinks of each signature of a message in a file; `keys` are TXT records by name."""
    published, configuration = arrived.with_name("keys"), arrived.with_name("opendkim.conf")
    published.write_text("".join(f"{name} {text}\n" for name, text in keys.items()))
    configuration.write_text(f"Mode v\nTestPublicKeys {published}\nSyslog no\n")
    command = [need_program("opendkim"), "-x", str(configuration), "-t", str(arrived), "-vv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PERL_S, check=False)
    return re.findall(r"\bdkim=(\w+)", done.stdout)
