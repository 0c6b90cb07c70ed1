"""Long variants of what is short in `tests/conformance` and `tests/array/test_byte_array.py`."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.array.test_byte_array import ArrayBesideBytes
from tests.cli.rig import Rig
from tests.conformance.test_byte_array import live
from tests.conformance.test_fio import crash
from tests.conformance.test_qemu import kills, replays
from tests.system.rig import seeded

pytestmark = pytest.mark.timeout(3600)


def test_the_array_beside_a_byte_array_for_thousands_of_stories():
    run_state_machine_as_test(
        ArrayBesideBytes, settings=settings(max_examples=3000, stateful_step_count=60, deadline=None)
    )


def test_a_served_array_beside_a_byte_array_through_many_crashes_losses_and_rebuilds(tmp_path):
    live(tmp_path, seeded(), rounds=20)


def test_many_kills_in_recorded_workloads(tmp_path):
    kills(tmp_path, seeded(), count=40)


def test_every_flush_of_a_file_system_replayed_with_a_kill_at_each(tmp_path):
    assert replays(tmp_path, seeded()) > 2


@pytest.mark.parametrize("number", range(10))
def test_fio_verifies_what_it_noted_before_a_crash(tmp_path, number):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        crash(rig, tmp_path, seeded())
