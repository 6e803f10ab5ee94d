"""What hosts say when they refuse a mail, sorted by what it means: fixed pieces of text that server software emits.

Only consulted where status codes leave it open (`core.sending.returned`). Pieces are in lower case with single
spaces; addresses and URLs are taken out of a text before it is searched, so that `user@spamhaus.org` says nothing.
"""

from __future__ import annotations

MAX_SEARCHED = 4000
"""Characters of a diagnostic that are looked at."""

SOFT_PIECES = (
    # mailbox full
    *("quota", "mailbox full", "mailbox is full", "mail box full", "mailbox size limit", "inbox is full"),
    *("inbox full", "out of storage", "insufficient storage", "storage limit", "not enough space", "disk full"),
    *("no space left", "insufficient disk", "exceeded storage", "mailfolder is full", "maildir over", "box is full"),
    *("mailbox exceeds", "mailboxfull", "quotaexceeded", "postfach voll", "postfach ist voll", "boite pleine"),
    *("boîte pleine", "boîte aux lettres est pleine", "buzón lleno", "casella piena", "caixa cheia", "ящик переполнен"),
    "邮箱已满",
    # later
    *(
        "greylist",
        "graylist",
        "grey-list",
        "try again later",
        "try later",
        "retry later",
        "temporar",
        "too many connections",
    ),
    *("too many messages", "too many unknown", "too many invalid", "too many errors", "rate limit", "ratelimit"),
    *("at a rate", "throttl", "too busy", "system busy", "resources unavailable", "deferred"),
    *("timed out", "timeout", "time out", "connection refused", "connection reset", "no route to host"),
    *("connection dropped", "lost connection", "network is unreachable", "retry timeout exceeded", "message expired"),
    *("delivery time expired", "could not be delivered for", "been in the queue too long", "too long in queue"),
    *("couldn't find any host", "couldn't establish an smtp connection", "server configuration", "mail loop"),
    *("loops back to myself", "too many hops", "hop count", "routing loop", "too many recipients"),
)
"""Not now: the mailbox is full, the host is busy, our mail waited too long."""
SENDER_PIECES = (
    *("sender address", "sender domain", "domain of sender", "envelope sender", "sender unknown", "unknown sender"),
    *("invalid sender", "bad sender", "sender verify", "sender rejected", "sender denied", "mail server after mail "),
)
"""It is the sender that is refused, whatever else is said: no word about the recipient."""
BLOCK_PIECES = (
    *SENDER_PIECES,
    # what we are taken for
    *("spam", "junk mail", "blacklist", "black list", "blocklist", "block list", "block-list", "denylist", "dnsbl"),
    *(
        " rbl",
        "blocked",
        "banned",
        " is listed ",
        "listed at",
        "listed by",
        "reputation",
        "abuse",
        "unsolicited",
        "bulk mail",
    ),
    *("unusual rate", "suspicious", "complaint", "phish", "virus", "malware", "infected", "poor sending"),
    # policy and authentication
    *("policy", "policies", "dmarc", "dkim", " spf", "spf ", "sender id", "not authorized", "not authorised"),
    *("authentication required", "authrequired", "authentication is required", "unauthenticated", "not permitted"),
    *("reverse dns", "ptr record", "no ptr", "rdns", "helo", "ehlo"),
    *("internet service provider", "rcpthosts", "reverse lookup", "dynamic"),
    *("relay access denied", "relaying denied", "unable to relay"),
    *("relay not permitted", "not accept mail from", "only accepts mail from", "restricted", "administrative"),
    *("client host rejected", "access denied by", "prohibit", "refused by filter", "tls required", "starttls"),
    # what was sent
    *(
        "content rejected",
        "message rejected",
        "message content",
        "message refused",
        "attachment type",
        "illegal attachment",
        "too large",
    ),
    *(
        "too big",
        "exceeds size",
        "size limit",
        "message size",
        "line too long",
        "not rfc",
        "invalid header",
        "8bitmime",
    ),
    *("smtputf8", "invalid charset"),
)
"""Not from us, or not this: reputation, policy, authentication, content. Says nothing against the address."""
DEAD_PIECES = (
    *("user unknown", "unknown user", "unknown or illegal", "recipient unknown", "unknown recipient"),
    *("unknown local", "unknown address", "address unknown", "unknown mailbox", "mailbox unknown"),
    *("unknown account", "account unknown", "unknown email", "unknown in virtual", "unknown in relay"),
    *("unknown in local", "no such user", "no such recipient", "no such address", "no such mailbox"),
    *("no such account", "no such person", "no such local", "no such domain", "no mailbox", "no account"),
    *("not a valid mailbox", "not a known user", "not a valid recipient", "no user", "nosuchuser"),
    *("user does not exist", "user doesn't exist", "user not exist", "user not found", "user invalid"),
    *("account does not exist", "address does not exist", "mailbox does not exist", "recipient does not exist"),
    *("account doesn't exist", "address doesn't exist", "mailbox doesn't exist", "does not exist here"),
    *("reach does not exist", "reach doesn't exist", "domain does not exist", "domain doesn't exist"),
    *("does not have an account", "doesn't have a", "address not found", "mailbox not found"),
    *("recipient not found", "recipnotfound", "recipientnotfound", "not found by smtp address lookup"),
    *("account not found", "email address could not be found", "address couldn't be found"),
    "because the address couldn't",
    *("address was not found", "wasn't found", "domain not found", "couldn't find the"),
    *("invalid recipient", "recipient invalid", "invalid mailbox", "invalid user", "invalid address"),
    *("addressee unknown", "user not known", "invalid final delivery userid", "name is not recognized"),
    *("bad destination mailbox", "illegal user", "not listed in domino directory"),
    *("not listed in public name", "no longer available", "no longer valid", "no longer exist", "no longer in use"),
    *("no longer active", "no longer employed", "account is not active", "account is disabled"),
    *("account disabled", "account has been disabled", "mailbox disabled", "mailbox is disabled"),
    *("disabled recipient", "user disabled", "user is inactive", "account inactive", "account is inactive"),
    *("inactive user", "mailbox is inactive", "account closed", "account has been closed", "user is terminated"),
    *("account has been deleted", "account deactivated", "deactivated mailbox", "discontinued"),
    *("not our customer", "not a local", "unrouteable address"),
    *("unrouteable mail domain", "unroutable address", "host not found", "host unknown", "unknown host"),
    *("nxdomain", "name or service not known", "nullmx", "null mx"),
    *("undeliverable address", "not our user", "user has moved", "unbekannter empf", "empfänger unbekannt"),
    *("empfänger nicht gefunden", "benutzer unbekannt", "adresse inconnue", "utilisateur inconnu", "n'existe pas"),
    *("no existe", "usuario desconocido", "usuário desconhecido", "não existe", "utente sconosciuto"),
    *("non esiste", "пользователь не найден", "не существует", "用户不存在", "收件人不存在", "存在しません"),
)
"""There is no such mailbox or domain, or it is closed for good."""
HARD_PIECES = (
    *DEAD_PIECES,
    *("mailbox unavailable", "mailbox not available", "address rejected", "recipient rejected", "bad address"),
    *("no valid recipients", "does not accept mail", "no longer accepting mail", "no longer accepts mail"),
)
"""The same, and what is said of a recipient that is refused for another reason too."""


def searchable(text: str) -> str:
    """The words of a text in the form in which pieces are looked for. Linear, total."""
    words = text[:MAX_SEARCHED].lower().replace("\u2019", "'").split()
    return f" {' '.join(word for word in words if '@' not in word and '://' not in word)} "


def holds_any(searched: str, pieces: tuple[str, ...]) -> bool:
    """Whether one of the pieces stands in a text that `searchable` gave."""
    return any(piece in searched for piece in pieces)
