"""Asking spam and virus scanners, which run beside us, about one message. All of them are optional.

A scanner that is down, slow or talks nonsense never stops mail: its verdict then says that it failed. `scanners` is
the way in; `spamd`, `rspamd` and `clamd` each speak one protocol over `connection`, and `availability` remembers which
of them is out of order.
"""

from inbound.scanning.facts import MailFacts
from inbound.scanning.scanners import Scanners

__all__ = ["MailFacts", "Scanners"]
