import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.evidence.policy import SKEW_MS_MAX, Measurement, Policy, TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1, Platform
from perdure.simtee.pki import SimulatedRoot

from .support import POLICY, ROOT, seeded

AWS = TrustedRoot.builtin(AWS_NITRO_G1)
SIMULATED = POLICY.roots[0]
A, B = (Measurement(AWS_NITRO_G1, bytes([i]) * 48, bytes([i + 1]) * 48, bytes([i + 2]) * 48) for i in (1, 7))
FULL = Policy((SIMULATED, AWS), (A, POLICY.measurements[0], B), skew_ms_max=5_000)


def changed(**changes):
    value = json.loads(FULL.to_json())
    value.update(changes)
    return json.dumps({key: item for key, item in value.items() if item is not ...}).encode()


def test_the_canonical_form_survives_a_round_trip_and_has_no_choices():
    data = FULL.to_json()
    assert Policy.from_json(data) == FULL
    assert Policy.from_json(data).to_json() == data
    assert Policy.from_json(json.dumps(json.loads(data), indent=4).encode()) == FULL
    assert b" " not in data
    assert data.startswith(b'{"measurements":[{"pcr0":"01')
    assert b'{"kind":"builtin","name":"aws-nitro-g1","platform":"nitro","sha256":"641a0321' in data


def test_order_does_not_matter_and_everything_else_changes_the_digest():
    shuffled = Policy((AWS, SIMULATED), (B, POLICY.measurements[0], A), skew_ms_max=5_000)
    assert shuffled == FULL
    assert shuffled.digest() == FULL.digest()
    others = (
        Policy(FULL.roots, FULL.measurements, skew_ms_max=5_001),
        Policy(FULL.roots, FULL.measurements[1:], skew_ms_max=5_000),
        Policy((AWS,), (A, B), skew_ms_max=5_000),
        Policy((AWS, TrustedRoot("simulated", Platform.NITRO, ROOT.der)), FULL.measurements, skew_ms_max=5_000),
    )
    assert len({policy.digest() for policy in (*others, FULL)}) == 5
    assert all(len(policy.digest()) == 32 for policy in others)


def test_the_digest_is_the_tagged_hash_of_the_canonical_form():
    policy = Policy((AWS,), (A,), skew_ms_max=1000)
    pcrs = ",".join(f'"pcr{index}":"{f"0{index + 1}" * 48}"' for index in range(3))
    canonical = (
        f'{{"measurements":[{{{pcrs},"root":"aws-nitro-g1"}}],'
        '"roots":[{"kind":"builtin","name":"aws-nitro-g1","platform":"nitro","sha256":'
        '"641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"}],"seats_per_domain_max":null,'
        '"seats_per_root_max":null,"skew_ms_max":1000,"version":1}'
    )
    assert policy.to_json() == canonical.encode()
    tag = hashlib.sha256(b"perdure/policy/1").digest()
    assert policy.digest() == hashlib.sha256(tag + tag + canonical.encode()).digest()
    assert policy.digest().hex() == "9b8e1926783539b96a0204adba9ca55103a2c16867e6c90ab72f3ac87618ddd7"


