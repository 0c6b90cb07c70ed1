"""badblocks over the array, shown as a file by nbdfuse and, where that is allowed, through a loop device."""

from types import SimpleNamespace

import pytest

from tests.conformance.rig import random_file
from tests.system.rig import FileSystem, call, how_to_mount, tool


@pytest.fixture
def shown(served, tmp_path):
    """The array as a file."""
    tool("badblocks")
    with FileSystem(SimpleNamespace(nbd_uri=served), tmp_path, kind=how_to_mount()) as files:
        files.attach()
        yield files


@pytest.mark.parametrize("block", [1024, 4096])
def test_no_block_is_bad_after_four_patterns(shown, block):
    """Each pattern is written over all of it and read back."""
    assert "(0/0/0 errors)" in call("badblocks", "-w", "-s", "-v", "-b", block, shown.file)


def test_no_block_is_bad_and_none_is_changed_by_the_test_that_puts_back_what_was_there(shown, served, tmp_path):
    content = random_file(tmp_path / "before", 16 << 20)
    call("nbdcopy", "--flush", tmp_path / "before", served)
    assert "(0/0/0 errors)" in call("badblocks", "-n", "-s", "-v", "-b", 4096, shown.file)
    call("nbdcopy", served, tmp_path / "after")
    assert (tmp_path / "after").read_bytes() == content


def test_no_block_is_bad_through_a_loop_device(shown):
    if shown.kind != "loop":
        pytest.skip("loop devices are not allowed here, so badblocks runs on the file only")
    device = call("losetup", "--find", "--show", shown.file).strip()
    try:
        assert "(0/0/0 errors)" in call("badblocks", "-w", "-t", "random", "-s", "-v", device)
    finally:
        call("losetup", "--detach", device)
