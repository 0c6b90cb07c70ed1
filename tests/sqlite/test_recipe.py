"""docs/recipes/sqlite-without-a-mount.md: its lines, run one after another on an array of real disks."""

from __future__ import annotations

import re
from pathlib import Path

from perdure import api, sqlite
from perdure.volume import Volume
from tests.shell.test_api import Disks

TEXT = (Path(__file__).parent.parent.parent / "docs" / "recipes" / "sqlite-without-a-mount.md").read_text()


def test_the_lines_of_the_recipe_do_what_it_says(tmp_path, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    disks = Disks(tmp_path)
    try:
        with api.create_array(disks.settings(), k=2, n=3, size_bytes=4 << 20) as array:
            names = {"settings": disks.settings(), "array_id": array.array_id}
        for block in blocks:
            exec(compile(block, "recipe", "exec"), names)
        assert capsys.readouterr().out == "['main.db']\n{'peers': 3}\n"
        with api.open_array(names["settings"], names["array_id"]) as array, Volume(array) as volume:
            assert sqlite.databases(volume) == ["fast.db", "main.db"]
            with sqlite.connect(volume, "fast.db", wal=True) as connection:
                assert connection.execute("SELECT body FROM state").fetchall() == [(b"a",), (b"b",)]
    finally:
        disks.end()
