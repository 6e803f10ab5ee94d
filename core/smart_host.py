"""The relay that takes all mail we send: `PILLARBOX_SMART_HOST`, read. Its password is never shown, in errors neither.

`host:port` for one that knows us by our address; `smtp://user:password@host:port` for one that wants a login (STARTTLS
first), `smtps://…` for one that speaks TLS from the first byte (RFC 8314). `%`-escapes stand for odd characters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from core.errors import ConfigurationError
from core.setting_values import Listen, read_listen

NAME = "PILLARBOX_SMART_HOST"
SCHEMES = {"smtp": 587, "smtps": 465}
"""And their ports (RFC 8314 section 3.3)."""
MAX_LOGIN_OCTETS = 255
"""Of name and password each (RFC 4616 section 2)."""
_FORM = "is neither `host:port` nor `smtp://user:password@host:port` (or `smtps://`)"


@dataclass(frozen=True, slots=True)
class Login:
    """How we log in to the relay (SASL PLAIN, RFC 4616)."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Relay:
    """Where all mail goes."""

    place: Listen
    is_tls: bool = False
    """Whether TLS begins with the connection."""
    login: Login | None = None

    @property
    def is_checked(self) -> bool:
        """Whether its certificate must be valid: no password is told to whoever answers."""
        return self.is_tls or self.login is not None


def read_relay(text: str) -> Relay | None:
    """Read the setting; None when it is empty. Raises `ConfigurationError`."""
    given = text.strip()
    if not given:
        return None
    if "://" not in given:
        if "@" in given:
            raise ConfigurationError(f"{NAME} {_FORM}: a login needs a scheme before it")
        return Relay(read_listen(NAME, given))
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{NAME} {_FORM}") from None  # the reason quotes the text
    if parts.scheme not in SCHEMES or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigurationError(f"{NAME} {_FORM}; a `/`, `?`, `#` or `@` in a password is written as %2F, %3F, …")
    place = Listen(parts.hostname, port or SCHEMES[parts.scheme])
    return Relay(place, parts.scheme == "smtps", _login(parts))


def _login(parts: SplitResult) -> Login | None:
    if parts.username is None and parts.password is None:
        return None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    fits = all(0 < len(one.encode("utf-8", "replace")) <= MAX_LOGIN_OCTETS for one in (user, password))
    if not fits or "\0" in user + password:
        raise ConfigurationError(f"{NAME}: user and password must have 1 to {MAX_LOGIN_OCTETS} bytes each")
    return Login(user, password)
