import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import perdure
from perdure.errors import Misuse
from perdure.image import build, cpio, eif

AUTHORITY = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")  # 1 * G
TWIN = b"\x03" + AUTHORITY[1:]  # one byte, even one bit, away
PROGRAM = {"__main__.py": b"print()\n", "perdure/__init__.py": b"", "perdure/disk/main.py": b"main\n"}


def pcrs(authority=AUTHORITY, program=None):
    return eif.measure(eif.parse(build.build_simulated(authority, program)))


def moved(a, b):
    return [index for index in (0, 1, 2) if getattr(a, f"pcr{index}") != getattr(b, f"pcr{index}")]


def test_the_same_inputs_give_the_same_bytes_in_another_process():
    script = (
        "import sys; from perdure.image import build; "
        f"sys.stdout.buffer.write(build.build_simulated(bytes.fromhex('{AUTHORITY.hex()}')))"
    )
    command = [sys.executable, "-c", script]
    other = subprocess.run(command, check=True, capture_output=True, env={"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"})
    assert other.stdout == build.build_simulated(AUTHORITY)


def test_one_byte_of_the_key_moves_pcr0_and_pcr2_alone():
    assert moved(pcrs(), pcrs(TWIN)) == [0, 2]


def test_one_byte_of_the_program_moves_pcr0_and_pcr1_alone():
    changed = {**PROGRAM, "perdure/disk/main.py": b"Main\n"}
    assert moved(pcrs(program=PROGRAM), pcrs(program=changed)) == [0, 1]
    renamed = {"__main__.py": PROGRAM["__main__.py"], "perdure/__init__.py": b"", "perdure/disk/Main.py": b"main\n"}
    assert moved(pcrs(program=PROGRAM), pcrs(program=renamed)) == [0, 1]


def test_the_key_alone_gives_pcr2():
    alone = eif.measure(eif.Eif(b"", b"", (b"", build.authority_ramdisk(AUTHORITY)), b""))
    assert alone.pcr2 == pcrs().pcr2 == pcrs(program=PROGRAM).pcr2


def test_the_first_ramdisk_holds_the_disk_program_and_nothing_else():
    first, second = (cpio.unpack(ramdisk) for ramdisk in eif.parse(build.build_simulated(AUTHORITY)).ramdisks)
    assert first == build.program_files()
    assert second == {"authority.pub": AUTHORITY}
    package = Path(perdure.__file__).parent
    sources = {f"perdure/disk/{path.name}": path.read_bytes() for path in (package / "disk").glob("*.py")}
    start = {"perdure/__init__.py": (package / "__init__.py").read_bytes(), "__main__.py": first["__main__.py"]}
    assert first == {**sources, **start}
    assert "perdure/disk/nsm.py" in first
    assert b"from perdure.disk.main import main" in first["__main__.py"]


def test_the_metadata_is_complete_and_holds_no_time_of_building():
    metadata = json.loads(eif.parse(build.build_simulated(AUTHORITY)).metadata)
    assert metadata["BuildMetadata"]["BuildTime"] == "1970-01-01T00:00:00+00:00"
    required = {"ImageName", "ImageVersion", "BuildMetadata", "DockerInfo", "CustomMetadata"}
    assert metadata.keys() == required


UNCOMPRESSED = ec.derive_private_key(1, ec.SECP256K1()).public_key().public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
)  # fmt: skip


@pytest.mark.parametrize(
    "authority",
    [b"", AUTHORITY[:-1], AUTHORITY + b"\0", AUTHORITY[1:], UNCOMPRESSED, b"\x02" + b"\xff" * 32, b"\0" * 33],
)
def test_refuses_an_authority_that_is_not_a_compressed_key(authority):
    with pytest.raises(Misuse, match="authority"):
        build.build_simulated(authority)
