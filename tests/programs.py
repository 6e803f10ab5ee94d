"""The outside programs that tests drive, and what happens where one is missing: a skip with its name.

With `PILLARBOX_TEST_NO_SKIP=1` (as the continuous integration sets it) a missing program is a failure instead.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

DEBIAN_PACKAGES = {
    "postfix": "postfix",
    "smtp-source": "postfix",
    "sendmail": "postfix",
    "postqueue": "postfix",
    "postconf": "postfix",
    "opendkim": "opendkim",
    "unshare": "util-linux",
    "smtp-sink": "postfix",
    "ab": "apache2-utils",
    "swaks": "swaks",
    "redis-server": "redis-server",
    "initdb": "postgresql",
    "curl": "curl",
    "jq": "jq",
    "node": "nodejs",
    "npm": "npm",
    "spamd": "spamd",
    "rspamd": "rspamd",
    "clamd": "clamav-daemon",
    "haproxy": "haproxy",
    "openssl": "openssl",
    "gpg": "gnupg",
    "perl": "perl",
    "chromium": "chromium",
    "gpgconf": "gpgconf",
}
_EXTRA_FOLDERS = ("/usr/sbin", "/usr/local/sbin")


def find_program(name: str) -> str | None:
    """The path of a program, the places Debian hides some in included."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders = os.pathsep.join([os.environ.get("PATH", ""), *_EXTRA_FOLDERS, *map(str, versions)])
    return shutil.which(name, path=folders)


def need_program(name: str) -> str:
    """The path of a program, or the test ends here."""
    found = find_program(name)
    if found is None:
        missing(f"{name} is not installed (Debian package {DEBIAN_PACKAGES[name]})")
    return found


def missing(reason: str) -> None:
    """Skip; fail where skips are forbidden."""
    if os.environ.get("PILLARBOX_TEST_NO_SKIP") == "1":
        pytest.fail(f"skips are forbidden here: {reason}")
    pytest.skip(reason)
