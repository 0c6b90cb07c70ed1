"""Facts about a machine, and what is said of them."""

import pytest

from perdure.service.doctor import machine
from perdure.service.doctor.finding import Level
from perdure.service.doctor.machine import FILES_MIN, MAIN_BYTES, TIME_ERROR, Keeps, SwapArea

GIB = 1 << 30
X86 = frozenset({"aes", "pclmulqdq", "sha_ni", "avx2", "sse2"})


def area(keeps, name="/dev/sda2"):
    return SwapArea(name, keeps)


@pytest.mark.parametrize(
    ("areas", "level"),
    [
        ([], Level.OK),
        ([area(Keeps.IN_RAM, "/dev/zram0")], Level.OK),
        ([area(Keeps.ENCRYPTED, "/dev/dm-1")], Level.OK),
        ([area(Keeps.PLAIN)], Level.WARN),
        ([area(Keeps.IN_RAM, "/dev/zram0"), area(Keeps.PLAIN)], Level.WARN),
    ],
)
def test_swap_matters_only_where_it_is_written_in_clear(areas, level):
    assert machine.swap(areas, 8 << 20).level is level


def test_of_plain_swap_it_is_said_where_it_is_and_what_to_do():
    found = machine.swap([area(Keeps.PLAIN)], 8 << 20)
    assert "/dev/sda2" in found.found
    assert "8192 KiB" in found.found
    assert "swapoff -a" in found.do
    assert "without limit" in machine.swap([area(Keeps.PLAIN)], None).found


@pytest.mark.parametrize(
    ("pattern", "soft_bytes", "level"),
    [
        ("core", 0, Level.OK),
        ("core\n", 0, Level.OK),
        ("", None, Level.OK),
        ("|/bin/false", None, Level.OK),
        ("core", None, Level.WARN),
        ("core", 4096, Level.WARN),
        ("|/usr/lib/systemd/systemd-coredump %P %u", None, Level.WARN),
        ("|/usr/lib/systemd/systemd-coredump %P %u", 0, Level.WARN),
    ],
)
def test_a_core_dump_is_a_danger_unless_none_is_written_nor_taken_by_a_program(pattern, soft_bytes, level):
    assert machine.core_dumps(pattern, soft_bytes).level is level


def test_too_few_files_are_a_failure_at_the_number_that_is_named():
    assert machine.open_files(FILES_MIN).level is Level.OK
    assert machine.open_files(None).level is Level.OK
    found = machine.open_files(FILES_MIN - 1)
    assert found.level is Level.FAIL
    assert str(FILES_MIN) in found.why


@pytest.mark.parametrize(
    ("state", "level"), [(0, Level.OK), (1, Level.OK), (TIME_ERROR, Level.WARN), (None, Level.WARN)]
)
def test_a_clock_that_nothing_keeps_right_is_a_weakness(state, level):
    assert machine.clock(state, 1500).level is level


def test_memory_is_judged_by_what_the_arrays_tags_take():
    assert machine.memory(MAIN_BYTES, None, is_running=False).level is Level.OK
    assert machine.memory(MAIN_BYTES - 1, None, is_running=False).level is Level.WARN
    assert machine.memory(MAIN_BYTES + 16 * GIB // 50, 16 * GIB, is_running=False).level is Level.OK
    assert machine.memory(MAIN_BYTES + 15 * GIB // 50, 16 * GIB, is_running=False).level is Level.WARN
    assert machine.memory(1 << 20, 16 * GIB, is_running=True).level is Level.OK, "it has its own already"


@pytest.mark.parametrize(
    ("architecture", "flags", "level"),
    [
        ("x86_64", X86, Level.OK),
        ("x86_64", X86 - {"sha_ni"}, Level.OK),
        ("x86_64", X86 - {"aes"}, Level.WARN),
        ("aarch64", frozenset({"aes", "pmull", "sha2", "asimd"}), Level.OK),
        ("aarch64", frozenset({"asimd"}), Level.WARN),
        ("riscv64", frozenset(), Level.OK),
    ],
)
def test_a_processor_without_aes_is_a_weakness_and_without_others_is_slower(architecture, flags, level):
    found = machine.processor(architecture, flags)
    assert found.level is level
    assert ("slower" in found.found) == (flags == X86 - {"sha_ni"})


@pytest.mark.parametrize(
    "found",
    [
        machine.swap([area(Keeps.PLAIN)], None),
        machine.core_dumps("core", None),
        machine.open_files(1),
        machine.clock(None, 0),
        machine.memory(0, None, is_running=False),
        machine.processor("x86_64", frozenset()),
    ],
    ids=lambda found: found.check,
)
def test_whatever_is_not_well_says_why_it_matters_and_what_to_do(found):
    assert found.level is not Level.OK
    assert found.why.endswith(".")
    assert found.do.endswith(".")
    assert not found.found.endswith(".")
