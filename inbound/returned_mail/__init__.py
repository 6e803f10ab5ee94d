"""Understanding what comes back for mail we sent: bounces, complaints, automatic answers, and people.

`classifier` is the way in; `opened` takes a message apart; `delivery_status`, `feedback`, `text_bounce` and `automatic`
each know one kind; `original` finds the mail it is about. What the results are is in `core.sending.returned`.
"""

from inbound.returned_mail.classifier import classify

__all__ = ["classify"]
