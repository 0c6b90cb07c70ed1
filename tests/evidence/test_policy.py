import hashlib
import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import Misuse, WrongMeasurement
from perdure.evidence.limits import SnpLimits, Tcb, TdxLimits
from perdure.evidence.measurement import REGISTERS, Measurement
from perdure.evidence.policy import SKEW_MS_MAX, Policy, TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1, BUILTIN_CERTIFICATES, Platform
from perdure.simtee.pki import SimulatedRoot

from .support import LIMITS, POLICY, ROOT, registers_of, root_of, seeded

AWS = TrustedRoot.builtin(AWS_NITRO_G1)
SIMULATED = POLICY.roots[0]
A, B = (Measurement.enclave(AWS_NITRO_G1, bytes([i]) * 48, bytes([i + 1]) * 48, bytes([i + 2]) * 48) for i in (1, 7))
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


def test_chains_are_allowed_only_in_so_many_words_and_older_policies_keep_their_digest():
    allowing = replace(FULL, acknowledgement_chains=True)
    assert not FULL.acknowledgement_chains
    assert b"acknowledgement_chains" not in FULL.to_json()
    assert b'"acknowledgement_chains":true' in allowing.to_json()
    assert allowing.digest() != FULL.digest()
    assert Policy.from_json(allowing.to_json()) == allowing
    assert Policy.from_json(changed(acknowledgement_chains=False)).digest() == FULL.digest()
    for value in (None, 1, 0, "true", [], {}):
        with pytest.raises(Misuse, match="acknowledgement_chains is true or false"):
            Policy.from_json(changed(acknowledgement_chains=value))


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
        (b" " * (1 << 17) + b"{}", "more than 131072 bytes"),
        (b" " * ((1 << 17) - 2) + b"{}", "lacks the key"),
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
        (changed(roots=[{**ROOTS[1], "platform": []}]), r"roots\[0\].platform is not text"),
        (changed(roots=[{**ROOTS[1], "platform": {}}]), r"roots\[0\].platform is not text"),
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
        (changed(measurements=[{**MEASUREMENTS[0], "pcr3": "00" * 47}]), r"measurements\[0\].pcr3 is .* of 48 bytes\."),
        (changed(measurements=[{**MEASUREMENTS[0], "pcr32": "00" * 48}]), "unknown key 'pcr32'"),
        (changed(measurements=[{**MEASUREMENTS[0], "mrtd": "00" * 48}]), "unknown key 'mrtd'"),
        (changed(measurements={}), "measurements is not a list"),
        (changed(measurements=[1]), r"measurements\[0\] is not an object\."),
        (changed(measurements=[[]]), r"measurements\[0\] is not an object\."),
        (changed(measurements=[{"pcr0": "00" * 48}]), r"measurements\[0\] lacks the key 'root'"),
        (
            changed(measurements=[{**MEASUREMENTS[0], "root": ["simulated"]}]),
            r"measurements\[0\] is under root \['simu",
        ),
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


WORDS = [
    "name",
    "kind",
    "root",
    "platform",
    "limits",
    "builtin",
    "certificate",
    "tdx",
    "sev-snp",
    "statuses",
    "tcb_min",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
)


@given(st.sampled_from(["version", "roots", "measurements", "skew_ms_max", "seats_per_root_max"]), json_values)
def test_any_value_of_a_key_is_read_or_misuse(key, value):
    try:
        Policy.from_json(changed(**{key: value}))
    except Misuse:
        return


def test_a_root_is_found_by_its_very_bytes_alone():
    assert FULL.root_of(ROOT.der, *Platform) is SIMULATED
    assert FULL.root_of(AWS.certificate, *Platform) is AWS
    assert FULL.root_of(ROOT.der + b"\0", *Platform) is None
    assert FULL.root_of(SimulatedRoot.create(seeded("other")).der, *Platform) is None


def test_a_root_is_found_for_its_own_platform_alone():
    for platform, asked in itertools.product(Platform, Platform):
        root = root_of(platform, "only")
        assert Policy((root,), ()).root_of(ROOT.der, asked) is (root if asked is platform else None)
    assert FULL.root_of(ROOT.der) is None


