"""The page and the terminal's lines, from a small document."""

import json

from bench import document
from bench.report import figures, page, terminal
from tests.bench import samples


def render(found=None, plots=("iops.svg",), has_reasons=False):
    return page.render(found or samples.document(), plots, has_reasons=has_reasons)


def test_the_same_document_gives_the_same_page():
    assert render() == render()


def test_goals_are_marked_and_have_figures():
    text = render()
    assert "| ✓ 4 KiB random write + fsync, depth 32 | " in text
    assert "2 x / 10 x GlusterFS" in text
    assert "- `durable-write-1-chains` is unknown: perdure, chains did not run: this release has none." in text


def test_a_missed_goal_points_to_the_reasons_once_they_are_written():
    assert "performance.md" not in render()
    assert "[`performance.md`](performance.md)" in render(has_reasons=True)


def test_figures_of_work_have_medians_and_ratios():
    text = render()
    assert "| GlusterFS | 700 (x 2.25) | 600 (x 15) |" in text
    assert "| GlusterFS | 0.391 | x 3 |" in text
    assert "| perdure, TCP | 50 | - | - | 5 | 55 | 7,500 |" in text


def test_skipped_targets_and_versions_are_on_it():
    text = render()
    assert "- perdure, chains: this release has none" in text
    assert "fio 3.33" in text
    assert "3-of-5" in text


def test_sizes_memory_wire_and_floor_are_on_it():
    text = render()
    assert "| 1,024 | 0.1 | 0.2 | 1 |" in text
    assert "| 64 | 400 | 200 | 300 | 0.75 |" in text
    assert "320 MiB with all tags loaded: 1.95 % of the array's size" in text
    assert "| 4 KiB random write + fsync, depth 32: perdure, TCP | 7,500 | x 1.1 |" in text
    assert "ECDSA P-384, verify" in text


def test_plots_are_shown_if_they_are_there():
    assert "![iops](benchmarks/iops.svg)" in render()
    assert "size.svg" not in render()


def test_a_document_of_little_is_a_page_too():
    found = document.assemble(
        machine=samples.MACHINE,
        settings=samples.SETTINGS,
        targets={},
        skipped={"GlusterFS": "glusterd is not installed"},
        runs={},
        memory={},
        floors=[],
        scaling={},
    )
    text = render(json.loads(json.dumps(found)), ())
    assert "0 of 10 are met" in text
    assert "glusterd is not installed" in text
    assert list(terminal.lines(found))


def test_the_terminal_has_everything_in_lines():
    text = "\n".join(terminal.lines(samples.document()))
    assert "perdure is x 2.25" in text
    assert "✓ durable-write-32" in text
    assert "SKIPPED: perdure, chains: this release has none" in text


def test_the_document_names_its_version_and_keeps_every_run():
    found = samples.document()
    assert found["version"] == 2
    assert found["runs"]["durable-write-32"]["GlusterFS"] == [samples.run(600), None]
    assert found["ratios"]["durable-write-32"]["GlusterFS"]["iops"] == 15
    assert found["medians"]["durable-write-1"]["perdure"]["iops"] == 1500


def test_on_a_file_system_the_array_is_compared_too():
    assert samples.document()["ratios"]["sqlite"]["GlusterFS"]["iops"] == 1.5


def test_numbers_have_three_digits_that_count():
    texts = [figures.number(value) for value in (1234.5, 100, 99.44, 0.01234, None)]
    assert texts == ["1,234", "100", "99.4", "0.0123", "-"]


def test_a_table_without_rows_is_nothing():
    assert figures.table(("a", "b"), []) == []
