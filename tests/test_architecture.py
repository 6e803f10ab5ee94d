"""The house rules that a machine can hold: which way imports point, and how long things may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import settings_page

ROOT = Path(__file__).parents[1]
ROOMS = ("core", "inbound", "outbound", "web", "workers", "cli")
MAY_IMPORT = {
    "core": set(),
    "inbound": {"core"},
    "outbound": {"core"},
    "workers": {"core", "inbound", "outbound"},
    "web": {"core", "inbound", "outbound"},
    "cli": {"core", "inbound", "outbound", "workers", "web"},
}
NOT_IN_CORE = {"flask", "flask_openapi3", "werkzeug", "gunicorn", "aiosmtpd", "rq", "redis", "requests", "smtplib"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

FILES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def imported(tree: ast.Module) -> Iterator[str]:
    """The top-level names that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield (node.module or "").partition(".")[0]


def test_there_are_files_in_every_room_to_look_at() -> None:
    assert {path.parts[0] for path in FILES} == set(ROOMS)
    assert len(FILES) > 60


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down_only(path: Path) -> None:
    room = path.parts[0]
    rooms = {name for name in imported(parse(path)) if name in ROOMS}
    assert rooms - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "core"], ids=str)
def test_the_core_knows_no_edge(path: Path) -> None:
    assert not set(imported(parse(path))) & NOT_IN_CORE


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_one_subject_and_says_which(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    assert ast.get_docstring(parse(path)), "the module has no docstring"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_are_short(path: Path) -> None:
    functions = [node for node in ast.walk(parse(path)) if isinstance(node, Function)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    public = [
        node for node in parse(path).body if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_jobs_and_stores_use_no_pickle(path: Path) -> None:
    assert not set(imported(parse(path))) & {"pickle", "marshal", "shelve", "dill"}


def test_the_page_of_settings_is_the_generated_one() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == settings_page() + "\n", "run: pillarbox config --markdown > docs/settings.md"
