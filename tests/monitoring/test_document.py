"""docs/monitoring.md: its table is the collector's, and what it names exists."""

import re
from pathlib import Path

from perdure.service.telling import http
from tests.monitoring import test_alerts
from tests.monitoring.known import families

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "monitoring.md").read_text()
SUFFIXES = {"counter": "_total", "info": "_info"}


def rows():
    """The table as it must be."""
    for family in families():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        names = ", ".join(f"`{label}`" for label in sorted(labels)) or "-"
        name = family.name + SUFFIXES.get(family.type, "")
        yield f"| `{name}` | {family.type} | {names} | {family.documentation} |"


def test_the_table_of_metrics_is_the_collector_s():
    wanted = list(rows())
    found = re.findall(r"^\| `perdure_.*$", TEXT, re.MULTILINE)
    assert found == wanted, "it should be:\n" + "\n".join(wanted)


def test_the_bounds_are_those_of_the_server():
    for what in (
        f"{http.CONNECTIONS_MAX} connections",
        f"{http.HEAD_BYTES_MAX:,} bytes",
        f"{http.HEAD_S:g} seconds",
        f"{http.SEND_S:g} seconds",
        f"{http.IDLE_S:g} seconds",
    ):
        assert what in TEXT


def test_every_alert_is_in_the_table_with_its_loudness():
    for name, text in test_alerts.rules().items():
        severity = re.search(r"severity: (\w+)", text)[1]
        assert re.search(rf"^\| `{name}` \| {severity} \|", TEXT, re.MULTILINE), name


def test_pictures_and_files_that_it_names_are_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if not link.startswith("http")]
    assert sum(link.endswith(".png") for link in links) == 8
    for link in links:
        path = (ROOT / "docs" / link).resolve()
        assert path.exists(), link
        assert path.suffix != ".png" or path.stat().st_size <= 200_000, link
