"""The Grafana dashboard: its shape, and that every expression in it is one that Prometheus takes and we can answer."""

import itertools
import json
from pathlib import Path

import pytest

from perdure.service.status import DiskState, State
from tests.monitoring.known import promtool, require_known

BOARD = json.loads((Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "perdure.json").read_text())
EXPRESSIONS = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]


def test_it_has_what_grafana_needs_of_a_dashboard():
    assert BOARD["uid"] == "perdure"
    assert BOARD["schemaVersion"] >= 39
    assert [one["name"] for one in BOARD["templating"]["list"]] == ["datasource", "job", "instance"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    for panel in BOARD["panels"]:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", "whichever the reader has"
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)), panel["title"]


def test_panels_lie_side_by_side():
    taken = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not taken & cells, f"{panel['title']} lies on another"
        taken |= cells


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_every_expression_asks_for_what_there_is_and_for_one_array(expr):
    require_known(expr)
    assert expr.count("perdure_") == expr.count('{job="$job", instance="$instance"')


def test_prometheus_takes_every_expression(tmp_path):
    rules = [{"record": f"a:{number}", "expr": concrete(expr)} for number, expr in enumerate(EXPRESSIONS)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))  # JSON is YAML
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", path)


def concrete(expr):
    return expr.replace("$__rate_interval", "1m").replace("$job", "perdure").replace("$instance", "a")


def test_every_state_has_its_colour():
    panels = {panel["title"]: panel for panel in BOARD["panels"]}
    colours = panels["State"]["fieldConfig"]["overrides"]
    assert {one["matcher"]["options"] for one in colours} == set(State)
    (mapping,) = panels["Disks"]["fieldConfig"]["defaults"]["mappings"]
    assert {one["text"] for one in mapping["options"].values()} == set(DiskState)
    for number, one in mapping["options"].items():
        assert f'state="{one["text"]}"}} == 1) * {number}' in panels["Disks"]["targets"][0]["expr"]