@pytest.mark.parametrize("wrong", [bytes(47), bytes(49), b""])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_measurement_has_three_whole_pcrs(index, wrong):
    pcrs = [bytes(48)] * 3
    assert Policy((SIMULATED,), (Measurement.enclave("simulated", *pcrs),))
    pcrs[index] = wrong
    with pytest.raises(Misuse, match=f"The pcr{index} of a measurement under root simulated has 48 bytes"):
        Policy((SIMULATED,), (Measurement.enclave("simulated", *pcrs),))


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


# Every platform -------------------------------------------------------------------------------------------

TPM_ROOT = root_of(Platform.TPM, "a-cloud")
TRUSTED = {
    Platform.NITRO: AWS,
    Platform.SEV_SNP: TrustedRoot.builtin("amd-milan", LIMITS[Platform.SEV_SNP]),
    Platform.TDX: TrustedRoot.builtin("intel-sgx", LIMITS[Platform.TDX]),
    Platform.TPM: TPM_ROOT,
    Platform.NITROTPM: TrustedRoot.builtin("aws-nitrotpm-g1"),
    Platform.SIMULATED: SIMULATED,
}
LEAST = {platform: Measurement.of(TRUSTED[platform].name, registers_of(platform)) for platform in Platform}
MOST = {
    platform: Measurement.of(TRUSTED[platform].name, registers_of(platform, *REGISTERS[platform].optional))
    for platform in Platform
}
EVERY = Policy(tuple(TRUSTED.values()), (*LEAST.values(), *MOST.values()))
platforms = pytest.mark.parametrize("platform", Platform)


def of(platform):
    """The JSON of a policy for one platform: whole, its root and its measurement."""
    value = json.loads(Policy((TRUSTED[platform],), (LEAST[platform],)).to_json())
    return value, value["roots"][0], value["measurements"][0]


def without(fields, key):
    return {name: value for name, value in fields.items() if name != key}


@platforms
@pytest.mark.parametrize("programs", [LEAST, MOST])
def test_a_policy_of_each_platform_survives_a_round_trip(platform, programs):
    policy = Policy((TRUSTED[platform],), (programs[platform],))
    assert Policy.from_json(policy.to_json()) == policy
    assert Policy.from_json(policy.to_json()).digest() == policy.digest()
    assert Policy.from_json(json.dumps(json.loads(policy.to_json()), indent=1).encode()) == policy


def test_a_policy_of_all_platforms_survives_a_round_trip():
    assert Policy.from_json(EVERY.to_json()) == EVERY
    assert Policy.from_json(EVERY.to_json()).to_json() == EVERY.to_json()
    assert {root.platform for root in EVERY.roots} == set(Platform)
    backwards = Policy(EVERY.roots[::-1], EVERY.measurements[::-1])
    assert backwards == EVERY
    assert backwards.to_json() == EVERY.to_json()


def test_the_limits_of_sev_snp_stand_in_the_canonical_form():
    limits = SnpLimits(Tcb(1, 2, 3, 4, 5), vmpl_max=2, smt_allowed=False, csp_id="CN=cloud")
    policy = Policy(
        (TrustedRoot.builtin("amd-turin", limits),), (Measurement.of("amd-turin", {"measurement": b"m" * 48}),)
    )
    assert (
        policy.to_json()
        == (
            '{"measurements":[{"measurement":"'
            + "6d" * 48
            + '","root":"amd-turin"}],"roots":[{"kind":"builtin","limits":'
            '{"alias_checked":true,"csp_id":"CN=cloud","smt_allowed":false,"tcb_min":{"bootloader":1,"fmc":5,"microcode":4,"snp":3,"tee":2},'
            '"vmpl_max":2},"name":"amd-turin","platform":"sev-snp","sha256":'
            '"1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"}],'
            '"seats_per_domain_max":null,"seats_per_root_max":null,"skew_ms_max":60000,"version":1}'
        ).encode()
    )
    assert Policy.from_json(policy.to_json()).roots[0].limits == limits


