"""The whole path on processors of our own: what is accepted, and each thing that is refused for what it is."""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import (
    BadChain,
    BadEvidence,
    BadSignature,
    DebugMode,
    ExpiredEvidence,
    ForbiddenLaunch,
    MalformedEvidence,
    MissingCollateral,
    OutdatedTcb,
    UntrustedRoot,
    WrongMeasurement,
)
from perdure.evidence.limits import Tcb
from perdure.evidence.roots import Platform
from perdure.evidence.snp import certificates, verifier
from perdure.evidence.snp.report import Product, Signer
from perdure.evidence.verified import VerifiedEvidence
from tests.evidence.snp import support
from tests.evidence.snp.support import DAY, NOW_MS, START, ark, ask, leaf, machine, report

MILAN, GENOA, TURIN = Product.MILAN, Product.GENOA, Product.TURIN
VCEK, VLEK = Signer.VCEK, Signer.VLEK
EVERY_MACHINE = [(product, signer) for product in Product for signer in Signer]
END_MS = int((START + 10 * DAY).timestamp() * 1000)
TCBS = ("reported_tcb", "current_tcb", "committed_tcb", "launch_tcb")


def verify(product=MILAN, signer=VCEK, *, evidence=None, hints=None, at_ms=NOW_MS, registers=None, root=None, **limits):
    """Judge a good machine's evidence, or other `evidence` in its place, under the limits that fit it."""
    good = machine(product, signer)
    policy = support.policy(root or good.root, support.limits(product, signer, **limits), **(registers or {}))
    evidence = good.report if evidence is None else evidence
    return verifier.verify(evidence, good.hints if hints is None else hints, policy=policy, at_ms=at_ms)


def verify_changed(product=MILAN, signer=VCEK, *, under=None, **changes):
    return verify(product, signer, evidence=report(product, signer, **changes), **(under or {}))


@pytest.fixture
def chains_kept(monkeypatch):
    """Each pair of certificates is verified once, so that a test can ask about thousands of reports."""
    monkeypatch.setattr(certificates, "_issued", functools.cache(certificates._issued))


@pytest.mark.parametrize(("product", "signer"), EVERY_MACHINE)
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_good_evidence_of_every_product_key_and_version_is_accepted(product, signer, version):
    found = verify(product, signer, evidence=report(product, signer, version=version))
    identity = hashlib.sha256(support.CHIP_IDS[product]).hexdigest()[:16] if signer is VCEK else None
    assert found == VerifiedEvidence(
        platform=Platform.SEV_SNP,
        root=support.ROOT_NAME,
        measurement={
            "measurement": support.MEASUREMENT,
            "host_data": support.HOST_DATA,
            "id_key_digest": support.ID_KEY_DIGEST,
            "author_key_digest": support.AUTHOR_KEY_DIGEST,
        },
        report_data=support.REPORT_DATA,
        module_id=f"snp-{identity or '0' * 16}-{support.REPORT_ID.hex()[:16]}",
        host=f"snp-{identity}" if identity else None,
        time_ms=None,
        not_after_ms=END_MS,
    )


def test_a_cloud_that_tells_the_processor_gives_a_host():
    told = verify_changed(signer=VLEK, chip_id=support.CHIP_IDS[MILAN])
    assert told.host == verify().host
    assert told.module_id.startswith(f"{told.host}-")


def test_another_launch_has_another_module_id_on_the_same_host():
    first, second = verify(), verify_changed(report_id=bytes(32))
    assert first.host == second.host
    assert first.module_id != second.module_id


def test_hints_are_a_heap():
    good = machine()
    rest = [*machine(GENOA).hints, *machine(MILAN, VLEK).hints, good.root, b"junk", b""]
    for hints in ((*good.hints, *rest), (*rest, *good.hints), (*good.hints, *good.hints), good.hints[::-1]):
        assert verify(hints=hints) == verify()


