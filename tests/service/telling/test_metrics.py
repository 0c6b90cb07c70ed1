"""The metrics of a status: what Prometheus reads of them, their names, and that a host cannot write into them."""

import math
import shutil
import subprocess
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from perdure.service.status import DiskState, RepairState, State, Verb
from perdure.service.telling.metrics import StatusCollector, render
from perdure.shell.meter import BOUNDS_US
from tests.service import statuses

REPAIRS = (
    statuses.repair(),
    statuses.repair(Verb.REJOIN, 2, RepairState.FAILED, bytes_per_s=None),
    statuses.repair(Verb.SCRUB, None, RepairState.DONE, done_bytes=64 << 20),
    statuses.repair(Verb.REPLACE, 3, RepairState.WAITING, done_bytes=0, total_bytes=0, bytes_per_s=None),
)


def samples(status):
    """Everything by name and labels, as Prometheus' own reader of the format reads it."""
    found = {}
    for family in text_string_to_metric_families(render(status).decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def value(status, name, **labels):
    return samples(status)[name, frozenset(labels.items())]


def by_the_client(status):
    """What `prometheus_client` itself writes."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    return generate_latest(registry).decode()


@pytest.mark.parametrize(
    "status",
    [
        statuses.whole(),
        statuses.whole(DiskState.DEAD, repairs=REPAIRS, evidence_age_ms=None, scrubbed_unix_ms=None),
        statuses.whole(requests={}, evidence={}, disks=()),
        statuses.with_disk(statuses.whole(), 0, domain='a "quoted" \\ name\nof a host', answers=None, instance=None),
    ],
)
def test_it_is_what_the_client_library_writes(status):
    """Line by line, but for the order of labels and the form of whole numbers."""

    def parsed(text):
        found = [
            (family.name, family.type, family.documentation, sample.name, sorted(sample.labels.items()), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
        assert found
        return found

    assert parsed(render(status).decode()) == parsed(by_the_client(status))


def test_the_state_of_the_array_is_one_of_all():
    for state in State:
        found = {one: value(statuses.whole(state=state), "perdure_array_state", state=one) for one in State}
        assert found == {one: float(one is state) for one in State}


def test_the_state_of_a_disk_is_one_of_all():
    status = statuses.whole(DiskState.CLONE)
    for state in DiskState:
        labels = {"seat": "0", "domain": "oslo", "state": state}
        assert value(status, "perdure_disk_state", **labels) == float(state is DiskState.CLONE)


def test_histograms_are_cumulative_and_in_seconds():
    status = statuses.whole()
    found = [
        value(status, "perdure_request_duration_seconds_bucket", kind="read", le=str(us / 1e6)) for us in BOUNDS_US
    ]
    assert found == [sum(us >= took for took in (100, 2000, 2000)) for us in BOUNDS_US]
    assert value(status, "perdure_request_duration_seconds_bucket", kind="read", le="+Inf") == 3
    assert value(status, "perdure_request_duration_seconds_count", kind="read") == 3
    assert math.isclose(value(status, "perdure_request_duration_seconds_sum", kind="read"), 0.0041)
    assert value(status, "perdure_request_failures_total", kind="read") == 1
    assert value(status, "perdure_request_bytes_total", kind="read") == 3 * 4096


def test_what_is_not_known_has_no_sample():
    status = statuses.whole(evidence_age_ms=None, scrubbed_unix_ms=None)
    status = statuses.with_disk(status, 0, evidence_age_ms=None, answers=None)
    names = samples(status)
    assert ("perdure_array_evidence_age_seconds", frozenset()) not in names
    assert ("perdure_array_last_scrub_timestamp_seconds", frozenset()) not in names
    first = frozenset({"seat": "0", "domain": "oslo"}.items())
    assert ("perdure_disk_evidence_age_seconds", first) not in names
    assert ("perdure_disk_answer_bytes_total", first) not in names


def test_figures_of_the_array():
    status = statuses.whole(losses_survived=0)
    assert value(status, "perdure_array_losses_survived") == 0
    assert value(status, "perdure_array_roster_version") == 2
    assert value(status, "perdure_array_evidence_age_seconds") == 1.5
    assert value(status, "perdure_array_last_scrub_timestamp_seconds") == 1_790_000_000
    assert value(status, "perdure_events_total") == 12
    assert value(status, "perdure_evidence_verification_failures_total") == 2


def test_repairs_of_several_seats_are_told_apart():
    status = statuses.whole(repairs=REPAIRS)
    assert value(status, "perdure_repair_progress_ratio", verb="replace", seat="1") == 0.25
    assert value(status, "perdure_repair_bytes_per_second", verb="replace", seat="1") == 2 << 20
    assert value(status, "perdure_repair_state", verb="rejoin", seat="2", state="failed") == 1
    assert value(status, "perdure_repair_progress_ratio", verb="scrub", seat="") == 1
    assert value(status, "perdure_repair_progress_ratio", verb="replace", seat="3") == 0
    assert ("perdure_repair_bytes_per_second", frozenset({"verb": "rejoin", "seat": "2"}.items())) not in samples(
        status
    )


def test_a_host_s_name_cannot_add_a_line():
    hostile = 'x"} 1\nperdure_array_losses_survived 99\n# \\'
    status = statuses.with_disk(statuses.whole(), 0, domain=hostile)
    assert value(status, "perdure_array_losses_survived") == 2
    assert value(status, "perdure_disk_state", seat="0", domain=hostile, state="online") == 1


def test_names_keep_prometheus_conventions():
    status = statuses.whole(repairs=REPAIRS)
    for metric in StatusCollector(status).collect():
        assert metric.name.startswith("perdure_"), metric.name
        assert metric.documentation.endswith("."), metric.name
        assert metric.samples, f"{metric.name} is never seen here"
    counters = [name for name, _ in samples(status) if name.endswith("_total")]
    assert "perdure_disk_errors_total" in counters


def test_promtool_has_nothing_to_say():
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed; the Debian package prometheus brings it")
    status = replace(statuses.whole(), repairs=REPAIRS)
    done = subprocess.run(
        [tool, "check", "metrics"], input=render(status), capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