ANOTHER = SimulatedRoot.create(seeded("another")).der
ROOTS = json.loads(FULL.to_json())["roots"]
MEASUREMENTS = json.loads(FULL.to_json())["measurements"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "policy is not an object"),
        (b'{"version":1,"version":1}', "same key twice"),
        (changed(version=2), "version is 2"),
        (changed(version=True), "version is True"),
        (changed(version=...), "lacks the key 'version'"),
        (changed(extra=1), "unknown key 'extra'"),
        (changed(skew_ms_max=0), "skew_ms_max"),
        (changed(skew_ms_max=SKEW_MS_MAX + 1), "skew_ms_max"),
        (changed(skew_ms_max=1.5), "skew_ms_max"),
        (changed(skew_ms_max=True), "skew_ms_max"),
        (changed(skew_ms_max="1"), "skew_ms_max"),
        (changed(seats_per_root_max=0), "seats_per_root_max is a whole number from 1 to 16"),
        (changed(seats_per_domain_max=17), "seats_per_domain_max is a whole number from 1 to 16"),
        (changed(seats_per_domain_max=True), "seats_per_domain_max"),
        (changed(seats_per_root_max="1"), "seats_per_root_max"),
        (changed(roots={}), "roots is not a list"),
        (changed(roots=[1]), r"roots\[0\] is not an object"),
        (changed(roots=[{**ROOTS[0], "kind": "other"}]), r"roots\[0\].kind"),
        (changed(roots=[{**ROOTS[0], "kind": []}]), r"roots\[0\].kind"),
        (changed(roots=[{**ROOTS[0], "certificate": "00"}]), "unknown key 'certificate'"),
        (changed(roots=[{**ROOTS[0], "sha256": "00" * 32}]), r"roots\[0\].sha256 is not the fingerprint"),
        (changed(roots=[{**ROOTS[0], "sha256": 1}]), r"roots\[0\].sha256 is not text"),
        (changed(roots=[{**ROOTS[0], "name": "aws-nitro-g9"}]), "no built-in root 'aws-nitro-g9'"),
        (changed(roots=[{**ROOTS[0], "platform": "simulated"}]), r"roots\[0\].platform is 'simulated'"),
        (changed(roots=[{**ROOTS[1], "platform": "sgx"}]), r"roots\[0\].platform 'sgx'"),
        (changed(roots=[{**ROOTS[1], "platform": None}]), r"roots\[0\].platform is not text"),
        (changed(roots=[{**ROOTS[1], "name": "Simulated"}]), "'Simulated'"),
        (changed(roots=[{**ROOTS[1], "name": AWS_NITRO_G1}]), "belongs to a built-in root"),
        (changed(roots=[{**ROOTS[1], "certificate": "00"}]), "certificate of root simulated"),
        (changed(roots=[{**ROOTS[1], "certificate": "0"}]), r"roots\[0\].certificate"),
        (changed(roots=[{**ROOTS[1], "certificate": ""}]), r"roots\[0\].certificate is .* hexadecimal\."),
        (changed(roots=[*ROOTS, ROOTS[0]]), "names a root twice"),
        (changed(roots=[*ROOTS, {**ROOTS[1], "name": "again"}]), "names a root twice"),
        (changed(roots=[*ROOTS, {**ROOTS[1], "certificate": ANOTHER.hex()}]), "names a root twice"),
        (changed(roots=ROOTS[:1]), "under root 'simulated'"),
        (changed(measurements=[MEASUREMENTS[0]] * 2), "measurement twice"),
        (changed(measurements=[{**MEASUREMENTS[0], "pcr1": "00"}]), r"measurements\[0\].pcr1 is .* of 48 bytes\."),
        (changed(measurements=[{**MEASUREMENTS[0], "pcr1": "AB" * 48}]), r"measurements\[0\].pcr1"),
        (changed(measurements=[{**MEASUREMENTS[0], "pcr1": 7}]), r"measurements\[0\].pcr1"),
        (changed(measurements=[{**MEASUREMENTS[0], "pcr3": "00" * 48}]), "unknown key 'pcr3'"),
        (changed(measurements=[{"root": "simulated"}]), "lacks the key 'pcr0'"),
        (changed(measurements=[{**MEASUREMENTS[0], "root": "nobody"}]), "under root 'nobody'"),
    ],
)
def test_refuses_and_names_what_is_wrong(data, what):
    with pytest.raises(Misuse, match=what):
        Policy.from_json(data)


@given(st.binary(max_size=60) | st.integers(0, len(FULL.to_json()) - 1).map(lambda n: FULL.to_json()[:n]))
def test_any_bytes_are_a_policy_or_misuse(data):
    with pytest.raises(Misuse):
        Policy.from_json(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "kind", "root"]), inner),
)


@given(st.sampled_from(["version", "roots", "measurements", "skew_ms_max", "seats_per_root_max"]), json_values)
def test_any_value_of_a_key_is_read_or_misuse(key, value):
    try:
        Policy.from_json(changed(**{key: value}))
    except Misuse:
        return


def test_a_root_is_found_by_its_very_bytes_alone():
    assert FULL.root_of(ROOT.der) is SIMULATED
    assert FULL.root_of(ROOT.der + b"\0") is None
    assert FULL.root_of(SimulatedRoot.create(seeded("other")).der) is None


@pytest.mark.parametrize("wrong", [bytes(47), bytes(49), b""])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_measurement_has_three_whole_pcrs(index, wrong):
    pcrs = [bytes(48)] * 3
    pcrs[index] = wrong
    with pytest.raises(Misuse):
        Measurement("simulated", *pcrs)


def test_the_skew_is_a_minute_unless_stated_and_from_1_ms_to_3_hours():
    assert Policy((AWS,), (A,)).skew_ms_max == 60_000
    for skew_ms_max in (1, 10_800_000):
        assert Policy.from_json(changed(skew_ms_max=skew_ms_max)).skew_ms_max == skew_ms_max
    for skew_ms_max in (0, 10_800_001):
        with pytest.raises(Misuse, match="skew_ms_max"):
            Policy((AWS,), (A,), skew_ms_max)


@pytest.mark.parametrize("name", ["seats_per_root_max", "seats_per_domain_max"])
def test_seats_are_from_1_to_16_or_not_stated(name):
    for seats in (None, 1, 16):
        assert getattr(Policy.from_json(changed(**{name: seats})), name) == seats
    for seats in (0, 17):
        with pytest.raises(Misuse, match=f"policy's {name} is"):
            Policy.from_json(changed(**{name: seats}))


def test_a_roots_name_has_1_to_64_characters():
    for name in ("a", "0-", "a" * 64):
        assert TrustedRoot(name, Platform.SIMULATED, ROOT.der).name == name
    for name in ("", "-a", "a" * 65, "a\n", "a b", "\u0660"):
        with pytest.raises(Misuse, match="1 to 64 characters"):
            TrustedRoot(name, Platform.SIMULATED, ROOT.der)