def test_verify_may_be_called_from_several_threads():
    certificates._read.cache_clear()
    expected = verify()
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: verify().module_id, range(40))) == {expected.module_id}


# The report -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", support.FIELDS)
@pytest.mark.parametrize("version", [2, 5])
def test_every_flipped_field_is_refused(field, version, chains_kept):
    good = report(MILAN, version=version)
    at, length = support.FIELDS[field]
    for position in range(at, at + length):
        mutant = good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :]
        with pytest.raises((MalformedEvidence, MissingCollateral, BadSignature)):
            verify(evidence=mutant)


def test_a_flipped_field_that_decides_nothing_is_a_bad_signature():
    at, _ = support.FIELDS["report_data"]
    good = machine().report
    with pytest.raises(BadSignature):
        verify(evidence=good[:at] + b"\xff" + good[at + 1 :])


def test_evidence_that_another_key_signed_is_refused():
    with pytest.raises(BadSignature):
        verify(evidence=support.sign(machine().report, support.OTHER_KEY))


def test_a_report_that_says_it_is_not_signed_is_refused():
    with pytest.raises(BadSignature, match="not signed"):
        verify_changed(signer_info=7 << 2)


@pytest.mark.parametrize("length", [0, 1, 671, 672, 816, 1183, 1185, 2368])
def test_another_length_is_refused(length):
    with pytest.raises(MalformedEvidence):
        verify(evidence=(machine().report * 2)[:length])


# Certificates ---------------------------------------------------------------------------------------------


def test_without_the_keys_certificate_collateral_is_missing():
    good = machine()
    for hints in ((), (good.hints[1], good.root), machine(MILAN, VLEK).hints, machine(GENOA).hints):
        with pytest.raises(MissingCollateral):
            verify(hints=hints)


def test_a_report_must_say_which_kind_of_key_signed_it():
    for signer, other in ((VCEK, VLEK), (VLEK, VCEK)):
        with pytest.raises(MissingCollateral):
            verify_changed(MILAN, signer, signer_info=other.value << 2)


def test_a_certificate_for_another_tcb_or_chip_does_not_fit():
    for part in (1, 2, 3, 8):
        older = support.tcb(MILAN, {**support.PARTS, part: support.PARTS[part] - 1})
        with pytest.raises(MissingCollateral):
            verify_changed(reported_tcb=older)
    for chip_id in (bytes(64), bytes(63) + b"\x01"):
        with pytest.raises(MissingCollateral):
            verify_changed(chip_id=chip_id)


def test_a_root_that_the_policy_does_not_name_is_refused():
    for root in (ark(MILAN, "other"), ark(GENOA), ark(TURIN)):
        with pytest.raises(UntrustedRoot):
            verify(root=root)


def test_a_policys_root_must_be_that_one_byte_for_byte():
    """Another certificate of the same key is another root, but what hangs on its key hangs on it too."""
    longer = ark(MILAN, end=START + 11 * DAY)
    assert longer != machine().root
    assert verify(root=longer) == verify()
    flipped = machine().root[:-1] + bytes([machine().root[-1] ^ 1])
    assert verify(hints=(*machine().hints, flipped)) == verify()


def test_a_broken_chain_is_refused():
    good = machine()
    with pytest.raises(BadChain):
        verify(hints=(leaf(MILAN, by="other"), good.hints[1]))
    with pytest.raises(UntrustedRoot):
        verify(hints=(good.hints[0], ask(MILAN, by="other")))
    with pytest.raises(MissingCollateral):
        verify(hints=(good.hints[0],))


