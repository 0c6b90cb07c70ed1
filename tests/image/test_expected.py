"""What a machine will measure, against values from elsewhere: few lines of hashing, and AMD guests' own tool."""

import contextlib
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.errors import Misuse
from perdure.image import expected

from .firmware import HASHES_PAGE, KERNEL_HASHES, SECTIONS, SIZE_BYTES, firmware

DEBIAN_FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "firmware").write_bytes(firmware())
    (tmp_path / "kernel").write_bytes(b"MZ kernel")
    return tmp_path


def measure(folder, **changes):
    options = {
        "firmware": folder / "firmware",
        "kernel": folder / "kernel",
        "initramfs": b"initramfs",
        "cmdline": "console=ttyS0 perdure.ip=10.0.0.2/24",
        "cpu_count": 2,
        "cpu_type": "EPYC-v4",
    }
    return expected.sev_snp(**{**options, **changes})


@pytest.mark.parametrize(
    ("cmdline", "cpu_count", "cpu_type"),
    [("console=ttyS0 perdure.ip=10.0.0.2/24", 1, "EPYC-v4"), ("", 3, "EPYC-Milan"), ("a b", 2, "EPYC-Genoa")],
)
def test_the_measurement_is_that_of_the_tool_that_launches_such_guests(folder, cmdline, cpu_count, cpu_type):
    (folder / "initramfs").write_bytes(b"initramfs")
    command = [sys.executable, "-m", "sevsnpmeasure.cli", "--mode", "snp", "--vcpus", str(cpu_count)]
    command += ["--vcpu-type", cpu_type, "--ovmf", "firmware", "--kernel", "kernel", "--initrd", "initramfs"]
    done = subprocess.run(
        [*command, "--append", cmdline], cwd=folder, check=False, capture_output=True, text=True, timeout=30
    )
    found = measure(folder, cmdline=cmdline, cpu_count=cpu_count, cpu_type=cpu_type)
    assert found.hex() == done.stdout.strip()
    assert len(found) == 48


def test_firmware_kernel_initramfs_command_line_and_processors_are_in_the_measurement(folder):
    (folder / "other").write_bytes(b"MZ Kernel")
    changed = bytearray(firmware())
    changed[0] ^= 1
    (folder / "changed").write_bytes(changed)
    found = [
        measure(folder),
        measure(folder, initramfs=b"Initramfs"),
        measure(folder, kernel=folder / "other"),
        measure(folder, cmdline="console=ttyS0"),
        measure(folder, cpu_count=1),
        measure(folder, cpu_type="EPYC-Milan"),
        measure(folder, firmware=folder / "changed"),
    ]
    assert len(set(found)) == len(found)
    assert measure(folder) == found[0]


def test_no_copy_of_the_initramfs_stays_behind(folder, monkeypatch):
    temporary = folder / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    measure(folder)
    with pytest.raises(Misuse):
        measure(folder, firmware=folder / "none")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(10),
        bytes(50),
        bytes(4096),
        bytes(4097),
        firmware(SECTIONS),  # it does not take the kernel's hashes
        firmware(hash_table=None),
        firmware(hash_table=HASHES_PAGE + 0xFFF),  # the table would not end in its page
        firmware(reset=None),
        firmware((*SECTIONS, (0x900000, 0x1000, 99))),
        firmware((*SECTIONS, (0x900000, 0x1001, 1), KERNEL_HASHES)),
        firmware((*SECTIONS, (HASHES_PAGE, 0x2000, 0x10))),
        firmware().replace(b"ASEV", b"VESA"),
        firmware(size_bytes=SIZE_BYTES + 1),
        firmware()[: SIZE_BYTES // 2],
    ],
    ids=lambda data: f"{len(data)}-{hashlib.md5(data).hexdigest()[:4]}",
)
def test_firmware_that_does_not_take_the_hashes_is_refused_in_one_sentence(folder, data):
    (folder / "firmware").write_bytes(data)
    with pytest.raises(Misuse, match=r"^The measurement cannot be computed \([^\n]+\); nothing was written\.$"):
        measure(folder)


def test_firmware_cut_or_changed_anywhere_is_refused_or_measures_otherwise(folder):
    usual, whole = measure(folder), firmware()
    for at in range(SIZE_BYTES - 0x810, SIZE_BYTES, 11):
        changed = bytearray(whole)
        changed[at] ^= 0x41
        (folder / "firmware").write_bytes(changed)
        with contextlib.suppress(Misuse):
            assert measure(folder) != usual


def test_debians_firmware_is_refused_in_one_sentence(folder):
    if not DEBIAN_FIRMWARE.exists():
        pytest.skip(f"NO REAL FIRMWARE IS TRIED: {DEBIAN_FIRMWARE} is not here")
    with pytest.raises(Misuse, match=r"^The measurement cannot be computed \(.*SNP_KERNEL_HASHES.*\); nothing was"):
        measure(folder, firmware=DEBIAN_FIRMWARE)


@pytest.mark.parametrize("name", ["firmware", "kernel"])
def test_a_file_that_cannot_be_read_is_told(folder, name):
    with pytest.raises(Misuse, match="No such file"):
        measure(folder, **{name: folder / "none"})


@pytest.mark.parametrize(("cpu_type", "count"), [("Skylake", 1), ("", 1), ("epyc", 1), ("EPYC-v4", 0), ("EPYC-v4", -1)])
def test_a_processor_that_cannot_be_is_refused(folder, cpu_type, count):
    with pytest.raises(Misuse, match="is no processor that SEV-SNP runs on; there are EPYC, "):
        measure(folder, cpu_type=cpu_type, cpu_count=count)


# TPM ---------------------------------------------------------------------------------------------------------


def test_pcr9_is_extended_by_the_command_line_and_then_by_the_initramfs():
    """Of `panic=-1` and an initramfs of three bytes, written out."""
    utf16 = b"p\0a\0n\0i\0c\0=\0-\x001\0 \0i\0n\0i\0t\0r\0d\0=\0i\0n\0i\0t\0r\0d\0\0\0"
    first = hashlib.sha256(32 * b"\0" + hashlib.sha256(utf16).digest()).digest()
    second = hashlib.sha256(first + hashlib.sha256(b"xyz").digest()).hexdigest()
    assert expected.tpm_pcr9("panic=-1", b"xyz").hex() == second


def test_pcr9_of_a_command_line_that_needs_more_than_ascii():
    assert expected.tpm_pcr9("é=😀", b"") != expected.tpm_pcr9("é=?", b"")
    assert len(expected.tpm_pcr9("", b"")) == 32
