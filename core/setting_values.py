"""Fields that are settings, and how the text of a variable becomes a value; errors name the variable and the cure."""

from __future__ import annotations

import ipaddress
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any

from core.errors import ConfigurationError

ENV_KEY = "env"
DOC_KEY = "doc"
DEFAULT_DOMAIN = "pillarbox.test"
ZERO_KEY = "zero"
"""In a field's metadata: 0 is a value too, and means "no limit" or "off"."""
MAX_COUNT_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Listen:
    """A host and port to listen on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or self.host.startswith("127.") or self.host == "::1"

    @property
    def reachable_host(self) -> str:
        """A host at which a process on this machine reaches the listener."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 (compared, not bound)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def setting(env: str, default: Any, doc: str) -> Any:
    """A field that is read from a variable."""
    return field(default=default, metadata={ENV_KEY: env, DOC_KEY: doc})


def limit(env: str, default: int, doc: str) -> Any:
    """A number for which 0 means "no limit" or "off"."""
    return field(default=default, metadata={ENV_KEY: env, DOC_KEY: doc, ZERO_KEY: True})


def read_value(name: str, text: str, entry: Field[Any]) -> Any:
    """Read a value as the type of its field's default says. Raises `ConfigurationError`."""
    default = entry.default
    if isinstance(default, bool):
        return read_switch(name, text)
    if isinstance(default, int):
        return 0 if ZERO_KEY in entry.metadata and text == "0" else read_count(name, text)
    if isinstance(default, Listen):
        return read_listen(name, text)
    if isinstance(default, Path):
        return Path(text).expanduser()
    return text


def read_switch(name: str, text: str) -> bool:
    """Read `on` or `off`. Raises `ConfigurationError`."""
    switches = {
        "on": True,
        "true": True,
        "1": True,
        "yes": True,
        "off": False,
        "false": False,
        "0": False,
        "no": False,
    }
    if text.lower() not in switches:
        raise ConfigurationError(f"{name}: {text!r} is neither `on` nor `off`")
    return switches[text.lower()]


def read_count(name: str, text: str) -> int:
    """Read a whole number above 0. Raises `ConfigurationError`."""
    if not text.isdecimal() or len(text) > MAX_COUNT_DIGITS or int(text) == 0:
        raise ConfigurationError(f"{name}: {text[:80]!r} is not a whole number above 0 and below a billion")
    return int(text)


def read_listen(name: str, text: str) -> Listen:
    """Read `host:port` or `[v6]:port`. Raises `ConfigurationError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536 or not host:
        raise ConfigurationError(f"{name}: {text[:80]!r} is not `host:port`, such as 127.0.0.1:2525")
    return Listen(host.strip("[]"), int(port))


def read_addresses(name: str, text: str) -> tuple[str, ...]:
    """Read IP addresses between commas. Raises `ConfigurationError`."""
    given = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(str(ipaddress.ip_address(part)) for part in given)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {text[:80]!r} is not a list of IP addresses with commas between") from error
