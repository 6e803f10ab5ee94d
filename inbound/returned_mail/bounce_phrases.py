"""By what bounces without a status report are known: fixed phrases and marks of the software that writes them.

Each phrase is in lower case with single spaces, short enough that a program's next version still has it.
"""

from __future__ import annotations

FAILURE_PHRASES: tuple[tuple[str, str], ...] = (
    ("qmail", "this is the qmail-send program"),
    ("qmail", "i'm afraid i wasn't able to deliver"),
    ("Exim", "could not be delivered to one or more of its recipients"),
    ("Exim", "this message was created automatically by mail delivery software"),
    ("Postfix", "this is the mail system at host"),
    ("Postfix", "this is the postfix program at host"),
    ("Postfix", "your message could not be delivered to one or more recipients"),
    ("Postfix", "could not be delivered to one or more destinations"),
    ("Sendmail", "the following addresses had permanent fatal errors"),
    ("Sendmail", "the following addresses had fatal errors"),
    ("Sendmail", "transcript of session follows"),
    ("AOL", "the following addresses had delivery problems"),
    ("AOL", "your mail to the following recipients could not be delivered"),
    ("Exchange", "did not reach the following recipient"),
    ("Exchange", "did not reach some or all of the intended recipients"),
    ("Exchange", "delivery has failed to these recipients"),
    ("Exchange", "diagnostic information for administrators"),
    ("Exchange", "undeliverable to the following"),
    ("Office 365", "couldn't be delivered"),
    ("Office 365", "your message wasn't delivered"),
    ("Office 365", "wasn't found at"),
    ("Gmail", "delivery to the following recipient failed permanently"),
    ("Gmail", "delivery to the following recipients failed permanently"),
    ("Gmail", "technical details of permanent failure"),
    ("Gmail", "the response from the remote server was"),
    ("Yahoo", "unable to deliver message to the following address"),
    ("Yahoo", "sorry, we were unable to deliver your message to the following address"),
    ("Domino", "was not delivered to:"),
    ("Domino", "not listed in domino directory"),
    ("IMail", "undeliverable mail to"),
    ("IMail", "undeliverable to"),
    ("MailEnable", "message could not be delivered to some recipients"),
    ("MailEnable", "the following recipient(s) could not be reached"),
    ("MDaemon", "did not receive a copy of your message"),
    ("MDaemon", "had permanent fatal delivery errors"),
    ("MDaemon", "has been delivered to the following addresses failed"),
    ("MDaemon", "reached the following retry"),
    ("Kerio", "your message could not be delivered because"),
    ("CommuniGate", "failed to deliver to"),
    ("GroupWise", "the message that you sent was undeliverable to the following"),
    ("GroupWise", "undeliverable to the following:"),
    ("smail", "failed addresses follow:"),
    ("smail", "no valid recipients were found for this message"),
    ("Courier", "this is a delivery status notification from"),
    ("Courier", "undelivered mail. your message could not be delivered"),
    ("Amazon SES", "an error occurred while trying to deliver the mail to the following recipients"),
    ("Mimecast", "your email could not be delivered"),
    ("Barracuda", "your message was not delivered to the following"),
    ("Sun", "this report relates to a message you sent with the following header fields"),
    ("Sun", "your message cannot be delivered to the following recipients"),
    ("Apple", "your message could not be delivered to the following"),
    ("a mail system", "could not be delivered to the following"),
    ("a mail system", "was not delivered to the following"),
    ("a mail system", "unable to deliver your message to"),
    ("a mail system", "delivery to the following recipients failed"),
    ("a mail system", "delivery to the following recipient failed"),
    ("a mail system", "could not be delivered to:"),
    ("a mail system", "your message to the following recipients"),
    ("a mail system", "undeliverable message"),
    ("a mail system (de)", "konnte nicht zugestellt werden"),
    ("a mail system (de)", "konnte an folgende empfänger nicht zugestellt"),
    ("a mail system (de)", "konnte nicht an folgende"),
    ("a mail system (fr)", "n'a pas pu être remis"),
    ("a mail system (fr)", "n'a pas pu être délivré"),
    ("a mail system (fr)", "échec de la remise"),
    ("a mail system (es)", "no se pudo entregar"),
    ("a mail system (es)", "no se ha podido entregar"),
    ("a mail system (it)", "non è stato possibile recapitare"),
    ("a mail system (it)", "impossibile recapitare"),
    ("a mail system (pt)", "não pôde ser entregue"),
    ("a mail system (pt)", "não foi possível entregar"),
    ("a mail system (nl)", "kon niet worden afgeleverd"),
    ("a mail system (nl)", "kan niet worden bezorgd"),
    ("a mail system (pl)", "nie można dostarczyć"),
    ("a mail system (ru)", "не может быть доставлено"),
    ("a mail system (ru)", "не было доставлено"),
    ("a mail system (ja)", "配信できませんでした"),
    ("a mail system (zh)", "无法投递"),
    ("a mail system (zh)", "退信"),
)
"""Who writes it, and the phrase. Only looked at where the sender is a mail system or nobody."""