@pytest.mark.parametrize("which", ["root", "issuer", "key"])
def test_each_certificate_must_hold_at_the_time_asked_about(which):
    windows = {one: {"start": START - DAY, "end": START + 20 * DAY} for one in ("root", "issuer", "key")}
    windows[which] = {}
    hints = (leaf(MILAN, **windows["key"]), ask(MILAN, **windows["issuer"]))
    start_ms = int(START.timestamp() * 1000)
    for at_ms in (start_ms, END_MS):
        assert verify(hints=hints, root=ark(MILAN, **windows["root"]), at_ms=at_ms).not_after_ms == END_MS
    for at_ms in (start_ms - 1, END_MS + 1, 0, -(10**18), 10**18):
        with pytest.raises(ExpiredEvidence, match="from now" if at_ms < start_ms else "ago"):
            verify(hints=hints, root=ark(MILAN, **windows["root"]), at_ms=at_ms)


def test_of_several_certificates_one_must_be_good_and_bad_ones_hide_it_not():
    good = machine(MILAN, VLEK)
    expired = leaf(MILAN, VLEK, start=START - 9 * DAY, end=START + DAY)
    foreign = leaf(MILAN, VLEK, changes={"5": support.text("CN=other")}, key=support.OTHER_KEY.public_key())
    forged = leaf(MILAN, VLEK, by="other")
    bad = (forged, foreign, expired)
    for hints in ((*bad, *good.hints), (*good.hints, *bad)):
        assert verify(MILAN, VLEK, hints=hints) == verify(MILAN, VLEK)


def test_of_several_failures_the_one_that_came_furthest_is_told():
    issuer = machine(MILAN, VLEK).hints[1]
    expired = leaf(MILAN, VLEK, start=START - 9 * DAY, end=START + DAY)
    foreign = leaf(MILAN, VLEK, key=support.OTHER_KEY.public_key())
    forged = leaf(MILAN, VLEK, by="other")
    for failing, error in (((forged, foreign, expired), ExpiredEvidence), ((foreign, forged), BadSignature)):
        for hints in ((*failing, issuer), (*failing[::-1], issuer)):
            with pytest.raises(error):
                verify(MILAN, VLEK, hints=hints)


# Limits ---------------------------------------------------------------------------------------------------


def test_a_clouds_key_counts_only_where_the_limits_name_that_cloud():
    with pytest.raises(ForbiddenLaunch, match="own alone"):
        verify(MILAN, VLEK, csp_id=None)
    for other in ("CN=other", support.CSP_ID + "x", support.CSP_ID[:-1], support.CSP_ID.upper()):
        with pytest.raises(ForbiddenLaunch, match="cloud that the policy names"):
            verify(MILAN, VLEK, csp_id=other)


def test_a_processors_own_key_does_not_stand_for_a_cloud():
    with pytest.raises(ForbiddenLaunch, match="cloud that the policy names"):
        verify(MILAN, VCEK, csp_id=support.CSP_ID)


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("part", ["bootloader", "tee", "snp", "microcode", "fmc"])
def test_every_number_of_the_tcb_must_reach_the_floor(product, part):
    floor = support.limits(product).tcb_min
    numbers = {name: getattr(floor, name) for name in ("bootloader", "tee", "snp", "microcode", "fmc")}
    with pytest.raises(OutdatedTcb):
        verify(product, tcb_min=Tcb(**{**numbers, part: numbers[part] + 1}))
    if numbers[part]:
        assert verify(product, tcb_min=Tcb(**{**numbers, part: numbers[part] - 1}))


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("which", TCBS)
def test_all_four_tcbs_must_reach_the_floor(product, which):
    for part in support.ORDERS[product]:
        if not support.PARTS.get(part):
            continue
        parts = {**support.PARTS, part: support.PARTS[part] - 1}
        old = report(product, **{which: support.tcb(product, parts)})
        vcek = leaf(product, parts=parts if which == "reported_tcb" else support.PARTS)
        hints = (vcek, machine(product).hints[1])
        with pytest.raises(OutdatedTcb, match=which.removesuffix("_tcb")):
            verify(product, evidence=old, hints=hints)
        assert verify(product, evidence=old, hints=hints, tcb_min=Tcb(0, 0, 0, 0))


