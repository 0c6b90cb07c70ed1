"""Rounds, with targets that only say that they were asked."""

import contextlib

import pytest

from bench import turns
from bench.model import Result, Skip, Target
from bench.work import table

WORK = table.read(1)


def target(name, asked, fail=None, **more):
    def do(work, seconds):
        asked.append((name, work.name, seconds))
        if fail is not None:
            raise fail
        return Result(100, 2.0, 4096, 10.0, 20.0, 0.001)

    return Target(name, "a target", do, dict, **more)


def starter(made):
    @contextlib.contextmanager
    def start():
        yield made

    return start


@pytest.fixture
def session(capsys):
    with turns.Session(turns.Progress(1), {}) as session:
        yield session
    capsys.readouterr()


def measure(session, works, rounds=1):
    return turns.measure(session, works, rounds=rounds, seconds=2, progress=turns.Progress(1))[0]


def test_everyone_does_the_same_work_in_turn_and_nobody_is_always_first(session):
    asked = []
    session.start({name: starter(target(name, asked)) for name in "abc"})
    measure(session, [WORK], rounds=3)
    assert "".join(name for name, _, _ in asked) == "abcbcacab"


def test_a_run_has_rates_latency_and_processor_time_of_one_operation(session):
    session.start({"a": starter(target("a", []))})
    (run,) = measure(session, [WORK])[WORK.name]["a"]
    assert (run["iops"], run["mib_s"], run["p50_us"]) == (50, 50 / 256, 10)
    assert run["cpu_us.client"] == pytest.approx(10)


def test_what_cannot_start_is_skipped_by_name_and_the_others_go_on(session):
    @contextlib.contextmanager
    def missing():
        raise Skip("b is not installed")
        yield

    session.start({"b": missing, "a": starter(target("a", []))})
    assert measure(session, [WORK])[WORK.name].keys() == {"a"}
    assert session.skipped == {"b": "b is not installed"}


def test_work_that_fails_is_left_out_by_name_and_tried_no_more(session):
    asked = []
    session.start({"a": starter(target("a", asked, RuntimeError("fio failed"))), "b": starter(target("b", asked))})
    runs = measure(session, [WORK], rounds=3)
    assert [name for name, _, _ in asked] == ["a", "b", "b", "b"]
    assert runs[WORK.name]["a"] == [None, None, None]
    assert session.skipped == {f"a: {WORK.title}": "fio failed"}


def test_a_defect_is_no_reason_to_skip(session):
    session.start({"a": starter(target("a", [], ZeroDivisionError()))})
    with pytest.raises(ZeroDivisionError):
        measure(session, [WORK])


def test_targets_are_asked_for_what_they_can_do(session):
    asked = []
    session.start({"a": starter(target("a", asked, takes=lambda work: work.fsync))})
    assert measure(session, [WORK, table.durable(1)]).keys() == {"durable-write-1"}


def test_the_first_round_begins_with_what_is_measured_each_round(session):
    asked = []
    session.start({"a": starter(target("a", asked))})
    turns.measure(
        session, [WORK], rounds=2, seconds=1, progress=turns.Progress(1), each_round=lambda: asked.append("floor")
    )
    assert [one if one == "floor" else one[0] for one in asked] == ["floor", "a", "floor", "a"]
