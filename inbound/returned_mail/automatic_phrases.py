"""By what answers of programs are known where no header says it: wordings of mail programs in many languages.

All of these are weak signs: people write such subjects too. `inbound.returned_mail.automatic` asks for a second one.
"""

from __future__ import annotations

AWAY_SUBJECTS = (
    # English
    *("automatic reply", "auto reply", "auto-reply", "autoreply", "auto response", "auto-response", "autoresponse"),
    *("out of office", "out of the office", "away from the office", "away from my mail", "vacation", "on vacation"),
    *("automated reply", "automated response", "automatic response", "on leave", "i am away", "i'm away"),
    # German
    *("automatische antwort", "abwesenheitsnotiz", "abwesend", "abwesenheit", "automatische rückantwort"),
    *("nicht im büro", "außer haus", "ausser haus", "autom. antwort"),
    # French
    *("réponse automatique", "absence du bureau", "message d'absence", "absent du bureau", "notification d'absence"),
    # Spanish
    *("respuesta automática", "fuera de la oficina", "fuera de oficina", "ausencia de la oficina"),
    # Italian
    *("risposta automatica", "fuori sede", "fuori ufficio", "assenza dall'ufficio"),
    # Portuguese
    *("resposta automática", "fora do escritório", "ausência temporária"),
    # Dutch
    *("automatisch antwoord", "afwezigheidsbericht", "niet aanwezig", "afwezig"),
    # Swedish, Norwegian, Danish
    *("automatiskt svar", "frånvaro", "autosvar", "automatisk svar", "fraværsmelding", "fravær", "ikke til stede"),
    # Finnish, Estonian
    *("automaattinen vastaus", "poissa", "automaatvastus"),
    # Polish
    *("odpowiedź automatyczna", "automatyczna odpowiedź", "autoodpowiedź", "nieobecność", "poza biurem"),
    # Czech, Slovak
    *("automatická odpověď", "automatická odpoveď", "mimo kancelář", "nepřítomnost", "neprítomnosť"),
    # Hungarian
    *("automatikus válasz", "házon kívül"),
    # Romanian
    *("răspuns automat", "raspuns automat", "în afara biroului"),
    # Russian, Ukrainian, Bulgarian
    *("автоматический ответ", "автоответ", "нет на месте", "вне офиса", "автоматична відповідь"),
    *("автоматичен отговор",),
    # Greek
    *("αυτόματη απάντηση", "εκτός γραφείου"),
    # Turkish
    *("otomatik yanıt", "ofis dışında", "otomatik cevap"),
    # Croatian, Serbian, Slovene
    *("automatski odgovor", "samodejni odgovor", "odsutnost"),
    # Lithuanian, Latvian
    *("automatinis atsakymas", "automātiska atbilde"),
    # Hebrew, Arabic
    *("תשובה אוטומטית", "מענה אוטומטי", "رد تلقائي", "خارج المكتب"),
    # Chinese, Japanese, Korean
    *("自动回复", "自動回覆", "自動回復", "自動応答", "自動返信", "不在通知", "자동 회신", "부재 중", "자동 응답"),
    # Vietnamese, Indonesian, Thai
    *("trả lời tự động", "balasan otomatis", "ตอบกลับอัตโนมัติ"),
)
"""Beginnings of subjects."""

REPLY_SUBJECTS = (
    *("re:", "re :", "re[", "fw:", "fwd:", "aw:", "antw:", "antwort:", "wg:", "sv:", "vs:", "vb:", "vl:", "odp:"),
    *(
        "res:",
        "enc:",
        "rv:",
        "tr:",
        "rif:",
        "i:",
        "r:",
        "ynt:",
        "ilt:",
        "ha:",
        "atb:",
        "回复:",
        "回复：",
        "答复:",
        "答复：",
    ),
    *("转发:", "转发：", "返信:", "返信："),
)
"""Beginnings of subjects that people's programs put before ours."""

AWAY_WORDS = (
    *("out of the office", "out of office", "on vacation", "on holiday", "on leave", "annual leave", "maternity leave"),
    *("i am away", "i'm away", "limited access to", "will be back", "will return", "no longer with", "has left"),
    *("automatic reply", "automated reply", "automated response", "auto-generated", "automatically generated"),
    *("nicht im büro", "im urlaub", "abwesend", "nicht erreichbar", "außer haus", "automatisch erzeugt"),
    *(
        "suis absent",
        "en congé",
        "de retour le",
        "en vacances",
        "fuera de la oficina",
        "de vacaciones",
        "estaré ausente",
    ),
    *(
        "fuori ufficio",
        "in ferie",
        "sono assente",
        "sarò assente",
        "fora do escritório",
        "de férias",
        "ausente",
        "afwezig",
        "met vakantie",
    ),
    *("på semester", "inte på kontoret", "på ferie", "ikke på kontoret", "lomalla", "poza biurem", "na urlopie"),
    *("na dovolené", "mimo kancelář", "szabadság", "házon kívül", "în concediu", "в отпуске", "отсутству"),
    *("у відпустці", "в отпуск", "εκτός γραφείου", "izinde", "yıllık izin", "na godišnjem", "na dopustu"),
    *(
        "atostog",
        "atvaļinājum",
        "puhkus",
        "休假",
        "不在办公室",
        "外出",
        "休暇",
        "不在",
        "휴가",
        "부재",
        "nghỉ phép",
        "cuti",
    ),
    *("חופשה", "إجازة", "خارج المكتب"),
)
"""Pieces of what such answers say."""

CHALLENGE_SUBJECTS = (
    *("please confirm your message", "please confirm your email", "confirm your email to", "confirmation required"),
    *("verification required", "please verify your email", "please verify your message", "sender verification"),
    *("your mail to", "your message awaits", "awaiting your verification", "[boxbe", "[spamarrest", "spam arrest"),
    *("confirme su mensaje", "confirmação de email", "veuillez confirmer votre message", "bitte bestätigen sie ihre"),
    *("quick validation", "one time verification", "email approval required", "action required to deliver"),
)
CHALLENGE_WORDS = (
    *("challenge/response", "challenge-response", "prove you are human", "prove that you are a human", "not a spammer"),
    *("your message to me has been held", "your message will be delivered once", "click the link below to verify"),
    *("click the following link to confirm", "before your message can be delivered", "approved sender"),
    *("add you to my list of allowed senders", "added to the recipient's approved", "guest list", "allowed senders"),
    *("spam arrest", "boxbe", "choicemail", "tmda", "uol antispam", "anti-spam uol", "antispam uol", "bluebottle"),
    *("mailwasher", "spamblocks", "knowspam", "qurb", "mail in limbo", "digiportal", "0spam", "sendio"),
    *("cliquez sur le lien", "mailinblack", "para confirmar su mensaje", "klicken sie auf den folgenden link"),
)
"""A subject and a piece of the text, or a header below, make a challenge."""

CHALLENGE_HEADERS = (
    ("x-delivery-agent", "tmda"),
    ("x-mailer", "choicemail"),
    ("x-mailer", "spamarrest"),
    ("x-choicemail-registration-request", ""),
    ("x-spamarrest", ""),
    ("x-boxbe-message", ""),
    ("x-uol-antispam", ""),
    ("x-mib-challenge", ""),
    ("from", "@spamarrest.com"),
    ("from", "@boxbe.com"),
    ("from", "@spam.uol.com.br"),
    ("from", "anti-spam uol"),
    ("from", "mailinblack"),
)
"""A field, and a piece of its value."""
