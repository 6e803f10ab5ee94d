"""The new text of replies, in the shapes mail programs write them, and the texts that must not lose a word."""

from __future__ import annotations

import pytest

from inbound.reading.replytext import MAX_REPLY_CHARACTERS, reply_plain

REPLIES = {
    "gmail, wrapped": "Thanks!\n\nOn Mon, May 6, 2024 at 10:11 AM Ann Example <\nann@example.com> wrote:\n\n> old\n",
    "wrapped before the name": "Thanks!\n\nOn Mon, 6 May 2024 10:11:12 +0200\nAnn <ann@example.com> wrote:\n\n> old",
    "german": "Thanks!\n\nAm 06.05.2024 um 10:11 schrieb Ann <ann@example.com>:\n> old",
    "french": "Thanks!\n\nLe lun. 6 mai 2024 à 10:11, Ann <ann@example.com> a écrit :\n> old",
    "spanish": "Thanks!\n\nEl lun, 6 may 2024 a las 10:11, Ann (<ann@example.com>) escribió:\n\n> old",
    "portuguese": "Thanks!\n\nEm seg., 6 de mai. de 2024 às 10:11, Ann <ann@example.com> escreveu:\n\n> old",
    "italian": "Thanks!\n\nIl giorno lun 6 mag 2024 alle ore 10:11 Ann <ann@example.com> ha scritto:\n\n> old",
    "dutch": "Thanks!\n\nOp ma 6 mei 2024 om 10:11 schreef Ann <ann@example.com>:\n\n> old",
    "polish": "Thanks!\n\nDnia 6 maja 2024 10:11 Ann <ann@example.com> napisał(a):\n\n> old",
    "czech": "Thanks!\n\nDne 6. května 2024 10:11 Ann napsal(a):\n> old",
    "swedish": "Thanks!\n\nDen mån 6 maj 2024 kl 10:11 skrev Ann <ann@example.com>:\n\n> old",
    "turkish": "Thanks!\n\nAnn <ann@example.com>, 6 May 2024 Pzt, 10:11 tarihinde şunu yazdı:\n\n> old",
    "russian": "Thanks!\n\n06.05.2024 10:11, Ann пишет:\n> old",
    "russian gmail": "Thanks!\n\nпн, 6 мая 2024 г. в 10:11, Ann <ann@example.com>:\n\n> old",
    "japanese": "Thanks!\n\n2024年5月6日(月) 10:11 Ann <ann@example.com>:\n\n> old",
    "chinese": "Thanks!\n\n在 2024年5月6日，10:11，Ann <ann@example.com> 写道：\n\n> old",
    "korean": "Thanks!\n\n2024년 5월 6일 (월) 오전 10:11, Ann <ann@example.com>님이 작성:\n\n> old",
    "german gmail": "Thanks!\n\nAm Mo., 6. Mai 2024 um 10:11 Uhr schrieb Ann <ann@example.com>:\n\n> old",
    "brazilian": "Thanks!\n\nAnn <ann@example.com> escreveu (segunda, 6/05/2024 à(s) 10:11):\n\n> old",
    "norwegian": "Thanks!\n\nman. 6. mai 2024 kl. 10:11 skrev Ann <ann@example.com>:\n\n> old",
    "danish": "Thanks!\n\nDen man. 6. maj 2024 kl. 10.11 skrev Ann <ann@example.com>:\n\n> old",
    "finnish": "Thanks!\n\nma 6. toukok. 2024 klo 10.11 Ann (ann@example.com) kirjoitti:\n\n> old",
    "czech gmail": "Thanks!\n\npo 6. 5. 2024 v 10:11 odesílatel Ann <ann@example.com> napsal:\n\n> old",
    "slovak": "Thanks!\n\npo 6. 5. 2024 o 10:11 Ann <ann@example.com> napísal(a):\n\n> old",
    "hungarian": "Thanks!\n\nAnn <ann@example.com> ezt írta (időpont: 2024. máj. 6., H, 10:11):\n\n> old",
    "romanian": "Thanks!\n\nÎn lun., 6 mai 2024 la 10:11, Ann <ann@example.com> a scris:\n\n> old",
    "ukrainian": "Thanks!\n\nпн, 6 трав. 2024 р. о 10:11 Ann <ann@example.com> пише:\n\n> old",
    "greek": "Thanks!\n\nΣτις Δευ 6 Μαΐ 2024 στις 10:11 π.μ., ο χρήστης Ann <\nann@example.com> έγραψε:\n\n> old",
    "hebrew": "Thanks!\n\n\u202bבתאריך יום ב׳, 6 במאי 2024 ב-10:11 מאת \u202aAnn\u202c\u200f <\u202aann@example.com"
    "\u202c\u200f>:\u202c\n\n> old",
    "arabic": "Thanks!\n\n\u202bفي الاثنين، 6 مايو 2024 في 10:11 ص تمت كتابة ما يلي بواسطة \u202aAnn\u202c <\u202aann@"
    "example.com\u202c\u200f>:\u202c\n\n> old",
    "chinese gmail": "Thanks!\n\nAnn <ann@example.com> 于2024年5月6日周一 10:11写道：\n\n> old",
    "taiwanese": "Thanks!\n\nAnn <ann@example.com> 於 2024年5月6日 週一 上午10:11寫道：\n\n> old",
    "vietnamese": "Thanks!\n\nVào Th 2, 6 thg 5, 2024 vào lúc 10:11 Ann <ann@example.com> đã viết:\n\n> old",
    "indonesian": "Thanks!\n\nPada Sen, 6 Mei 2024 pukul 10.11 Ann <ann@example.com> menulis:\n\n> old",
    "thai": "Thanks!\n\nในวันที่ จ. 6 พ.ค. 2024 เวลา 10:11 Ann <ann@example.com> เขียนว่า:\n\n> old",
    "bulgarian": "Thanks!\n\nНа пн, 6.05.2024 г. в 10:11 Ann <ann@example.com> написа:\n\n> old",
    "croatian": "Thanks!\n\nAnn <ann@example.com> je napisao u pon 6. svi 2024 u 10:11:\n\n> old",
    "not quoted, in hungarian": "Thanks!\n\nAnn <ann@example.com> ezt írta (időpont: 2024. máj. 6., H, 10:11):\n\nold",
    "not quoted, in hebrew": "Thanks!\n\nבתאריך 6 במאי 2024 ב-10:11 מאת Ann <ann@example.com>:\n\nold",
    "not quoted, in thai": "Thanks!\n\nในวันที่ 6 พ.ค. 2024 เวลา 10:11 Ann <ann@example.com> เขียนว่า:\n\nold",
    "not quoted": "Thanks!\n\nOn Mon, May 6, 2024 at 10:11 AM Ann <ann@example.com> wrote:\n\nold text",
    "outlook": "Thanks!\r\n\r\n________________________________\r\nFrom: Ann <ann@example.com>\r\n"
    "Sent: Monday, 6 May 2024 10:11\r\nTo: Bob <bob@example.net>\r\nSubject: Hi\r\n\r\nold\r\n",
    "outlook in german": "Thanks!\n\nVon: Ann <a@b.example>\nGesendet: 6. Mai 2024 10:11\nAn: B\nBetreff: Hi\n\nold",
    "outlook in french": "Thanks!\n\nDe : Ann <a@b.example>\nEnvoyé : 6 mai 2024 10:11\nÀ : Bob\nObjet : Hi\n\nold",
    "original message": "Thanks!\n\n-----Original Message-----\nFrom: Ann\nold",
    "original message in german": "Thanks!\n\n-----Ursprüngliche Nachricht-----\nVon: Ann\nold",
    "original message of a phone": "Thanks!\n\n-------- Mensagem original --------\nDe: Ann\nold",
    "original message in ukrainian": "Thanks!\n\n----- Оригінальне повідомлення -----\nold",
    "answer below": "On 2024-05-06 10:11, Ann wrote:\n> old\n\nThanks!",
    "answer between": "On 2024-05-06 10:11, Ann wrote:\n> old\nThanks!\n> old\n>> older\n",
    "marker": "Thanks!\n### Reply Above This Line ###\nold",
    "marker in a quotation": "Thanks!\n\nOn Mon, 6 May 2024 at 10:11, App <app@example.com> wrote:\n\n"
    "> ### reply above this line ###\n>\n> old",
}