def test_the_limits_of_tdx_stand_in_the_canonical_form():
    limits = TdxLimits(("UpToDate", "SWHardeningNeeded", "UpToDate"))
    policy = Policy(
        (root_of(Platform.TDX, "mine", limits=limits),), (Measurement.of("mine", registers_of(Platform.TDX)),)
    )
    assert (
        policy.to_json()
        == (
            '{"measurements":[{"mrtd":"'
            + "21" * 48
            + '","root":"mine","rtmr0":"'
            + "22" * 48
            + '","rtmr1":"'
            + "23" * 48
            + '","rtmr2":"'
            + "24" * 48
            + '"}],"roots":[{"certificate":"'
            + ROOT.der.hex()
            + '","kind":"certificate",'
            '"limits":{"statuses":["SWHardeningNeeded","UpToDate"]},"name":"mine","platform":"tdx"}],'
            '"seats_per_domain_max":null,"seats_per_root_max":null,"skew_ms_max":60000,"version":1}'
        ).encode()
    )
    assert Policy.from_json(policy.to_json()).roots[0].limits == limits


def test_every_limit_changes_the_digest():
    tcb, base = Tcb(1, 1, 1, 1, 1), SnpLimits(Tcb(1, 1, 1, 1, 1))
    floors = [replace(base, tcb_min=replace(tcb, **{name: 2})) for name in Tcb.__slots__]
    changes = (
        {"vmpl_max": 1},
        {"smt_allowed": False},
        {"alias_checked": False},
        {"csp_id": "CN=a"},
        {"csp_id": "CN=b"},
    )
    snp = [base, *floors, *(replace(base, **change) for change in changes)]
    tdx = [TdxLimits(), TdxLimits(("OutOfDate",)), TdxLimits(("OutOfDate", "UpToDate"))]
    digests = {Policy((root_of(Platform.SEV_SNP, "one", limits=limits),), ()).digest() for limits in snp}
    digests |= {Policy((root_of(Platform.TDX, "one", limits=limits),), ()).digest() for limits in tdx}
    assert len(digests) == len(snp) + len(tdx) == 14


@platforms
def test_a_register_more_or_another_value_is_another_policy(platform):
    policies = [Policy((TRUSTED[platform],), (LEAST[platform],)), Policy((TRUSTED[platform],), (MOST[platform],))]
    for name, value in LEAST[platform].registers:
        other = Measurement.of(TRUSTED[platform].name, {**registers_of(platform), name: b"\xee" * len(value)})
        policies.append(Policy((TRUSTED[platform],), (other,)))
    assert len({policy.digest() for policy in policies}) == len(policies)


@platforms
def test_a_root_has_the_limits_of_its_platform_and_no_others(platform):
    right = LIMITS.get(platform)
    assert TrustedRoot("mine", platform, ROOT.der, right).limits == right
    for wrong in {None, *LIMITS.values()} - {right}:
        with pytest.raises(Misuse, match=f"root mine must have the limits of platform {platform}"):
            TrustedRoot("mine", platform, ROOT.der, wrong)


@pytest.mark.parametrize("name", BUILTIN_CERTIFICATES)
def test_a_built_in_root_has_its_platforms_limits_and_keeps_its_name(name):
    platform, certificate = BUILTIN_CERTIFICATES[name]
    root = TrustedRoot.builtin(name, LIMITS.get(platform))
    assert (root.platform, root.certificate, root.is_builtin) == (platform, certificate, True)
    assert Policy.from_json(Policy((root,), ()).to_json()).roots == (root,)
    for other in set(Platform) - {platform}:
        with pytest.raises(Misuse, match="belongs to a built-in root"):
            root_of(other, name, certificate)
    with pytest.raises(Misuse, match="belongs to a built-in root"):
        root_of(platform, name, ROOT.der)


def test_a_name_that_is_no_name_is_not_repeated_at_length():
    with pytest.raises(Misuse, match="1 to 64 characters") as caught:
        TrustedRoot("\n" * 10_000, Platform.SEV_SNP, ROOT.der)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@platforms
