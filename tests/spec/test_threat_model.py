"""Threat model and testing guide name tests, promises and sections of the specification: all of them must exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = ("threat-model.md", "testing.md")
PROMISES = [f"P{number}" for number in range(1, 9)]
ATTACKS = [f"A{number}" for number in range(1, 23)]
CITATION = re.compile(r"\b(tests/[\w/]+\.py)::(\w+)")
NOT_YET = "not yet tested"


def text_of(document: str) -> str:
    return (ROOT / "docs" / document).read_text(encoding="utf-8")


def citations(text: str) -> set[tuple[str, str]]:
    """File and function of every test that a text cites."""
    return {(file, name) for file, name in CITATION.findall(text)}


@cache
def functions_of(file: str) -> frozenset[str]:
    """The test functions of a file, those in classes too; parsed, not imported."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(one.name for one in functions if one.name.startswith("test_"))


def exists(file: str, name: str) -> bool:
    return (ROOT / file).is_file() and name in functions_of(file)


def promise_sections() -> dict[str, str]:
    """The text under each heading `### P1. ...` of the threat model."""
    parts = re.split(r"^### (P\d+)\. .*$|^## .*$", text_of("threat-model.md"), flags=re.M)
    return {name: body for name, body in zip(parts[1::2], parts[2::2], strict=True) if name}


def attack_rows() -> dict[str, list[str]]:
    """The cells of each row `| A1 | ...` of the threat model."""
    rows = re.findall(r"^\| (A\d+) \|(.*)\|$", text_of("threat-model.md"), flags=re.M)
    assert len(rows) == len(dict(rows)), "an attack stands in two rows"
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in rows}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_a_document_cites_exists(document: str) -> None:
    cited = citations(text_of(document))
    assert cited
    missing = sorted(f"{file}::{name}" for file, name in cited if not exists(file, name))
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_test_is_named_without_its_file(document: str) -> None:
    """A bare name would escape the test above."""
    bare = CITATION.sub("", text_of(document))
    assert re.findall(r"\btest_\w+(?!\w*\.py)\b(?!\.py)", bare) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_folder_that_a_document_names_exists(document: str) -> None:
    named = re.findall(r"`((?:tests|perdure|docs)/[\w/.-]*)`", text_of(document))
    links = [f"docs/{target}" for target in re.findall(r"\]\(([\w.-]+\.\w+)\)", text_of(document))]
    assert [name for name in (*named, *links) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_section_that_a_document_cites_exists(document: str) -> None:
    """Sections stand in brackets: (spec 3.2, step 8; 9.5)."""
    spec = text_of("spec.md")
    known = set(re.findall(r"^\*\*(\d+\.\d+)", spec, flags=re.M)) | set(re.findall(r"^## (\d+)\. ", spec, flags=re.M))
    cited = [
        re.sub(r"steps? \d+( (to|and) \d+)?", "", inside)
        for inside in re.findall(r"\(spec ([^)]*)\)", text_of(document))
    ]
    numbers = {number for inside in cited for number in re.findall(r"\d+(?:\.\d+)?", inside)}
    assert numbers <= known, sorted(numbers - known)


def test_the_promises_are_there_and_each_has_a_test() -> None:
    sections = promise_sections()
    assert list(sections) == PROMISES
    assert [name for name, body in sections.items() if not citations(body)] == []


def test_the_attacks_are_there_and_each_has_a_test_or_says_that_it_has_none() -> None:
    rows = attack_rows()
    assert list(rows) == ATTACKS
    assert {len(cells) for cells in rows.values()} == {3}, "what the attacker does, what stops it, what shows it"
    assert [name for name, cells in rows.items() if not citations(cells[2]) and NOT_YET not in cells[2]] == []


def test_the_guide_names_every_folder_of_tests() -> None:
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    guide = text_of("testing.md")
    assert [folder for folder in sorted(folders) if f"`tests/{folder}`" not in guide] == []
