from dataclasses import replace

import pytest

from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import TrustedRoot
from perdure.evidence.roots import Platform
from perdure.manifest.difference import difference
from perdure.manifest.manifest import Overrides, Program, ProgramKind
from perdure.simtee.pki import SimulatedRoot

from .support import ENCLAVE, MANIFEST, POLICY

NEXT = replace(MANIFEST, version=8)
OTHER_ENCLAVE = Measurement.enclave(ENCLAVE.root, b"\x20" * 48, b"\x21" * 48, b"\x22" * 48)
SIMULATED, OTHER_SIMULATED = (
    TrustedRoot("simulated", Platform.SIMULATED, SimulatedRoot.create().der) for _ in range(2)
)


def with_policy(**changes):
    return replace(MANIFEST, policy=replace(POLICY, **changes))


def said(old, new):
    return [(change.text, change.matters) for change in difference(old, new)]


def test_equal_manifests_have_no_difference():
    assert difference(MANIFEST, MANIFEST) == ()


def test_a_release_is_a_higher_version_and_another_program():
    new = replace(NEXT, program=Program(ProgramKind.TARBALL, b"\xcc" * 32))
    assert said(MANIFEST, new) == [
        ("The version rises from 7 to 8.", False),
        (f"The program is another one: tarball {'cc' * 32}, before tree {'aa' * 32}.", False),
    ]


def test_what_matters_stands_first():
    changes = difference(MANIFEST, replace(NEXT, command=("sh", "-c", "x")))
    assert [change.matters for change in changes] == [True, False]


@pytest.mark.parametrize("version", [7, 6])
def test_a_version_that_does_not_rise_matters(version):
    assert said(MANIFEST, replace(MANIFEST, version=version, name="other"))[1] == (
        f"The version does not rise: {version}, before 7. A loader takes no manifest back.",
        True,
    )


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (replace(NEXT, name="other"), "The name is other, before node."),
        (replace(NEXT, command=("sh",)), "The command is ['sh'], before ['python3', "),
        (replace(NEXT, array_id=b"\xcc" * 32), f"It is another array: {'cc' * 32}, before {'bb' * 32}."),
        (replace(NEXT, threshold=2, disks=3),
         "Any 2 of 3 disks hold the array, before 3 of 5: weaker, fewer disks in one hand are enough to go on and "
         "fewer may be lost."),
        (replace(NEXT, threshold=4), "Any 4 of 5 disks hold the array, before 3 of 5: weaker, fewer may be lost."),
        (replace(NEXT, threshold=4, disks=6), "Any 4 of 6 disks hold the array, before 3 of 5."),
        (replace(NEXT, overrides=Overrides()), "The setting attest is as usual, before flush."),
        (replace(NEXT, overrides=Overrides(attest="every-read")), "The setting attest is every-read, before flush."),
        (replace(NEXT, overrides=Overrides(attest="flush", when_too_few_disks="freeze")),
         "The setting when-too-few-disks is freeze, before as usual."),
    ],
)  # fmt: skip
def test_what_is_more_than_a_release_matters(new, text):
    [change] = [change for change in difference(MANIFEST, new) if change.matters]
    assert change.text.startswith(text)


@pytest.mark.parametrize(
    ("old", "new", "text", "matters"),
    [
        ({}, {"roots": (*POLICY.roots, SIMULATED)}, "One more root is trusted: simulated (simulated).", True),
        ({"roots": (*POLICY.roots, SIMULATED)}, {}, "A root is trusted no more: simulated (simulated).", False),
        ({"roots": (*POLICY.roots, SIMULATED)}, {"roots": (*POLICY.roots, OTHER_SIMULATED)},
         "The root simulated is another certificate, platform or set of limits.", True),
        ({}, {"measurements": (ENCLAVE, OTHER_ENCLAVE)},
         f"One more disk program is believed, under root {ENCLAVE.root}: pcr0 {'20' * 48}, pcr1 {'21' * 48}, "
         f"pcr2 {'22' * 48}.", True),
        ({"measurements": (ENCLAVE, OTHER_ENCLAVE)}, {},
         f"A disk program is believed no more, under root {ENCLAVE.root}: pcr0 {'20' * 48}, pcr1 {'21' * 48}, "
         f"pcr2 {'22' * 48}.", False),
        ({}, {"skew_ms_max": 60_001}, "Clocks may differ by 60001 ms, before 60000: weaker.", True),
        ({}, {"skew_ms_max": 59_999}, "Clocks may differ by 59999 ms, before 60000.", False),
        ({}, {"seats_per_root_max": 2}, "On one root may be 2 disks, before n - k disks.", False),
        ({"seats_per_root_max": 2}, {}, "On one root may be n - k disks, before 2 disks: weaker.", True),
        ({"seats_per_domain_max": 1}, {"seats_per_domain_max": 2},
         "On one host or zone may be 2 disks, before 1 disks: weaker.", True),
        ({"seats_per_domain_max": 2}, {"seats_per_domain_max": 1},
         "On one host or zone may be 1 disks, before 2 disks.", False),
        ({}, {"acknowledgement_chains": True}, "FLUSHes may rest on chains: weaker.", True),
        ({"acknowledgement_chains": True}, {}, "FLUSHes may not rest on chains.", False),
    ],
)  # fmt: skip
def test_what_changes_in_the_policy_is_said_and_whether_more_is_trusted(old, new, text, matters):
    changes = said(with_policy(**old), replace(with_policy(**new), version=8))
    assert (text, matters) in changes
    assert changes[0][0].startswith("The policy is another one: ")
    assert len(changes) == 3
