"""What to tell an operator when a port cannot be listened on."""

from __future__ import annotations

import errno

from core.errors import ConfigurationError
from core.setting_values import Listen

_CURES = {
    errno.EADDRINUSE: "stop what listens there, or choose another port",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; or choose another",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 is all of them",
}


def cannot_listen(setting: str, listen: Listen, error: OSError) -> ConfigurationError:
    """The error that names the setting and the cure."""
    cure = _CURES.get(error.errno or 0, "give `host:port` of this machine")
    return ConfigurationError(f"{setting}: cannot listen on {listen} ({error.strerror}); {cure}")