def test_newer_firmware_than_the_floor_is_accepted():
    newer = support.tcb(MILAN, {**support.PARTS, 8: 255})
    assert verify_changed(current_tcb=newer, committed_tcb=newer, launch_tcb=newer)


def test_a_guest_that_may_be_debugged_is_refused():
    with pytest.raises(DebugMode):
        verify_changed(policy=0xB0000)


def test_a_guest_that_may_be_migrated_is_refused():
    with pytest.raises(ForbiddenLaunch, match="migration"):
        verify_changed(policy=0x70000)


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_the_guest_policy(bit):
    refusals = {17: MalformedEvidence, 18: ForbiddenLaunch, 19: DebugMode}
    changed = report(MILAN, policy=0x30000 ^ 1 << bit)
    if bit in refusals or bit > 25:
        with pytest.raises(refusals.get(bit, ForbiddenLaunch)):
            verify(evidence=changed)
    else:
        assert verify(evidence=changed).report_data == support.REPORT_DATA


def test_cores_are_shared_only_where_the_limits_allow_it():
    alone = {"under": {"smt_allowed": False}}
    assert verify_changed(policy=0x20000, platform_info=0x26, **alone)
    for policy, platform_info in ((0x30000, 0x26), (0x20000, 0x27), (0x30000, 0x27)):
        assert verify_changed(policy=policy, platform_info=platform_info)
        with pytest.raises(ForbiddenLaunch, match="SMT"):
            verify_changed(policy=policy, platform_info=platform_info, **alone)


def test_firmware_that_has_not_checked_memory_for_aliases_is_refused_unless_the_policy_allows_it():
    assert verify_changed(platform_info=0x20)
    with pytest.raises(ForbiddenLaunch, match="aliases"):
        verify_changed(platform_info=0x07)
    assert verify_changed(platform_info=0x07, under={"alias_checked": False})


@pytest.mark.parametrize("vmpl_max", [0, 1, 2, 3])
def test_privilege_levels_up_to_the_limit_are_accepted(vmpl_max):
    for vmpl in range(4):
        if vmpl <= vmpl_max:
            assert verify_changed(vmpl=vmpl, under={"vmpl_max": vmpl_max})
        else:
            with pytest.raises(ForbiddenLaunch, match=f"level {vmpl}"):
                verify_changed(vmpl=vmpl, under={"vmpl_max": vmpl_max})


@pytest.mark.parametrize("vmpl", [4, 0x100, 2**32 - 1])
def test_evidence_that_the_host_asked_for_is_refused(vmpl):
    with pytest.raises(ForbiddenLaunch, match="by the host"):
        verify_changed(vmpl=vmpl, under={"vmpl_max": 3})


@pytest.mark.parametrize("register", ["measurement", "host_data", "id_key_digest", "author_key_digest"])
def test_every_register_that_the_policy_lists_must_be_found(register):
    right = getattr(support, register.upper())
    assert verify(registers={register: right})
    with pytest.raises(WrongMeasurement):
        verify(registers={register: right[:-1] + b"\0"})
    with pytest.raises(WrongMeasurement):
        verify_changed(**{register: b"\0"}, under={"registers": {register: right}})


def test_a_program_under_another_root_does_not_count():
    two = support.policy(machine().root, support.limits())
    genoa = support.TrustedRoot("genoa", Platform.SEV_SNP, machine(GENOA).root, support.limits(GENOA))
    policy = support.Policy((*two.roots, genoa), two.measurements)
    good = machine(GENOA)
    with pytest.raises(WrongMeasurement):
        verifier.verify(good.report, good.hints, policy=policy, at_ms=NOW_MS)


