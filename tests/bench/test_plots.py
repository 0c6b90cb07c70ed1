"""Plots: deterministic, and none where there is nothing."""

from xml.etree import ElementTree

import pytest

from tests.bench import samples

pytest.importorskip("matplotlib")
from bench.report import page, plots


def test_the_same_document_gives_the_same_bytes_without_a_date(tmp_path):
    names = plots.write(samples.document(), tmp_path / "a")
    assert names == plots.write(samples.document(), tmp_path / "b") == ["iops.svg", "latency.svg", "size.svg"]
    for name in names:
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes()
        assert b"dc:date" not in data
        assert ElementTree.fromstring(data).tag.endswith("svg")


def test_nothing_to_show_is_no_plot_and_an_old_one_goes(tmp_path):
    found = {**samples.document(), "medians": {}, "scaling": {}}
    (tmp_path / "iops.svg").touch()
    assert plots.write(found, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_written_with_its_plots(tmp_path):
    path = page.write(samples.document(), tmp_path)
    assert "![size](benchmarks/size.svg)" in path.read_text()
    assert (tmp_path / "benchmarks" / "size.svg").exists()
