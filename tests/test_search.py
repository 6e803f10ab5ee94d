"""The search language: what a query finds in a real database, and what it says when it cannot be understood."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import DAY_MS, HOUR_MS
from core.errors import InvalidField
from core.search import MAX_DEPTH, MAX_TERMS, compile_query
from core.search_fields import STATUS_FIELDS
from core.services.accounts import NewAccount
from core.services.paging import PageRequest
from core.services.statuses import StatusFilter, list_statuses
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS

# NOW_MS is 2026-09-21T14:13:20Z, a Monday.
EVERYTHING = "abcdefgh"


@pytest.fixture
def mailbox(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    """Eight messages, oldest first, whose Message-IDs are the letters a to h."""
    api = Api(database, account, api_settings(tmp_path), now_ms=NOW_MS - 3 * DAY_MS)
    address = api.new_address()
    to = ("alice+tag@shop.example.com", "bob@example.com")
    api.receive_and_attempt(address, 200, header_message_id="<a>", subject="Invoice 17", recipients=to)
    api.now_ms = NOW_MS - 2 * DAY_MS
    api.receive_and_attempt(address, 404, header_message_id="<b>", subject="Rechnung für ÉCOLE", body_text="paid 100%")
    api.now_ms = NOW_MS - 30 * HOUR_MS
    api.receive_and_attempt(address, 503, header_message_id="<c>", subject="invoice_18", mail_from="billing@x.example")
    api.now_ms = NOW_MS - 25 * HOUR_MS
    api.receive_and_attempt(address, 0, header_message_id="<d>", subject=None, mail_from="", header_from=None)
    api.now_ms = NOW_MS - 2 * HOUR_MS
    api.receive_and_attempt(address, 201, header_message_id="<e>", subject='say "hi"', recipients=('"q\\"x"@e.org',))
    api.now_ms = NOW_MS - HOUR_MS
    api.receive_and_attempt(address, 200, header_message_id="<f>", subject="a*b? c:d", body_text="see the invoice")
    api.now_ms = NOW_MS
    api.receive(address, header_message_id="<g>", subject="new", header_from="Ann Other <ann@y.example>")
    api.receive(address, header_message_id="<h>", subject="newer", body_text="Hello\nWORLD!")
    return api


def found(mailbox: Api, query: str) -> str:
    condition = compile_query(query, mailbox.now_ms)
    wanted = StatusFilter(mailbox.account.account_id, None, condition)
    page = list_statuses(mailbox.database, wanted, PageRequest(), lambda: mailbox.now_ms)
    assert page.next_cursor is None
    return "".join(sorted(record.message_id or "" for record in page.entries))


FINDS = [
    # everything and words
    ("*", EVERYTHING),
    ("invoice", "acf"),
    ("INVOICE", "acf"),
    ("invoice 18", "acf"),
    ("invoice AND 18", "c"),
    ("+invoice 18", "acf"),
    ("+invoice +18", "c"),
    ("invoice -18", "af"),
    ("invoice NOT 18", "af"),
    ("NOT invoice", "bdegh"),
    ("-invoice", "bdegh"),
    ("Invoice AND (17 OR 18)", "ac"),
    ("invoice AND NOT (17 OR 18)", "f"),
    ("subject:(+invoice -17)", "c"),
    ('"the invoice"', "f"),
    ("invoice^3", "acf"),
    ("alice", "a"),
    ("world", "h"),
    # text fields
    ("subject:invoice", "ac"),
    ("body:invoice", "f"),
    ("from:billing", "c"),
    ('from:"Ann Other"', "g"),
    ("from:ann@y.example", "g"),
    ("to:alice+tag@shop.example.com", "a"),
    ("to:bob@example.com", "a"),
    ("to:tag@*.com", "a"),
    (r'to:"q\"x"', ""),
    (r'to:"q\\\"x"', "e"),
    ('to:"["', ""),
    (r'subject:"\"hi\""', "e"),
    ("subject:inv*17", "a"),
    ("subject:invoice?1?", "ac"),
    ("subject:invoice_1", "c"),
    ("body:100%", "b"),
    ("body:1%0", ""),
    (r"subject:a\*b\?", "f"),
    (r"subject:c\:d", "f"),
    ("subject:ÉCOLE", "b"),
    ("subject:für", "b"),
    ('body:"Hello\nworld"', "h"),
    ('from:""', "d"),
    ('subject:""', "d"),
    ("subject:*", "abcefgh"),
    ("_exists_:subject", "abcefgh"),
    ("NOT subject:*", "d"),
    ("_exists_:body", "bfh"),
    # statuses
    ("status:200", "af"),
    ("status:0", "d"),
    ("NOT status:200", "bcdegh"),
    ("status:[200 TO 299]", "aef"),
    ("status:[200 TO 201}", "af"),
    ("status:{200 TO 300]", "e"),
    ("status:>=404", "bc"),
    ("status:>404", "c"),
    ("status:<200", "d"),
    ("status:<=200", "adf"),
    ("status:(200 OR 404)", "abf"),
    ("status:*", "abcdef"),
    ("status:[* TO *]", "abcdef"),
    ("status_category:successful", "aef"),
    ("status_category:delayed", "cd"),
    ("status_category:FAILED", "b"),
    ("NOT status_category:*", "gh"),
    ("NOT status_category:delayed", "abefgh"),
    ("state:pending", "cdgh"),
    ("state:rejected", "b"),
    ("state:(delivered rejected)", "abef"),
    # time
    ("created_at:[now-1d TO now]", "efgh"),
    ("created_at:[now-1d/d TO now]", "cdefgh"),
    ("created_at:>=now-1h", "fgh"),
    ("created_at:>now-1h", "gh"),
    ("created_at:<now-1d", "abcd"),
    ("created_at:2026-09-21", "efgh"),
    ("created_at:2026-09-20", "cd"),
    ("created_at:[2026-09-18 TO 2026-09-19]", "ab"),
    ("created_at:[2026-09-18 TO 2026-09-19}", "a"),
    ("created_at:{2026-09-18 TO 2026-09-20}", "b"),
    ("created_at:2026-09", EVERYTHING),
    ("created_at:2026-09-21T13", "f"),
    ("created_at:2026-09-21T14:13:20Z", "gh"),
    ("created_at:2026-09-21T14:13:20.000Z", "gh"),
    ("created_at:2026-09-21T14:13:20.001Z", ""),
    ('created_at:"2026-09-21T16:13:20+02:00"', "gh"),
    ('created_at:["2026-09-21T16:13:20+02:00" TO *]', "gh"),
    ("created_at:[2026-09-21||-1d/d TO *]", "cdefgh"),
    ("created_at:now/w", "efgh"),
    ("created_at:now/M", EVERYTHING),
    ("created_at:[now-1w TO now-1d/d]", "abcd"),
    ("created_at:[* TO now-2d]", "ab"),
    ("created_at:*", EVERYTHING),
    ("created_at:1999", ""),
    # together
    ("status_category:delayed AND created_at:[now-1d/d TO now]", "cd"),
    ("status_category:failed OR (subject:invoice AND status:>=500)", "bc"),
    ("(status:200 AND subject:invoice) OR from:ann", "ag"),
]


@pytest.mark.parametrize(("query", "expected"), FINDS, ids=[query for query, _ in FINDS])
def test_query_finds_what_it_says(mailbox: Api, query: str, expected: str) -> None:
    assert found(mailbox, query) == expected


REFUSED = [
    ("", "is empty"),
    ("   ", "is empty"),
    ("a\0b", "NUL"),
    ("x" * 1001, "longer than 1000"),
    ("colour:red", "'colour' is not a field; the fields are status, status_category"),
    ("(status:200", "cannot be read"),
    ("status:200)", "cannot be read"),
    ("AND", "cannot be read"),
    ("invoice AND", "cannot be read"),
    ("subject:", "cannot be read"),
    ('"open phrase', "cannot be read"),
    ("'quoted'", "position 0"),
    ("status:ok", "status takes a number"),
    ("status:2*", "status takes no wildcards"),
    ("status:20000", "status takes a number"),
    ("status:٢٠٠", "status takes a number"),
    ("status:-200", "has a sign behind status"),
    ("status:[-1 TO 5]", "negative number"),
    ("status:[a TO 5]", "status takes a number"),
    ("status_category:late", "status_category is one of successful, delayed, failed"),
    ("status_category:[a TO b]", "status_category has no ranges"),
    ("state:done", "state is one of pending"),
    ("subject:[a TO b]", "subject is text"),
    ("created_at:yesterday", "created_at 'yesterday' is not a date"),
    ("created_at:2026-02-30", "not a date of the calendar"),
    ("created_at:2026-13", "not a date of the calendar"),
    ("created_at:now-1x", "date math"),
    ("created_at:now-", "date math"),
    ("created_at:now" + "+1d" * 9, "more than 8 steps"),
    ("created_at:now+999999y", "out of range"),
    ("created_at:9999", "out of range"),
    ("created_at:2026-*", "takes no wildcards"),
    ("[now TO now]", "range without a field"),
    (">5", "range without a field"),
    ("from:subject:x", "cannot hold another"),
    ("a && b", "AND, OR and NOT"),
    ("a || b", "AND, OR and NOT"),
    ("!a", "AND, OR and NOT"),
    ("/inv.*/", "regular expression"),
    ("invoice~", "fuzzy search"),
    ('"a b"~2', "proximity search"),
    ("a^1.2.3", "number behind"),
    ('""', "empty phrase"),
    ("_exists_:nothing", "'nothing' is not a field"),
    ("_exists_:(a b)", "takes the name of a field"),
    ("*a*b*c*d*e*f*g*h*i", "at most 8 wildcards"),
    ("(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1), "nested more than"),
    ("(" * 499 + "a" + ")" * 499, "nested more than"),
    ("-" * 998 + "a", "nested more than"),
    ("a " * (MAX_TERMS + 1), f"more than {MAX_TERMS} terms"),
    ("(" * 1000, "cannot be read"),
]


@pytest.mark.parametrize(("query", "problem"), REFUSED, ids=[query[:30] for query, _ in REFUSED])
def test_bad_query_says_what_is_wrong(query: str, problem: str) -> None:
    with pytest.raises(InvalidField) as refused:
        compile_query(query, NOW_MS)
    assert refused.value.field == "query"
    assert problem in refused.value.problem


def test_the_largest_query_runs(mailbox: Api) -> None:
    assert found(mailbox, " OR ".join(["zzz"] * (MAX_TERMS - 1) + ["new"])) == "gh"
    nested = "(" * (MAX_DEPTH - 2) + "new" + ")" * (MAX_DEPTH - 2)
    assert found(mailbox, nested) == "gh"


PIECES = st.sampled_from(
    [*'()[]{}:"\\+-~^/*?<>=!&|. \t\n0é', "AND ", "OR ", " NOT ", " TO ", *(f"{name}:" for name in STATUS_FIELDS),
     "now", "-1d", "/d", "2026-01-01", "||", "T10:00", "_exists_:", "word", "200", "delayed"]
)  # fmt: skip


@settings(max_examples=300, deadline=None, database=None)
@given(st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=30)))
def test_any_text_is_a_condition_or_a_clear_error(query: str) -> None:
    try:
        condition = compile_query(query, NOW_MS)
    except InvalidField:
        return
    assert condition.sql.count("?") == len(condition.parameters)


def test_whatever_compiles_runs(mailbox: Api) -> None:
    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(PIECES, max_size=12).map("".join))
    def run(query: str) -> None:
        try:
            compile_query(query, NOW_MS)
        except InvalidField:
            return
        assert set(found(mailbox, query)) <= set(EVERYTHING)

    run()


def test_threads_do_not_disturb_each_other() -> None:
    queries = [
        "a b AND (c OR d)",
        "status:[1 TO 5] x",
        "((",
        "created_at:>now-1d OR y",
        'from:"q r" -z',
        "e f g h i j k",
    ]

    def compiled(query: str) -> str:
        try:
            return repr(compile_query(query, NOW_MS))
        except InvalidField as error:
            return str(error)

    expected = {query: compiled(query) for query in queries}
    wrong: list[str] = []

    def work(offset: int) -> None:
        for turn in range(300):
            query = queries[(turn + offset) % len(queries)]
            if compiled(query) != expected[query]:
                wrong.append(query)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
