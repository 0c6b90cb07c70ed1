"""Levels, exit codes and the JSON form of findings."""

import json

import pytest

from perdure.service.doctor import finding
from perdure.service.doctor.finding import Level, fail, ok, warn

FINE, WEAK, BAD = ok("a", "here"), warn("b", "odd", "it matters", "do this"), fail("c", "gone", "it matters", "do that")


@pytest.mark.parametrize(
    ("found", "code"), [([], 0), ([FINE], 0), ([FINE, WEAK], 1), ([WEAK, FINE], 1), ([FINE, BAD, WEAK], 2)]
)
def test_the_exit_code_is_that_of_the_worst(found, code):
    assert finding.exit_code(found) == code


def test_the_object_for_programs_has_every_finding_and_a_version():
    value = json.loads(json.dumps(finding.to_json([FINE, WEAK, BAD])))
    assert value == {
        "version": 1,
        "exit_code": 2,
        "counts": {"ok": 1, "warn": 1, "fail": 1},
        "findings": [
            {"check": "a", "level": "ok", "found": "here", "why": "", "do": ""},
            {"check": "b", "level": "warn", "found": "odd", "why": "it matters", "do": "do this"},
            {"check": "c", "level": "fail", "found": "gone", "why": "it matters", "do": "do that"},
        ],
    }
    assert set(value["counts"]) == set(Level)