COPIED_HEADERS = {
    "en": "From Sent To Subject",
    "de": "Von Gesendet An Betreff",
    "fr": "De Envoyé À Objet",
    "es": "De Enviado Para Asunto",
    "it": "Da Inviato A Oggetto",
    "pt": "De Enviado Para Assunto",
    "nl": "Van Verzonden Aan Onderwerp",
    "sv": "Från Skickat Till Ämne",
    "no": "Fra Sendt Til Emne",
    "da": "Fra Sendt Til Emne",
    "fi": "Lähettäjä Lähetetty Vastaanottaja Aihe",
    "pl": "Od Wysłano Do Temat",
    "cs": "Od Odesláno Komu Předmět",
    "sk": "Od Odoslané Komu Predmet",
    "hu": "Feladó Elküldve Címzett Tárgy",
    "ro": "De_la Trimis Către Subiect",
    "tr": "Kimden Gönderildi Kime Konu",
    "ru": "От Отправлено Кому Тема",
    "uk": "Від Надіслано Кому Тема",
    "el": "Από Στάλθηκε Προς Θέμα",
    "he": "מאת נשלח אל נושא",
    "ar": "من أرسلت إلى الموضوع",
    "ja": "差出人 送信日時 宛先 件名",
    "ko": "보낸_사람 보낸_날짜 받는_사람 제목",
    "zh-CN": "发件人 发送时间 收件人 主题",
    "zh-TW": "寄件者 寄件日期 收件者 主旨",
    "vi": "Từ Đã_gửi Đến Chủ_đề",
    "id": "Dari Dikirim Kepada Subjek",
    "th": "จาก ส่ง ถึง เรื่อง",
}

