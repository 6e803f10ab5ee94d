"""The words by which mail programs introduce what they quote, language by language: data, and no judgement.

Thirteen languages come from the mail-parser-reply package; the others, and the forms of Gmail, Outlook, Apple Mail
and phones that it does not know, are listed here.
"""

from __future__ import annotations

import re

from mailparser_reply.constants import MAIL_LANGUAGES

PACKAGE_PHRASES = tuple(
    re.compile(language["wrote_header"], re.IGNORECASE)
    for language in MAIL_LANGUAGES.values()
    if language.get("wrote_header")
)
"""Whole attributions. Meant for a few short lines at a time: over long texts they are not linear."""
PACKAGE_COPIED_HEADERS = tuple(
    re.compile(language["from_header"], re.IGNORECASE | re.MULTILINE)
    for name, language in MAIL_LANGUAGES.items()
    if language.get("from_header") and name != "david"
)
"""Blocks of copied headers, under the same condition."""

WROTE = re.compile(
    r"(?:wrote|schrieb|schreef|a écrit|escribi[óo]|ha scritto|escreveu|napisał(?:a|\(a\))?|skrev|kirjoitti|kirjutas"
    r"|napsal(?:a|\(a\))?|napísal(?:a|\(a\))?|píše|ezt írta|a scris|yazdı|şunu yazdı|va escriure|je napisa[ol]a?"
    r"|napisao je|je napisal(?:a|\(a\))?|rašė|parašė|rakstīja|skrifaði|ha escrit"
    r"|пишет|пише|написала?|написал\(а\)|написали|написав(?:ла|\(ла\))?|пишува|написа|έγραψε"
    r"|כתב(?:ה)?|מאת|كتب(?:ت)?|تمت كتابة ما يلي بواسطة|نوشت|ने लिखा"
    r"|写道|寫道|님이 작성|さんは書きました|のメール|viết|menulis|เขียนว่า|เขียน)"
    r"[^:：]{0,120}(?:[:：][^:：]{0,40}){0,2}\s?[:：]$",
    re.IGNORECASE,
)
"""The end of an attribution, from its verb on; Portuguese and Hungarian programs put the time behind it."""

SEPARATOR = re.compile(
    r"\s{0,8}-{2,20} ?(?:Original Message|Original Email|Ursprüngliche Nachricht|Original-Nachricht"
    r"|Message d'origine|Message original|Mensaje original|Messaggio originale|Mensagem original"
    r"|Oorspronkelijk bericht|Oprindelig (?:meddelelse|besked)|Opprinnelig melding|Ursprungligt meddelande"
    r"|Alkuperäinen viesti|Původní (?:zpráva|e-mail)|Pôvodná správa|Wiadomość oryginalna|Oryginalna wiadomość"
    r"|Eredeti üzenet|Mesaj(?:ul)? (?:original|inițial)|Orijinal (?:Mesaj|mesaj|ileti)|Izvorna poruka"
    r"|Missatge original|Исходное сообщение|(?:Вихідне|Оригінальне) повідомлення|Оригинално съобщение"
    r"|Αρχικό μήνυμα|הודעה מקורית|(?:ال)?رسالة (?:ال)?أصلية|Thư gốc|Tin nhắn gốc|Pesan asli"
    r"|ข้อความ(?:ต้นฉบับ|เดิม)|原始(?:邮件|郵件|信件)|元のメッセージ|オリジナルメッセージ|원본 메시지|원본 이메일)"
    r" ?-{2,20}\s*",
    re.IGNORECASE,
)
"""The line above a copied message."""

FORWARDED = re.compile(
    r"(?:-{3,20} ?|Begin )(?:Forwarded message|Weitergeleitete Nachricht|Message transféré|Mensaje reenviado"
    r"|Messaggio inoltrato|Mensagem (?:re)?encaminhada|Doorgestuurd bericht|Videresendt|Vidarebefordrat|Přeposlaná"
    r"|Preposlaná|Przekazana|Mesaj redirecționat|Пересылаемое|Пересланное|Переслан[еі]|İletilen|Továbbított|Välitetty"
    r"|Προωθημένο|הודעה שהועברה|رسالة معاد توجيهها|Thư được chuyển tiếp|Pesan diteruskan|Pesan terusan"
    r"|ข้อความที่ส่งต่อ|转发|轉寄|転送|전달)",
    re.IGNORECASE,
)
"""The line above a forwarded message, which is never cut."""

COPIED_LABELS = tuple(
    frozenset(labels.casefold().split("|"))
    for labels in (
        "from|sent|to|subject|date|cc|sent at",
        "von|gesendet|an|betreff|datum|cc",
        "de|envoyé|à|objet|date|cc",
        "de|enviado|enviado el|para|asunto|fecha|cc",
        "da|inviato|a|oggetto|data|cc",
        "de|enviada em|enviado|enviada|para|assunto|data|cc",
        "van|verzonden|aan|onderwerp|datum|cc",
        "från|skickat|till|ämne|datum|kopia",
        "fra|sendt|til|emne|dato|kopi|cc",
        "lähettäjä|lähetetty|vastaanottaja|aihe|päivämäärä|kopio|päiväys",
        "od|wysłano|wysłane|do|temat|data|dw",
        "od|odesláno|komu|předmět|datum|kopie",
        "od|odoslané|komu|predmet|dátum|kópia",
        "feladó|elküldve|küldve|küldés dátuma|címzett|tárgy|dátum|másolatot kap",
        "de la|trimis|către|subiect|data|cc",
        "kimden|gönderildi|gönderilme tarihi|gönderen|kime|konu|tarih|bilgi",
        "от|от кого|отправлено|дата|кому|тема|копия",
        "від|від кого|надіслано|дата|кому|тема|копія",
        "от|изпратено|до|относно|дата|копие",
        "από|στάλθηκε|ημερομηνία|προς|θέμα|κοιν.",
        "מאת|נשלח|אל|נושא|תאריך|עותק",
        "من|تم الإرسال|مرسل|أرسلت|التاريخ|تاريخ|إلى|الموضوع|نسخة",
        "差出人|送信者|送信日時|日時|日付|宛先|件名|cc",
        "보낸 사람|보낸사람|보낸 날짜|날짜|받는 사람|받는사람|제목|참조",
        "发件人|发送时间|发送日期|日期|收件人|主题|抄送",
        "寄件者|寄件日期|寄件人|傳送日期|日期|收件者|收件人|主旨|主題|副本",
        "từ|đã gửi|gửi|ngày|đến|tới|chủ đề|tiêu đề|cc",
        "dari|dikirim|tanggal|kepada|ke|subjek|perihal|cc",
        "จาก|ส่ง|ส่งเมื่อ|วันที่|ถึง|เรื่อง|หัวเรื่อง|สำเนา",
        "de|enviat|enviat el|per a|a|assumpte|tema|data",
        "od|poslano|za|prima|predmet|datum",
    )
)
"""Labels of copied headers, a language a set; a line `Label:` of prose is seldom two of one set, and never three."""
