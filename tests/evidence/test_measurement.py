"""Measurements: which registers each platform has, which it needs, and when one fits what was found."""

import pytest

from perdure.errors import Misuse
from perdure.evidence.measurement import REGISTERS, Measurement
from perdure.evidence.roots import Platform

from .support import registers_of

platforms = pytest.mark.parametrize("platform", Platform)


def names(platform):
    return REGISTERS[platform].required.keys(), REGISTERS[platform].optional.keys()


def pcrs(*numbers):
    return {f"pcr{number}" for number in numbers}


def measurement(platform, **changes):
    registers = {**registers_of(platform), **changes}
    return Measurement.of("root", {name: value for name, value in registers.items() if value is not None})


def test_every_platform_has_the_registers_that_its_evidence_shows():
    for platform in (Platform.NITRO, Platform.SIMULATED):
        assert names(platform) == (pcrs(0, 1, 2), pcrs(*range(3, 32)))
        assert set(REGISTERS[platform].lengths.values()) == {48}
    assert names(Platform.SEV_SNP) == ({"measurement"}, {"host_data", "id_key_digest", "author_key_digest"})
    assert REGISTERS[Platform.SEV_SNP].lengths == {
        "measurement": 48,
        "host_data": 32,
        "id_key_digest": 48,
        "author_key_digest": 48,
    }
    needed, more = {"mrtd", "rtmr0", "rtmr1", "rtmr2"}, {"rtmr3", "mrconfigid", "mrowner", "mrownerconfig"}
    assert names(Platform.TDX) == (needed, more)
    assert set(REGISTERS[Platform.TDX].lengths.values()) == {48}
    assert names(Platform.TPM) == (pcrs(0, 2, 4, 9), pcrs(*range(24)) - pcrs(0, 2, 4, 9))
    assert set(REGISTERS[Platform.TPM].lengths.values()) == {32}
    assert names(Platform.NITROTPM) == (pcrs(2, 4, 7, 12), pcrs(*range(24)) - pcrs(2, 4, 7, 12))
    assert set(REGISTERS[Platform.NITROTPM].lengths.values()) == {48}
    assert REGISTERS.keys() == set(Platform)


@platforms
def test_lengths_are_those_of_what_is_needed_and_of_the_rest(platform):
    known = REGISTERS[platform]
    assert known.lengths == {**known.required, **known.optional}
    assert len(known.lengths) == len(known.required) + len(known.optional)


@platforms
def test_the_registers_that_are_needed_are_enough(platform):
    measurement(platform).require_registers(platform)
    every = registers_of(platform, *REGISTERS[platform].optional)
    Measurement.of("root", every).require_registers(platform)
    for name in REGISTERS[platform].optional:
        Measurement.of("root", registers_of(platform, name)).require_registers(platform)


@platforms
def test_each_register_that_is_needed_must_be_listed(platform):
    for name in REGISTERS[platform].required:
        with pytest.raises(Misuse, match=f"A measurement under root root lacks {name}, which {platform} needs"):
            measurement(platform, **{name: None}).require_registers(platform)
    with pytest.raises(Misuse, match=f"lacks .*, which {platform} needs"):
        Measurement("root", ()).require_registers(platform)


@platforms
def test_each_register_has_its_length(platform):
    for name, length in REGISTERS[platform].lengths.items():
        measurement(platform, **{name: bytes(length)}).require_registers(platform)
        for wrong in (0, length - 1, length + 1, 2 * length, 20):
            with pytest.raises(Misuse, match=f"The {name} of a measurement under root root has {length} bytes"):
                measurement(platform, **{name: bytes(wrong)}).require_registers(platform)


@platforms
def test_other_registers_are_refused(platform):
    every = {name: length for one in REGISTERS.values() for name, length in one.lengths.items()}
    foreign = {name: length for name, length in every.items() if name not in REGISTERS[platform].lengths}
    for name, length in {**foreign, "pcr32": 48, "PCR0": 48, "pcr00": 48, "": 48, "root": 48}.items():
        with pytest.raises(Misuse, match=f"under root root has '{name}', which {platform} does not have"):
            measurement(platform, **{name: bytes(length)}).require_registers(platform)


def test_a_foreign_name_is_not_repeated_at_length():
    with pytest.raises(Misuse, match="does not have") as caught:
        measurement(Platform.TDX, **{"\n" * 9999: b""}).require_registers(Platform.TDX)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("registers", [[("mrtd", b"a" * 48)], [("rtmr0", bytes(48)), ("rtmr0", b"a" * 48)]])
def test_a_register_is_listed_once(registers):
    listed = (*Measurement.of("root", registers_of(Platform.TDX)).registers, *registers)
    with pytest.raises(Misuse, match="sorted, and each is listed once"):
        Measurement("root", tuple(sorted(listed))).require_registers(Platform.TDX)


def test_registers_are_sorted_so_that_equal_measurements_are_equal():
    registers = registers_of(Platform.TDX, "rtmr3", "mrowner")
    shuffled = dict(reversed(registers.items()))
    assert Measurement.of("root", shuffled) == Measurement.of("root", registers)
    assert [name for name, _ in Measurement.of("root", shuffled).registers] == sorted(registers)
    with pytest.raises(Misuse, match="sorted, and each is listed once"):
        Measurement("root", Measurement.of("root", registers).registers[::-1]).require_registers(Platform.TDX)


def test_an_enclave_has_its_three_pcrs_in_their_order():
    enclave = Measurement.enclave("root", b"a" * 48, b"b" * 48, b"c" * 48)
    assert enclave == Measurement("root", (("pcr0", b"a" * 48), ("pcr1", b"b" * 48), ("pcr2", b"c" * 48)))
    enclave.require_registers(Platform.NITRO)


@platforms
def test_a_measurement_fits_what_has_each_listed_register_with_its_value(platform):
    every = registers_of(platform, *REGISTERS[platform].optional)
    all_listed = Measurement.of("root", every)
    assert all_listed.fits(every)
    assert measurement(platform).fits(every)
    for name, value in every.items():
        for wrong in (b"", value[:-1], value + b"\0", bytes([value[0] ^ 1]) + value[1:]):
            assert not all_listed.fits({**every, name: wrong})
        without = {one: found for one, found in every.items() if one != name}
        assert not all_listed.fits(without)
        # What is not listed is not looked at.
        assert measurement(platform).fits({**every, name: b""}) is (name in REGISTERS[platform].optional)