KEPT = {
    "no quotation": "Dear all,\n\nplease note: we meet at 10:00.\n\nAnn",
    "own words with wrote": "Hello\nOn Monday John wrote:\n\nplease fix it.\nbye",
    "labels of one's own": "Hi,\nFrom: Berlin\nTo: Paris\nDate: any\nthanks",
    "single words that are labels elsewhere": "Ciao\nData: 5 maja\nDo: mnie\nOd: ciebie\nkoniec",
    "code": "Look:\n  if x > y: z\nand -> that",
    "signature of a phone": "Thanks\n\nSent from my iPhone",
    "own words with wrote in a sentence with a time": "Hi\nYou wrote at 10:11 that it fails: it does not.\nbye",
    "labels of two languages": "Hi,\nFrom: a@example.com\nNach: 10:11\nVia: x\nthanks",
    "signature": "Thanks\n\n-- \nAnn\nwww.example.com",
    "forwarded by gmail": "FYI\n\n---------- Forwarded message ---------\nFrom: Ann <a@example.com>\n"
    "Date: Mon, 6 May 2024 at 10:11\nSubject: x\nTo: <b@example.com>\n\nbody",
    "forwarded by outlook": "From: Ann <ann@example.com>\nSent: Monday, 6 May 2024 10:11\nTo: Bob\nSubject: Hi\n\nbody",
    "list of steps": "Best regards are not the end:\n- one\n- two\nDisclaimer: none of this email is binding",
    "horizontal rules": "a\n----------\nb\n__________\nc",
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_what_its_writer_typed(name: str) -> None:
    assert reply_plain(REPLIES[name]) == "Thanks!"


@pytest.mark.parametrize("name", REPLIES)
def test_line_ends_make_no_difference(name: str) -> None:
    assert reply_plain(REPLIES[name].replace("\r\n", "\n").replace("\n", "\r\n")) == "Thanks!"


@pytest.mark.parametrize("language", COPIED_HEADERS)
@pytest.mark.parametrize("mark", ["{}: {}", "*{}:* {}", "{}：{}"])
def test_a_copied_header_ends_the_reply_in_every_language(language: str, mark: str) -> None:
    values = ("Ann <ann@example.com>", "Monday, 6 May 2024 10:11", "Bob", "Hi")
    labels = COPIED_HEADERS[language].split()
    lines = [mark.format(label.replace("_", " "), value) for label, value in zip(labels, values, strict=True)]
    assert reply_plain("\n".join(["Thanks!", "", *lines, "", "old"])) == "Thanks!"
    assert reply_plain("\n".join([*lines, "", "forwarded"])) == "\n".join([*lines, "", "forwarded"])


@pytest.mark.parametrize("name", KEPT)
def test_what_may_be_the_writers_own_stays(name: str) -> None:
    assert reply_plain(KEPT[name]) == KEPT[name].strip()


def test_only_the_line_that_introduces_a_quotation_goes() -> None:
    text = "On reflection, yes.\nOn Mon, 6 May 2024 10:11, Ann wrote:\n> old"
    assert reply_plain(text) == "On reflection, yes."


@pytest.mark.parametrize(("plain", "reply"), [(None, None), ("", ""), ("> all\n> quoted", ""), (" \n", "")])
def test_empty_texts(plain: str | None, reply: str | None) -> None:
    assert reply_plain(plain) == reply


def test_a_text_beyond_the_limit_is_returned_whole() -> None:
    text = "Answer\n> old\n" + "x" * MAX_REPLY_CHARACTERS
    assert reply_plain(text) == text


def test_a_separator_inside_a_quotation_cuts_nothing_below_it() -> None:
    text = "On 2024-05-06 10:11, Ann wrote:\n> -----Original Message-----\n> From: Bob\nMy answer"
    assert reply_plain(text) == "My answer"
