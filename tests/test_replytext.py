"""The new text of replies, in the shapes mail programs write them, and the texts that must not lose a word."""

from __future__ import annotations

import pytest

from inbound.replytext import MAX_REPLY_CHARACTERS, reply_plain

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
    "not quoted": "Thanks!\n\nOn Mon, May 6, 2024 at 10:11 AM Ann <ann@example.com> wrote:\n\nold text",
    "outlook": "Thanks!\r\n\r\n________________________________\r\nFrom: Ann <ann@example.com>\r\n"
    "Sent: Monday, 6 May 2024 10:11\r\nTo: Bob <bob@example.net>\r\nSubject: Hi\r\n\r\nold\r\n",
    "outlook in german": "Thanks!\n\nVon: Ann <a@b.example>\nGesendet: 6. Mai 2024 10:11\nAn: B\nBetreff: Hi\n\nold",
    "outlook in french": "Thanks!\n\nDe : Ann <a@b.example>\nEnvoyé : 6 mai 2024 10:11\nÀ : Bob\nObjet : Hi\n\nold",
    "original message": "Thanks!\n\n-----Original Message-----\nFrom: Ann\nold",
    "original message in german": "Thanks!\n\n-----Ursprüngliche Nachricht-----\nVon: Ann\nold",
    "answer below": "On 2024-05-06 10:11, Ann wrote:\n> old\n\nThanks!",
    "answer between": "On 2024-05-06 10:11, Ann wrote:\n> old\nThanks!\n> old\n>> older\n",
    "marker": "Thanks!\n### Reply Above This Line ###\nold",
    "marker in a quotation": "Thanks!\n\nOn Mon, 6 May 2024 at 10:11, App <app@example.com> wrote:\n\n"
    "> ### reply above this line ###\n>\n> old",
}

KEPT = {
    "no quotation": "Dear all,\n\nplease note: we meet at 10:00.\n\nAnn",
    "own words with wrote": "Hello\nOn Monday John wrote:\n\nplease fix it.\nbye",
    "labels of one's own": "Hi,\nFrom: Berlin\nTo: Paris\nDate: any\nthanks",
    "single words that are labels elsewhere": "Ciao\nData: 5 maja\nDo: mnie\nOd: ciebie\nkoniec",
    "code": "Look:\n  if x > y: z\nand -> that",
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
