"""docs/statechains.md, typed line by line into one bash, and what it says compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.console import Shell, steps
from tests.cli.rig import Rig

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "statechains.md").read_text()


class Home(Rig):
    """A home of the test's own, with the document's directory in it."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.directory = home / "statechain"
        self.env = {**os.environ, "HOME": str(home), "PERDURE_DIRECTORY": str(self.directory)}


@pytest.mark.timeout(600)
def test_the_lines_of_the_document_do_what_it_says(tmp_path):
    typed = steps(TEXT)
    assert len(typed) > 8
    with Home(tmp_path) as home, Shell(ROOT, home.env) as shell:
        for step in typed:
            said = shell.run(step)
            assert said.code == (2 if "forged.json" in step.command and "verify" in step.command else 0), said
        assert not home.directory.exists()
