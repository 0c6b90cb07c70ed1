"""Many more random moments at which two of five disks die, with the main program or without it."""

import itertools

import pytest

from tests.cli.rig import Rig
from tests.system.test_deaths import SEATS, lose_two_of_five

ROUNDS = 10


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("doomed", [*itertools.combinations(SEATS, 2)], ids=str)
def test_any_two_of_five_killed_at_once_lose_nothing_acknowledged(tmp_path, doomed, number):
    with Rig(tmp_path) as rig:
        lose_two_of_five(rig, doomed)
