"""The alerts: that Prometheus takes them, that they fire when they shall, and that what they watch exists."""

import re
from pathlib import Path

from perdure.service.status import DiskState, RepairState, State
from tests.monitoring.known import promtool, require_known

PROMETHEUS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
RULES = (PROMETHEUS / "perdure.rules.yml").read_text()
TESTS = (PROMETHEUS / "perdure.rules.test.yml").read_text()


def rules():
    """Name and text of each."""
    return dict(re.findall(r"- alert: (\w+)\n(.*?)(?=\n      - alert|\Z)", RULES, re.DOTALL))


def expression(text):
    return re.search(r"expr: (?:>-\n)?(.*?)\n        (?:for|labels):", text, re.DOTALL)[1]


def test_prometheus_takes_the_rules():
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", PROMETHEUS / "perdure.rules.yml")


def test_the_rules_fire_when_they_shall_and_not_otherwise():
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "perdure.rules.test.yml")


def test_every_rule_is_tried():
    assert len(rules()) == 12
    for name in rules():
        assert len(re.findall(rf"\b{name}\b", TESTS)) >= 2, f"{name} is not shown both to fire and to keep still"


def test_what_the_rules_watch_is_what_the_collector_has():
    for text in rules().values():
        require_known(expression(text))


def test_states_in_the_rules_are_states_that_there_are():
    known = {*State, *DiskState, *RepairState}
    for words in re.findall(r'state[=!]~?"([^"]*)"', RULES):
        assert set(words.split("|")) <= known, words


def test_every_rule_says_how_loud_it_is_and_what_to_do():
    for name, text in rules().items():
        assert re.search(r"severity: (critical|warning)\b", text), name
        assert "summary: " in text, name
        assert "description: " in text, name
