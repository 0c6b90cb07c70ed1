"""Real images: which bytes are in which ramdisk, what moves which register, and that nothing else has a say."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import perdure
from perdure.array.commands import Authority
from perdure.errors import Misuse
from perdure.evidence.roots import Platform
from perdure.image import build, cpio, eif, runtime

from .packages import INPUTS, PACKAGES, RUNTIME
from .test_build import AUTHORITY, METADATA, TWIN
from .test_cpio import listing

KERNEL = b"MZ".ljust(0x1FE, b"\0") + b"\x55\xaa\xeb\x66HdrS a kernel"
MODULES = {"virtio.ko": b"\x7fELF virtio", "a.ko": b"\x7fELF a", "nsm.ko": b"\x7fELF nsm"}
DOORS = {Platform.NITRO: "nsm", Platform.SEV_SNP: "tsm", Platform.TDX: "tsm", Platform.TPM: "tpm"}
GUEST = {"evidence": "tsm:/sys/kernel/config/tsm/report", "listen": "tcp:0.0.0.0:7000", "heartbeat": None}
BOOT = {
    Platform.NITRO: {
        "evidence": "nsm:/dev/nsm",
        "listen": f"vsock:{socket.VMADDR_CID_ANY & 0xFFFFFFFF}:7000",
        "heartbeat": [3, 9000],
    },
    Platform.SEV_SNP: GUEST,
    Platform.TDX: GUEST,
    Platform.TPM: {**GUEST, "evidence": "tpm:/dev/tpmrm0"},
}
ROOT = Path(perdure.__file__).parent.parent
PRIVATE = bytes(range(1, 33))


def ramdisk(platform=Platform.NITRO, files=RUNTIME, modules=MODULES):
    return build.program_ramdisk(platform, files, modules)


def enclave(authority=AUTHORITY, **options):
    return build.build_nitro(KERNEL, build.NITRO_CMDLINE, ramdisk(**options), authority)


def pcrs(image):
    found = eif.measure(eif.parse(image))
    return found.pcr0, found.pcr1, found.pcr2


def moved(a, b):
    return [number for number, (one, other) in enumerate(zip(pcrs(a), pcrs(b), strict=True)) if one != other]


def test_there_are_images_for_these_platforms():
    assert build.BOOTS.keys() == DOORS.keys()
    for platform in (Platform.SIMULATED, Platform.NITROTPM):
        with pytest.raises(Misuse, match=f"no images for platform {platform}; there are for nitro, sev-snp, tdx, tpm"):
            ramdisk(platform)


@pytest.mark.parametrize("platform", DOORS)
def test_the_first_ramdisk_holds_this_and_nothing_else(platform):
    files = cpio.unpack(ramdisk(platform))
    disk = ROOT / "perdure" / "disk"
    program = {path.name: path.read_bytes() for path in disk.glob("*.py") if path.name != "init.py"}
    ours = {name: data for name, data in program.items() if name.removesuffix(".py") not in DOORS.values()}
    door = f"{DOORS[platform]}.py"
    assert files == {
        "init": b"#!/usr/bin/python3.11 -ISB\n" + (disk / "init.py").read_bytes(),
        "boot.json": files["boot.json"],
        **RUNTIME,
        **{f"modules/{name}": data for name, data in MODULES.items()},
        "perdure-disk/perdure/__init__.py": (disk.parent / "__init__.py").read_bytes(),
        **{f"perdure-disk/perdure/disk/{name}": data for name, data in ours.items()},
        f"perdure-disk/perdure/disk/{door}": program[door],
    }


@pytest.mark.parametrize("platform", DOORS)
def test_boot_json_says_which_door_and_which_modules_in_which_order(platform):
    files = cpio.unpack(ramdisk(platform))
    boot = json.loads(files["boot.json"])
    assert files["boot.json"] == json.dumps(boot, sort_keys=True).encode("ascii") + b"\n"
    assert boot["modules"] == list(MODULES) != sorted(MODULES)
    assert {name: value for name, value in boot.items() if name != "modules"} == BOOT[platform]


def test_the_order_of_the_modules_is_measured():
    turned = dict(reversed(MODULES.items()))
    assert moved(enclave(), enclave(modules=turned)) == [0, 1]
    assert moved(enclave(), enclave(modules={})) == [0, 1]


def test_the_order_in_which_files_are_given_is_not():
    assert enclave(files=dict(reversed(RUNTIME.items()))) == enclave()


def test_what_is_run_may_be_executed_and_nothing_else():
    modes = listing(ramdisk())
    executable = {"init", "usr/bin/python3.11", "usr/lib/libc.so.6", *(f"modules/{name}" for name in MODULES)}
    assert {name for name, mode in modes.items() if mode == 0o100755} == executable
    assert modes["perdure-disk"] == 0o040755
    assert modes["boot.json"] == 0o100644


@pytest.mark.parametrize("name", ["../a.ko", "a b.ko", "", "é.ko", "/a.ko"])
def test_a_module_whose_name_is_no_files_is_refused(name):
    with pytest.raises(Misuse, match="not a path that an archive may hold"):
        ramdisk(modules={name: b""})


# What moves which register -----------------------------------------------------------------------------------


def test_one_bit_of_the_key_moves_pcr0_and_pcr2_alone():
    assert moved(enclave(), enclave(TWIN)) == [0, 2]


@pytest.mark.parametrize("name", RUNTIME)
def test_one_byte_of_python_moves_pcr0_and_pcr1_alone(name):
    changed = {**RUNTIME, name: RUNTIME[name][:-1] + bytes([RUNTIME[name][-1] ^ 1])}
    assert moved(enclave(), enclave(files=changed)) == [0, 1]


@pytest.mark.parametrize("file", ["core.py", "nsm.py", "init.py"])
def test_one_byte_of_the_program_moves_pcr0_and_pcr1_alone(file, tmp_path, monkeypatch):
    before = enclave()
    package = tmp_path / "perdure"
    (package / "disk").mkdir(parents=True)
    for path in (ROOT / "perdure" / "__init__.py", *(ROOT / "perdure" / "disk").glob("*.py")):
        (package / path.relative_to(ROOT / "perdure")).write_bytes(path.read_bytes())
    monkeypatch.setattr("perdure.image.build.resources.files", lambda name: {"perdure": package}[name])
    assert enclave() == before
    with (package / "disk" / file).open("ab") as program:
        program.write(b"#")
    assert moved(before, enclave()) == [0, 1]


def test_a_byte_of_another_platforms_door_moves_nothing(tmp_path, monkeypatch):
    def without(name):
        return {path: data for path, data in cpio.unpack(ramdisk(name)).items() if not path.endswith("boot.json")}

    nitro, tpm = without(Platform.NITRO), without(Platform.TPM)
    assert nitro.keys() ^ tpm.keys() == {"perdure-disk/perdure/disk/nsm.py", "perdure-disk/perdure/disk/tpm.py"}
    assert ramdisk(Platform.TDX) == ramdisk(Platform.SEV_SNP)


def test_the_platform_moves_pcr0_and_pcr1_alone():
    assert moved(enclave(), enclave(platform=Platform.TPM)) == [0, 1]


@pytest.mark.parametrize("platform", DOORS)
def test_no_private_key_is_in_an_image(platform):
    public = Authority(PRIVATE).public_key
    first = ramdisk(platform)
    for image in (build.build_nitro(KERNEL, b"", first, public), build.build_initramfs(first, public)):
        assert public in image
        assert PRIVATE not in image
        assert PRIVATE.hex().encode() not in image.lower()


def test_an_enclaves_second_ramdisk_is_the_authority_alone():
    parts = eif.parse(enclave())
    assert (parts.kernel, parts.cmdline, parts.flags, parts.signature) == (KERNEL, build.NITRO_CMDLINE, 0, None)
    first, second = parts.ramdisks
    assert first == ramdisk()
    assert cpio.unpack(second) == {"authority.pub": AUTHORITY}
    alone = eif.Eif(b"", b"", (b"", cpio.pack({"authority.pub": AUTHORITY})), b"")
    assert pcrs(enclave())[2] == eif.measure(alone).pcr2
    assert AUTHORITY not in parts.metadata
    assert AUTHORITY.hex().encode() not in parts.metadata
    metadata = json.loads(parts.metadata)
    assert metadata == {**METADATA, "ImageName": "perdure-disk"}


def test_a_virtual_machine_gets_both_ramdisks_one_after_the_other():
    joined = build.build_initramfs(ramdisk(Platform.TPM), AUTHORITY)
    first, second = ramdisk(Platform.TPM), build.authority_ramdisk(AUTHORITY)
    assert joined == first + second
    assert len(first) % 4 == 0  # where the kernel looks for the next archive
    end = b"TRAILER!!!\0"
    assert joined.count(end) == 2


@pytest.mark.parametrize("authority", [b"", AUTHORITY[:-1], b"\x04" + AUTHORITY[1:]])
def test_an_authority_that_is_no_key_is_refused(authority):
    for make in (lambda: enclave(authority), lambda: build.build_initramfs(b"", authority)):
        with pytest.raises(Misuse, match="authority"):
            make()


def test_the_nitro_command_line_is_that_of_aws():
    text = (
        "reboot=k panic=30 pci=off nomodules console=ttyS0 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd "
        "random.trust_cpu=on"
    )
    assert text.encode() == build.NITRO_CMDLINE


# Same inputs, same bytes -------------------------------------------------------------------------------------

BUILD = """
import hashlib, os, sys
os.umask(int(sys.argv[2], 8))
from pathlib import Path
from perdure.evidence.roots import Platform
from perdure.image import build
from perdure.service import images
folder = Path(sys.argv[1])
kernel, blobs = images.read_kernel(folder / "kernel"), images.read_blobs(folder / "blobs")
files = images.read_runtime(folder / "runtime")
key = bytes.fromhex((folder / "key").read_text())
for platform in build.BOOTS:
    first = build.program_ramdisk(platform, files, blobs.modules)
    for image in (build.build_nitro(kernel, blobs.cmdline.encode(), first, key), build.build_initramfs(first, key)):
        print(platform, hashlib.sha256(image).hexdigest())
