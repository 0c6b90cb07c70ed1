"""What the command line asks for."""

import pytest

from bench.__main__ import parse
from bench.plan import Plan


def plan(*words):
    return Plan.of(parse(words))


def test_all_of_it_by_default():
    found = plan()
    assert {"perdure", "GlusterFS", "etcd", "nbdkit memory", "bare NBD", "perdure, chains"} <= found.blocks.keys()
    assert "PostgreSQL, 2 standbys" in found.databases
    assert found.extras == ("floor", "mount", "repair", "memory")
    assert found.rounds > 1


def test_a_quick_run_is_once_through_what_goals_are_about():
    found = plan("--quick")
    assert not found.databases
    assert (found.rounds, found.seconds) == (1, 1)
    assert found.extras == ("floor", "mount", "repair")
    assert found.sizes_mib == {"mount": (1024,), "repair": (64,)}


def test_one_comparison_is_nothing_else():
    found = plan("--only", "durable-write-1", "--targets", "perdure,GlusterFS", "--rounds", "2", "--seconds", "1.5")
    assert [work.name for work in found.works] == ["durable-write-1"]
    assert list(found.blocks) == ["perdure", "GlusterFS"]
    assert (found.extras, found.rounds, found.seconds) == ((), 2, 1.5)


def test_a_name_may_have_a_comma_before_a_blank():
    assert list(plan("--only", "read", "--targets", "perdure, TCP,etcd").blocks) == ["perdure, TCP", "etcd"]


def test_extras_are_asked_for_by_name():
    found = plan("--only", "mount,memory")
    assert (found.works, found.extras) == ((), ("mount", "memory"))


@pytest.mark.parametrize("words", [("--only", "nothing"), ("--targets", "nobody")])
def test_an_unknown_name_is_refused(words):
    with pytest.raises(SystemExit, match="--list"):
        plan(*words)


def test_everything_can_be_listed():
    lines = plan().names()
    assert any(line.startswith("work: durable-write-1 ") for line in lines)
    assert "target: GlusterFS" in lines
