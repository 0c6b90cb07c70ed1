"""An array in the clear by the command line: asked for by name, said in its status, and never taken by mistake."""

from __future__ import annotations

import pytest

from perdure.errors import Misuse
from perdure.service.mounting.attach import Way, lacking, look
from perdure.service.owning import owned
from perdure.service.site.config import load
from tests.cli.rig import Rig
from tests.service.mounting import leftovers

LACKING = lacking(look(), Way.LOOP)


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path) as rig:
        yield rig


def test_it_is_asked_for_by_name_and_its_status_says_so(rig):
    rig.up("--sealing", "none")
    rig.write(0, b"state" * 1000)
    assert rig.read(0, 5) == b"state"
    shown = rig.run("status")
    assert "sealing: NONE; hosts read whatever is not encrypted above the array" in shown.out
    assert rig.run("status", "--json").json["is_sealed"] is False
    refused = rig.run("erase", "--offset", 0, "--length", 4096, "-o", rig.directory / "receipt.json", code=2)
    assert "in the clear" in refused.sentence


def test_a_configuration_that_does_not_say_it_serves_nothing(rig):
    rig.up("--sealing", "none")
    rig.down()
    file = rig.directory / "perdure.toml"
    file.write_text(file.read_text().replace('sealing = "none"', '# sealing = "none"'))
    refused = rig.run("up", code=2)
    assert "says sealing = 'perdure', but the array is in the clear: hosts read everything on it" in refused.sentence


def test_a_program_with_a_face_of_its_own_does_not_take_it_by_mistake_either(rig):
    """Core Lightning's plugin and VSS mount the array themselves."""
    rig.up("--sealing", "none")
    rig.down()
    file = rig.directory / "perdure.toml"
    with owned(load(file)) as array:
        array.pwrite(0, b"asked for by name")
    file.write_text(file.read_text().replace('sealing = "none"', '# sealing = "none"'))
    with pytest.raises(Misuse, match="but the array is in the clear"), owned(load(file)):
        pass


@pytest.mark.skipif(bool(LACKING), reason=f"the way in `loop` needs {', '.join(LACKING)}")
def test_who_mounts_it_is_told_since_no_file_system_that_is_mounted_encrypts(rig):
    rig.up("--sealing", "none", size="32M")
    try:
        said = rig.run("run", "--by", "loop", "--make-file-system", "--", "true").err
    finally:
        leftovers.force_away(rig.directory)
    assert "The array is in the clear: hosts read every file" in said


def test_a_sealed_array_is_not_taken_for_one_in_the_clear(rig):
    rig.up()
    rig.down()
    file = rig.directory / "perdure.toml"
    file.write_text(file.read_text().replace("[array]\n", '[array]\nsealing = "none"\n'))
    assert "but the array is sealed" in rig.run("up", code=2).sentence