print(hashlib.sha256(build.build_simulated(key)).hexdigest())
"""


def inputs(folder, names):
    """The same inputs in a folder, written in the order of `names`."""
    (folder / "blobs").mkdir(parents=True)
    (folder / "runtime").mkdir()
    files = {
        "kernel": KERNEL,
        "key": AUTHORITY.hex().encode(),
        "blobs/cmdline": b"panic=1\n",
        "blobs/modules": "\n".join(MODULES).encode(),
        **{f"blobs/{name}": data for name, data in MODULES.items()},
        "runtime/runtime.toml": runtime.lock_text(PACKAGES).encode(),
        **{f"runtime/{name}": data for name, data in INPUTS.items()},
    }
    for name in names(files):
        (folder / name).write_bytes(files[name])
        os.utime(folder / name, (len(name) * 1_000_000, len(name) * 2_000_000))
    return folder


def test_the_same_inputs_give_the_same_bytes_wherever_whenever_and_by_whomever(tmp_path):
    here = inputs(tmp_path / "here", list)
    there = inputs(tmp_path / "an other ünusual" / "place", lambda files: reversed(list(files)))
    (there / "kernel").chmod(0o400)
    common = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    usual = {**common, "LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "HOME": str(tmp_path)}
    strange = {**common, "LC_ALL": "tr_TR.ISO-8859-9", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "4711",
               "SOURCE_DATE_EPOCH": "1", "PYTHONUTF8": "0", "USER": "nobody", "COLUMNS": "20"}  # fmt: skip
    outputs = []
    for folder, umask, env, at in ((here, "022", usual, tmp_path), (there, "777", strange, there)):
        command = [sys.executable, "-B", "-c", BUILD, str(folder), umask]
        done = subprocess.run(command, check=False, capture_output=True, env=env, cwd=at, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    lines = outputs[0].decode().splitlines()
    assert len(lines) == 9
    program = build.program_ramdisk(Platform.NITRO, RUNTIME, MODULES)
    ours = build.build_nitro(KERNEL, b"panic=1", program, AUTHORITY)
    assert lines[0] == f"nitro {hashlib.sha256(ours).hexdigest()}"


def test_no_clock_and_no_randomness_is_read_while_an_image_is_built(monkeypatch):
    wanted = [enclave(), build.build_simulated(AUTHORITY), runtime.unpack(PACKAGES, INPUTS)]

    def asked(*_):
        raise AssertionError("an image must not depend on this")

    clocks = ("time", "time_ns", "localtime", "gmtime", "strftime", "monotonic", "clock_gettime")
    with monkeypatch.context() as patch:
        for name in clocks:
            patch.setattr(time, name, asked)
        for name in ("urandom", "getrandom", "getpid", "uname", "getuid", "getcwd", "getenv"):
            patch.setattr(os, name, asked)
        patch.setattr(socket, "gethostname", asked)
        built = [enclave(), build.build_simulated(AUTHORITY), runtime.unpack(PACKAGES, INPUTS)]
    assert built == wanted


@pytest.mark.parametrize(
    "name", ["init", "boot.json", "modules/a.ko", "perdure-disk/perdure/disk/core.py", "authority.pub"]
)
def test_an_interpreter_brings_no_file_that_is_not_its_own(name):
    """Whoever wrote the lock of a folder of packages chooses their files, and must not choose what runs."""
    with pytest.raises(Misuse, match=f"would bring '{name}', which is not its own"):
        build.program_ramdisk(Platform.TPM, {**RUNTIME, name: b"print('mine')"}, {})
