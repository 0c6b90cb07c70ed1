"""One array for all tests of a file that leave it running."""

import pytest

from tests.cli.rig import Rig


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("served"), disks=3, threshold=2) as rig:
        yield rig.up(size="16M")["nbd_uri"]
