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
PCR2_OF_G = "0166a55962da3e007828f71cb30da44b4d4566dde1a3d3f82f72bbfdb8804c8a42bd1af616295020c8963b4d0a37f2c2"
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


def test_pcr2_follows_from_the_key_alone():
    assert build.authority_pcr2(AUTHORITY).hex() == PCR2_OF_G == pcrs().pcr2.hex()
    assert build.authority_pcr2(TWIN) == pcrs(TWIN).pcr2


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
    del sources["perdure/disk/init.py"]  # which a simulated disk's launcher does not run
    start = {"perdure/__init__.py": (package / "__init__.py").read_bytes(), "__main__.py": first["__main__.py"]}
    assert first == {**sources, **start}
    assert "perdure/disk/nsm.py" in first
    assert b"from perdure.disk.main import main" in first["__main__.py"]


METADATA = {
    "ImageName": "perdure-disk-simulated",
    "ImageVersion": "1",
    "BuildMetadata": {
        "BuildTime": "1970-01-01T00:00:00+00:00",
        "BuildTool": "perdure",
        "BuildToolVersion": "1",
        "OperatingSystem": "none",
        "KernelVersion": "none",
    },
    "DockerInfo": {},
    "CustomMetadata": {},
}
"""All that AWS's schema requires, and nothing that differs from one build to the next."""


def test_the_metadata_is_complete_and_holds_nothing_of_the_build():
    parts = eif.parse(build.build_simulated(AUTHORITY))
    assert json.loads(parts.metadata) == METADATA
    assert parts.metadata == json.dumps(METADATA, sort_keys=True, separators=(",", ":")).encode()


def test_a_simulated_image_says_what_it_is():
    parts = eif.parse(build.build_simulated(AUTHORITY))
    assert parts.kernel == b"perdure simulated TEE, version 1: protects nothing, for tests and trials only\n"
    assert parts.cmdline == b"perdure.simulated=1"


def test_the_authoritys_register_is_the_same_in_every_release():
    """Policies name it: of the key 1 * G it is this, as of every image so far."""
    assert pcrs().pcr2.hex() == PCR2_OF_G


def test_the_program_starts_where_python_looks(tmp_path):
    """`python DIRECTORY` runs its `__main__.py`; without arguments that is the disk's usage."""
    for name, contents in build.program_files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(contents)
    done = subprocess.run([sys.executable, "-B", tmp_path], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "perdure-disk: error: the following arguments are required" in done.stderr


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
