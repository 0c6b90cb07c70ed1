"""Goals: what is met, missed, and unknown for a reason."""

import pytest

from bench import goals
from bench.goals import Measured
from bench.model import GIB
from tests.bench.samples import run

FASTER = ("durable-write-1", "durable-write-32", "write-32")
ALL_WORK = (*FASTER, "read-1", "read-32", "sequential-write", "sequential-read")


def measured(factor: float = 20.0, **more) -> Measured:
    """Everything, with the array `factor` times as fast as its peers."""
    runs = {
        work: {
            "perdure": [run(1000 * factor, 10)] * 3,
            "perdure, chains": [run(1000 * factor, 10)] * 3,
            "GlusterFS": [run(1000, 1000)] * 3,
            "etcd": [run(1000, 1000)] * 3,
        }
        for work in ALL_WORK
    }
    found = {
        "runs": runs,
        "floors": [{"durable_us": 1e6 / (1000 * factor)}] * 3,
        "rebuilds": [{"size_bytes": GIB, "rebuild_mib_s": 70.0, "sequential_read_mib_s": 100.0}],
        "mounts_s": {GIB: 0.10, 16 * GIB: 0.11},
        "wire_bytes": {"durable-write-32": 7500.0},
        "memory_bytes": 300 << 20,
    }
    return Measured(**{**found, **more})


def test_every_goal_has_a_named_entry_with_value_peer_ratio_goal_and_met():
    entries = goals.entries(measured())
    assert tuple(entries) == goals.NAMES
    assert len(entries) == 10
    assert all({"value", "peer", "ratio", "goal", "met"} <= entry.keys() for entry in entries.values())
    assert [name for name, entry in entries.items() if entry["met"] is not True] == []


def test_a_slow_array_misses():
    entries = goals.entries(measured(0.5))
    missed = {name for name, entry in entries.items() if entry["met"] is False}
    assert missed == {*FASTER, "durable-write-1-chains", "read", "sequential"}
    assert entries["durable-write-32"]["ratio"] == 0.5


def test_nothing_measured_is_unknown_with_a_reason_and_never_met():
    entries = goals.entries(Measured())
    assert all(entry["met"] is None and entry["reason"] for entry in entries.values())


def test_a_peer_that_is_missing_makes_a_goal_unknown_and_is_named_with_the_reason():
    whole = measured()
    runs = {work: {k: v for k, v in by.items() if k != "GlusterFS"} for work, by in whole.runs.items()}
    entries = goals.entries(measured(runs=runs, skipped={"GlusterFS": "glusterd is not installed"}))
    entry = entries["write-32"]
    assert entry["met"] is None
    assert entry["reason"] == "GlusterFS did not run: glusterd is not installed"
    assert entry["value"] == 20_000
    assert entries["rebuild"]["met"] is True


def test_a_check_that_is_missed_decides_whatever_is_unknown_beside_it():
    whole = measured(0.5)
    runs = {work: by for work, by in whole.runs.items() if work != "read-32"}
    assert goals.entries(measured(0.5, runs=runs))["read"]["met"] is False
    fast = {work: by for work, by in measured().runs.items() if work != "read-32"}
    assert goals.entries(measured(runs=fast))["read"]["met"] is None


@pytest.mark.parametrize(("floor_us", "met"), [(100.0, False), (34.0, True), (33.0, False)])
def test_a_durable_write_must_be_within_half_again_of_the_floor(floor_us, met):
    rate = 20_000 if floor_us < 100 else 1000  # 50 us each, or 1,000
    runs = {"durable-write-1": {"perdure": [run(rate)], "GlusterFS": [run(100)]}}
    entry = goals.entries(measured(runs=runs, floors=[{"durable_us": floor_us}]))["durable-write-1"]
    assert entry["met"] is met


def test_ratios_to_the_floor_are_taken_within_rounds():
    runs = {"durable-write-1": {"perdure": [run(1000), run(100)], "GlusterFS": [run(100), run(10)]}}
    floors = [{"durable_us": 1000.0}, {"durable_us": 10_000.0}]
    checks = goals.entries(measured(runs=runs, floors=floors))["durable-write-1"]["checks"]
    assert [check["ratio"] for check in checks] == [10, 1]


@pytest.mark.parametrize(
    ("mounts_s", "met"),
    [
        ({GIB: 0.5, 16 * GIB: 0.59}, True),
        ({GIB: 0.5, 16 * GIB: 0.61}, False),
        ({GIB: 0.5, 16 * GIB: 0.41}, False),
        ({GIB: 1.1, 16 * GIB: 1.1}, False),
        ({GIB: 0.5}, None),
        ({}, None),
    ],
)
def test_mounts_must_take_the_same_time_and_less_than_a_second(mounts_s, met):
    assert goals.entries(measured(mounts_s=mounts_s))["mount"]["met"] is met


@pytest.mark.parametrize(("wire", "met"), [(7850, True), (7852, False)])
def test_bytes_on_the_wire_must_be_within_15_percent_of_n_over_k(wire, met):
    assert goals.entries(measured(wire_bytes={"durable-write-32": wire}))["wire"]["met"] is met


def test_the_largest_array_counts_for_rebuild():
    rebuilds = [
        {"size_bytes": 1 << 20, "rebuild_mib_s": 90.0, "sequential_read_mib_s": 100.0},
        {"size_bytes": 1 << 30, "rebuild_mib_s": 50.0, "sequential_read_mib_s": 100.0},
    ]
    assert goals.entries(measured(rebuilds=rebuilds))["rebuild"]["ratio"] == 0.5


def test_memory_is_stated_in_part_of_the_array():
    entry = goals.entries(measured(memory_bytes=GIB))["memory"]
    assert (entry["value"], entry["ratio"], entry["met"]) == (1024, 1 / 16, False)