DELAY_PHRASES = (
    "this is a warning message only",
    "has not yet been delivered",
    "not yet been delivered",
    "you do not need to resend",
    "you don't need to resend",
    "do not need to resend",
    "do not need to re-send",
    "temporary failure report",
    "no action is required on your part",
    "delivery attempts will continue",
    "will continue to be tried",
    "message still undelivered",
    "has been delayed",
    "delivery to the following recipients has been delayed",
    "delivery is delayed",
    "there was a temporary problem delivering your message",
    "delivery incomplete",
    "will be retried for",
    "will retry for",
    "we will continue to try to deliver",
    "die zustellung verzögert sich",
)
"""The host is still trying."""

SUCCESS_PHRASES = (
    *("successfully delivered", "successfully relayed", "delivery has been successful", "delivered successfully"),
    *("was delivered to the following", "your message was delivered", "your message has been delivered"),
    *("has been delivered to the following", "successfully expanded", "erfolgreich zugestellt"),
)
"""The mail has arrived, or gone on. Only looked at where no phrase of a failure is found."""
SUCCESS_SUBJECTS = ("successful", "notification (success)", "notification (relay)", "notification (expanded)")
"""Pieces of the subject of such a notice."""

BOUNCE_SUBJECTS = (
    *("undeliver", "mail delivery fail", "delivery fail", "failure notice", "delivery status notification"),
    *("returned mail", "mail system error", "delivery report", "delivery notification", "delivery delayed"),
    *("mail delivery problem", "delivery problem", "message status", "mail could not be delivered", "nondeliverable"),
    *("non delivery", "non-delivery", "warning: message", "warning: could not send", "mail delivery system"),
    *("delivery warning", "not delivered", "rejected mail", "failed mail", "bounce", "mail returned"),
    *("unzustellbar", "nicht zustellbar", "zustellung fehlgeschlagen", "non remis", "non distribué", "échec de remise"),
    *("no se puede entregar", "no entregado", "correo devuelto", "non recapitabile", "mancato recapito"),
    *("não entregue", "não é possível entregar", "onbestelbaar", "niet bezorgd", "nie dostarczono", "недоставленное"),
    *("не доставлено", "配信不能", "未送達", "退信", "配達不能", "olevererbart", "kan ikke leveres", "toimittaminen"),
)
"""Lower-case pieces of the subject of a bounce: never enough alone."""

MAIL_SYSTEMS = frozenset(
    {"mailer-daemon", "postmaster", "mail-daemon", "mdaemon", "maildaemon", "mailerdaemon", "mail-delivery-system"}
    | {"mail-delivery-subsystem", "mail_daemon", "smtp-daemon", "bounce", "bounces", "microsoftexchange"}
)
"""Local parts of those who write bounces."""

COPY_MARKS = (
    *(
        "below this line is a copy",
        "below this line",
        "this is a copy of",
        "the header of the original",
        "original message headers",
    ),
    *("unsent message follows", "message text follows", "message header follows", "original message follows"),
    *("undelivered message follows", "header of the original", "returned message follows", "original message ---"),
    *("--- original message", "---original message", "original message header", "message headers follow"),
    *("headers follow", "the original message is attached", "begin original message", "start of returned message"),
    *("your original message", "ursprüngliche nachricht", "kopie der nachricht", "message d'origine"),
)
"""Pieces of the line behind which our own mail is returned."""