def test_limits_in_json_stand_where_the_platform_has_some_and_nowhere_else(platform):
    value, root, _ = of(platform)
    if platform in LIMITS:
        with pytest.raises(Misuse, match=r"roots\[0\] lacks the key 'limits'"):
            Policy.from_json(json.dumps({**value, "roots": [without(root, "limits")]}).encode())
    for other, limits in LIMITS.items():
        if other is not platform:
            what = "limits must be an object" if platform in LIMITS else r"roots\[0\] has the unknown key 'limits'"
            with pytest.raises(Misuse, match=what):
                Policy.from_json(json.dumps({**value, "roots": [{**root, "limits": limits.to_json()}]}).encode())


@pytest.mark.parametrize("name", [name for name in BUILTIN_CERTIFICATES if name != AWS_NITRO_G1])
def test_a_built_in_root_is_refused_in_json_as_of_another_platform(name):
    platform = BUILTIN_CERTIFICATES[name][0]
    root = json.loads(Policy((TrustedRoot.builtin(name, LIMITS.get(platform)),), ()).to_json())["roots"][0]
    for other in set(Platform) - {platform}:
        limits = {"limits": LIMITS[other].to_json()} if other in LIMITS else {}
        claimed = {**without(root, "limits"), **limits, "platform": other}
        with pytest.raises(Misuse, match=f"platform is '{other}', but {name} is of platform {platform}"):
            Policy.from_json(changed(roots=[claimed]))


@platforms
def test_a_measurement_in_json_has_what_its_platform_needs_and_nothing_else(platform):
    value, _, measurement = of(platform)

    def read(measurement):
        return Policy.from_json(json.dumps({**value, "measurements": [measurement]}).encode())

    assert read(measurement).measurements == (LEAST[platform],)
    for name, length in REGISTERS[platform].required.items():
        with pytest.raises(Misuse, match=rf"measurements\[0\] lacks the key '{name}'"):
            read(without(measurement, name))
        with pytest.raises(Misuse, match=rf"measurements\[0\]\.{name} is not lower-case hexadecimal of {length} bytes"):
            read({**measurement, name: "00" * (length + 1)})
    for name, length in REGISTERS[platform].optional.items():
        assert (
            read({**measurement, name: "ab" * length})
            .measurements[0]
            .fits({**registers_of(platform), name: b"\xab" * length})
        )
        for wrong in ("ab" * (length - 1), "AB" * length, ""):
            with pytest.raises(
                Misuse, match=rf"measurements\[0\]\.{name} is not lower-case hexadecimal of {length} bytes"
            ):
                read({**measurement, name: wrong})
    foreign = {name for one in REGISTERS.values() for name in one.lengths} - REGISTERS[platform].lengths.keys()
    for name in (*foreign, "pcr32", "limits"):
        with pytest.raises(Misuse, match=rf"measurements\[0\] has the unknown key '{name}'"):
            read({**measurement, name: "00" * 48})


@platforms
def test_a_measurement_has_the_registers_of_its_roots_platform(platform):
    for other in Platform:
        registers = registers_of(other)
        if other is platform or (platform, other) in itertools.permutations((Platform.NITRO, Platform.SIMULATED)):
            assert Policy((root_of(platform, "one"),), (Measurement.of("one", registers),))
        else:
            with pytest.raises(Misuse, match=r"(A|a) measurement under root one (lacks|has) "):
                Policy((root_of(platform, "one"),), (Measurement.of("one", registers),))


def test_a_measurement_is_under_a_root_of_the_policy():
    for name in ("nobody", "\n" * 9999):
        with pytest.raises(Misuse, match="has a measurement under root '") as caught:
            Policy((SIMULATED,), (Measurement.of(name, registers_of(Platform.SIMULATED)),))
        assert repr(name)[:60] in str(caught.value)
        assert len(str(caught.value)) < 200


def test_one_certificate_may_be_a_root_of_two_platforms_but_not_twice_of_one():
    for platform, other in itertools.product(Platform, Platform):
        roots = (root_of(platform, "one"), root_of(other, "two"))
        if platform is other or {platform, other} == {Platform.NITRO, Platform.SIMULATED}:  # of one form
            with pytest.raises(Misuse, match="names a root twice"):
                Policy(roots, ())
        else:
            both = Policy(roots, ())
            assert (both.root_of(ROOT.der, platform), both.root_of(ROOT.der, other)) == roots
    with pytest.raises(Misuse, match="names a root twice"):
        Policy((root_of(Platform.NITRO, "one"), root_of(Platform.TPM, "one")), ())


