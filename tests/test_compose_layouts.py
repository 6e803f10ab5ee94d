"""Layouts, and CSS written into elements."""

from __future__ import annotations

from time import thread_time

import pytest

from core.errors import InvalidField
from outbound.composing.css_inlining import MAX_HTML_LENGTH, inline_css
from outbound.composing.layouts import body_of, choose_layout, read_layout, render_layout

TOO_MUCH = (InvalidField, TimeoutError)
"""The second on a machine that has too much else to do."""
FRAME = '<h1>{{ title | News & "more" }}</h1>{{content}}<a href="{{url}}">{{ note | }}</a>'


def test_a_mail_in_its_frame() -> None:
    layout = read_layout("html", FRAME)
    assert layout.variables == {"title": 'News & "more"', "url": None, "note": ""}
    assert render_layout(layout, "<p>{{ title }}</p>", {"url": '"><script>'}) == (
        '<h1>News &amp; &quot;more&quot;</h1><p>{{ title }}</p><a href="&quot;&gt;&lt;script&gt;"></a>'
    )
    assert "<h1>A&amp;B</h1>" in render_layout(layout, "", {"title": "A&B", "url": "x", "unused": "y"})
    assert "<h1>{{content}}</h1>" in render_layout(layout, "", {"title": "{{content}}", "url": "x"})


def test_a_variable_without_value_is_named() -> None:
    with pytest.raises(InvalidField, match=r"variables.url: is used by the layout and has no default"):
        render_layout(read_layout("html", FRAME), "", {})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no place", "0 times"),
        ("{{content}}{{ content }}", "2 times"),
        ("{{content}}{{ a b }}", "no variable"),
        ("{{content}}{{}}", "no variable"),
        ("{{content}}{{ a", "near '{{ a'"),
        ("{{content}}{{{ a }}}", "double braces"),
        ("{{content}}" + "x" * 300_000, "longer than"),
    ],
)
def test_a_layout_that_would_send_marks_is_refused(source: str, words: str) -> None:
    with pytest.raises(InvalidField, match="html: ") as caught:
        read_layout("html", source)
    assert words in caught.value.problem


def test_css_as_tools_write_it_is_no_mark() -> None:
    source = "<style>a{b:{{ b }}}@media x{a{b:c}}</style>{{content}}"
    rendered = render_layout(read_layout("html", source), "Hi", {"b": "d"})
    assert rendered == "<style>a{b:d}@media x{a{b:c}}</style>Hi"


def test_which_layout_is_taken() -> None:
    sources = {"own": "own{{content}}", "shop_default": "shop{{content}}", "all_default": "all{{content}}"}

    def chosen(requested: str | None, account: str) -> str | None:
        layout = choose_layout(requested, account, sources)
        return render_layout(layout, "", {}) if layout else None

    assert chosen("own", "shop") == "own"
    assert chosen(None, "shop") == "shop"
    assert chosen(None, "other") == "all"
    assert chosen("none", "shop") is None
    assert choose_layout(None, "shop", {}) is None
    with pytest.raises(InvalidField, match="no layout called 'gone'"):
        chosen("gone", "shop")


def test_of_a_whole_document_the_body_goes_in() -> None:
    document = "<html><head><title>x</title><STYLE>a{}</style></head><body class=a><p>Hi</body></html>"
    assert body_of(document) == "<STYLE>a{}</style><p>Hi"
    assert body_of("<p>Hi") == "<p>Hi"
    assert body_of("<body>Hi") == "Hi"


def test_what_comes_out_is_bounded() -> None:
    layout = read_layout("html", "{{content}}" + "{{ a }}" * 1000)
    with pytest.raises(InvalidField, match="in its layout"):
        render_layout(layout, "", {"a": "x" * 6000})


@pytest.mark.parametrize("unit", ["{{", "}}", "{{ a ", "{{ a |", "{", "{{a}} "])
def test_reading_takes_linear_time(unit: str) -> None:
    def seconds(count: int) -> float:
        best = 9.9
        for _ in range(3):
            start = thread_time()
            with pytest.raises(InvalidField):
                read_layout("html", unit * count)
            best = min(best, thread_time() - start)
        return best

    assert seconds(40_000) < 10 * seconds(10_000) + 0.05


@pytest.mark.parametrize("unit", ["<style>", "<style ", "<body", "<body>", "</body ", "</style "])
def test_finding_the_body_takes_linear_time(unit: str) -> None:
    def seconds(count: int) -> float:
        best = 9.9
        for _ in range(3):
            start = thread_time()
            body_of(unit * count + "<body>")
            best = min(best, thread_time() - start)
        return best

    assert seconds(80_000) < 10 * seconds(20_000) + 0.05


def test_css_goes_into_the_elements() -> None:
    out = inline_css(
        "<html><head><style>p{color:red}@media print{p{color:blue}}</style></head><body><p>Ü</p></body></html>"
    )
    assert '<p style="color:red;">Ü</p>' in out.replace("color: red", "color:red")
    assert "@media" in out


def test_css_that_breaks_the_library_ends_nothing_but_its_own_process() -> None:
    with pytest.raises(TOO_MUCH):
        inline_css("<style>p{color:red}</style>" + "<div>" * 25_000 + "<p>x")
    with pytest.raises(InvalidField, match="html: is longer"):
        inline_css("x" * (MAX_HTML_LENGTH + 1))
    many = "<style>*{" + "".join(f"a{index}:b;" for index in range(4000)) + "}</style>" + "<p>x</p>" * 2000
    with pytest.raises(TOO_MUCH):
        inline_css(many)


def test_a_machine_without_time_to_inline_is_no_fault_of_the_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbound.composing.css_inlining.TIMEOUT_S", 0.001)
    with pytest.raises(TimeoutError, match="2 seconds of processor time"):
        inline_css("<p>x")
