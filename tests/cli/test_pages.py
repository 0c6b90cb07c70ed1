"""docs/cli: a page for each verb, made from the verbs. `make docs` writes them."""

import re
from pathlib import Path

import pytest

from perdure.cli import pages

FOLDER = Path(__file__).parents[2] / "docs" / "cli"
MADE = pages.pages()
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT CODES", "EXAMPLE", "SEE ALSO"]


@pytest.mark.parametrize("name", MADE)
def test_the_page_is_what_the_program_says_today(name):
    path = FOLDER / name
    assert path.exists(), "run: make docs"
    assert path.read_text() == MADE[name], "run: make docs"


def test_there_is_no_page_of_a_verb_that_is_no_more():
    assert {path.name for path in FOLDER.iterdir()} == set(MADE), "run: make docs"


def test_each_verb_has_a_page_with_every_section_and_is_in_the_index():
    for name, command in pages.verbs():
        text = MADE[pages.file_name(name)]
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
        assert all(line in text for line in command.example.splitlines())
        assert f"]({pages.file_name(name)})" in MADE[pages.INDEX]
        options = [
            option
            for parameter in command.params
            if not getattr(parameter, "hidden", False)
            for option in parameter.opts
        ]
        assert all(option in text for option in options if option.startswith("-"))


def test_links_lead_to_pages():
    for text in MADE.values():
        assert set(re.findall(r"\]\(([^)]+)\)", text)) <= set(MADE)


def test_exit_codes_are_those_of_the_verb_of_an_array_or_of_a_tool():
    assert "| 1 | degraded" in MADE["status.md"]
    assert "| 1 |" not in MADE["key-new.md"]
    assert "| 1 | there are warnings |" in MADE["doctor.md"]


def test_a_verb_that_help_names_is_linked():
    assert "[perdure export](export.md)" in MADE["serve.md"]


def test_what_nobody_made_stays_and_what_is_stale_goes(tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "old-verb.md").write_text(f"{pages.MARK}\n\n# perdure old-verb\n")
    pages.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*MADE, "notes.md"}
