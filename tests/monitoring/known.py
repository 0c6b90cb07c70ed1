"""The metrics that there are, for those who use them by name."""

import re
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from perdure.service.status import RepairState, Verb
from perdure.service.telling.metrics import render
from tests.service import statuses

REPAIRS = (statuses.repair(), statuses.repair(Verb.SCRUB, None, RepairState.DONE))
LABELS_OF_PROMETHEUS = {"job", "instance"}


def families():
    """Every family of a whole status, as Prometheus reads it."""
    return list(text_string_to_metric_families(render(statuses.whole(repairs=REPAIRS)).decode()))


def series():
    """Names as they are stored, each with its labels."""
    found = {}
    for family in families():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def require_known(expr):
    """Fail if an expression uses a metric, or a label of one in braces, that no main program has."""
    known = series()
    names = set(re.findall(r"\bperdure_\w+", expr))
    assert names or "up{" in expr, f"no metric of ours: {expr}"
    assert names <= set(known), f"not known: {names - set(known)}"
    for name, braces in re.findall(r"\b(perdure_\w+)\{([^}]*)\}", expr):
        used = set(re.findall(r"(\w+)\s*[=!]~?", braces))
        assert used <= known[name] | LABELS_OF_PROMETHEUS, f"{name} has no {used - known[name]}"


def promtool(*words, data=None):
    """Run it; what it printed. Skips where there is none."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed; the Debian package prometheus brings it (`make test-page` installs it)")
    done = subprocess.run([tool, *map(str, words)], capture_output=True, text=True, input=data, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