def test_limits_are_those_of_the_root_that_vouches():
    lax = support.limits(GENOA, tcb_min=Tcb(0, 0, 0, 0))
    strict = support.limits(MILAN, tcb_min=Tcb(255, 255, 255, 255))
    roots = (
        support.TrustedRoot("genoa", Platform.SEV_SNP, machine(GENOA).root, lax),
        support.TrustedRoot("milan", Platform.SEV_SNP, machine(MILAN).root, strict),
    )
    programs = tuple(support.Measurement.of(root.name, {"measurement": support.MEASUREMENT}) for root in roots)
    policy = support.Policy(roots, programs)
    assert verifier.verify(machine(GENOA).report, machine(GENOA).hints, policy=policy, at_ms=NOW_MS).root == "genoa"
    with pytest.raises(OutdatedTcb):
        verifier.verify(machine(MILAN).report, machine(MILAN).hints, policy=policy, at_ms=NOW_MS)


def test_the_checks_come_in_the_order_that_is_documented():
    """Everything is wrong at first; each step mends what was refused last."""
    good = machine(MILAN, VLEK)
    bad = {"policy": 0xF0000 | 1 << 40, "vmpl": 2, "current_tcb": 0, "measurement": b"", "reserved_4c": 1}
    root, hints, at_ms = ark(GENOA), [], 0
    signing_key, limits = support.OTHER_KEY, {"csp_id": None, "smt_allowed": False}
    refusals = []

    def refusal():
        evidence = support.sign(report(MILAN, VLEK, **bad), signing_key)
        with pytest.raises(BadEvidence) as caught:
            verify(MILAN, VLEK, evidence=evidence, hints=hints, at_ms=at_ms, root=root, **limits)
        refusals.append(caught.type)

    refusal()
    del bad["reserved_4c"]
    refusal()
    hints.append(leaf(MILAN, VLEK))
    refusal()
    root = good.root
    refusal()
    hints[:] = [leaf(MILAN, VLEK, by="other"), good.hints[1]]
    refusal()
    hints[0] = good.hints[0]
    refusal()
    signing_key = support.LEAF_KEY
    refusal()
    at_ms = NOW_MS
    refusal()
    limits["csp_id"] = support.CSP_ID
    refusal()
    for policy in (0x70000 | 1 << 40, 0x30000 | 1 << 40, 0x30000):
        bad["policy"] = policy
        refusal()
    limits["smt_allowed"] = True
    refusal()
    del bad["vmpl"]
    refusal()
    del bad["current_tcb"]
    refusal()
    del bad["measurement"]
    assert verify(MILAN, VLEK, evidence=report(MILAN, VLEK, **bad))
    assert refusals == [
        MalformedEvidence,
        MissingCollateral,
        UntrustedRoot,
        MissingCollateral,
        BadChain,
        BadSignature,
        ExpiredEvidence,
        ForbiddenLaunch,
        DebugMode,
        ForbiddenLaunch,
        ForbiddenLaunch,
        ForbiddenLaunch,
        ForbiddenLaunch,
        OutdatedTcb,
        WrongMeasurement,
    ]


# Any bytes ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=1300), st.lists(st.binary(max_size=50), max_size=3))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused_with_a_typed_error(evidence, hints):
    for length in (len(evidence), 1184):
        with pytest.raises(BadEvidence):
            verify(evidence=evidence.ljust(length, b"\0")[:length], hints=(*hints, *machine().hints))


@given(st.lists(st.tuples(st.integers(0, 1183), st.integers(1, 255)), min_size=1, max_size=4, unique_by=lambda x: x[0]))
@settings(max_examples=100, deadline=None)
def test_mutated_reports_are_refused_with_a_typed_error(flips):
    mutant = bytearray(machine(TURIN).report)
    for at, flip in flips:
        mutant[at] ^= flip
    with pytest.raises(BadEvidence):
        verify(TURIN, evidence=bytes(mutant))


@given(st.integers(0, 1), st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_mutated_certificates_vouch_for_nothing(which, at, bit):
    hints = [bytearray(hint) for hint in machine().hints]
    hints[which][at % len(hints[which])] ^= 1 << bit
    with pytest.raises(BadEvidence):
        verify(hints=[bytes(hint) for hint in hints])