def test_awss_root_vouches_for_machines_only_if_it_is_named_for_them():
    machines = TRUSTED[Platform.NITROTPM]
    assert machines.certificate == AWS.certificate
    for roots in ((AWS,), (machines,), (AWS, machines)):
        policy = Policy(roots, ())
        assert policy.root_of(AWS.certificate, Platform.NITRO) is (AWS if AWS in roots else None)
        assert policy.root_of(AWS.certificate, Platform.NITROTPM) is (machines if machines in roots else None)


# Which program --------------------------------------------------------------------------------------------


@platforms
def test_a_program_is_allowed_under_its_own_root_alone(platform):
    roots = (root_of(platform, "one"), root_of(platform, "two", ANOTHER))
    policy = Policy(roots, (Measurement.of("one", registers_of(platform)),))
    found = registers_of(platform, *REGISTERS[platform].optional)
    policy.require_measurement(roots[0], found)
    with pytest.raises(WrongMeasurement, match="a program that the policy does not allow under root two; its"):
        policy.require_measurement(roots[1], found)


@platforms
def test_a_program_is_refused_for_each_register_that_differs(platform):
    root = root_of(platform, "one")
    policy = Policy((root,), (Measurement.of("one", registers_of(platform, *REGISTERS[platform].optional)),))
    found = registers_of(platform, *REGISTERS[platform].optional)
    policy.require_measurement(root, found)
    for name, value in found.items():
        with pytest.raises(WrongMeasurement) as caught:
            policy.require_measurement(root, {**found, name: b"\xee" * len(value)})
        rest = ", ".join(sorted(REGISTERS[platform].required.keys() - {name}))
        fit = f"another authority, or with other contents (of its registers, these fit: {rest})"
        assert (fit if rest else "does not allow under root one") in str(caught.value)


@platforms
def test_the_message_shows_the_first_register_that_the_platform_needs(platform):
    root = root_of(platform, "one")
    first = next(iter(REGISTERS[platform].required))
    with pytest.raises(
        WrongMeasurement, match=rf"does not allow under root one; its {first} is 2121212121212121\.\.\."
    ):
        Policy((root,), ()).require_measurement(root, registers_of(platform))


@platforms
def test_what_shows_no_register_is_no_program(platform):
    root = root_of(platform, "one")
    for allowed in ((), (Measurement.of("one", registers_of(platform)),)):
        with pytest.raises(WrongMeasurement, match="does not allow under root one"):
            Policy((root,), allowed).require_measurement(root, {})


def test_registers_of_two_allowed_programs_do_not_mix():
    one = registers_of(Platform.TDX)
    two = {name: bytes(byte ^ 0xFF for byte in value) for name, value in one.items()}
    root = root_of(Platform.TDX, "one")
    policy = Policy((root,), (Measurement.of("one", one), Measurement.of("one", two)))
    policy.require_measurement(root, one)
    policy.require_measurement(root, two)
    with pytest.raises(WrongMeasurement, match="these fit: mrtd, rtmr0, rtmr1, rtmr2"):
        policy.require_measurement(root, {**one, "rtmr1": two["rtmr1"]})


# Any JSON -------------------------------------------------------------------------------------------------


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


PLACES = [path for path in places(json.loads(EVERY.to_json())) if path]


@settings(max_examples=400)
@given(st.sampled_from(PLACES), json_values)
def test_a_policy_with_any_value_anywhere_is_read_or_misuse(path, new):
    value = inner = json.loads(EVERY.to_json())
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    try:
        read = Policy.from_json(json.dumps(value).encode())
    except Misuse:
        return
    assert Policy.from_json(read.to_json()) == read


@pytest.mark.parametrize("path", PLACES)
def test_a_policy_that_lacks_anything_is_another_or_misuse(path):
    value = inner = json.loads(EVERY.to_json())
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    try:
        read = Policy.from_json(json.dumps(value).encode())
    except Misuse:
        return
    assert read.digest() != EVERY.digest()
