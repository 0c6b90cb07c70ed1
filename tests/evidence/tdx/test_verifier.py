"""The whole verifier, on quotes by a maker of the tests' own: what is good, and each thing that may be wrong."""

import hashlib
import json
import sys
from dataclasses import replace

import dcap_qvl
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from perdure.errors import (
    BadChain,
    BadSignature,
    DebugMode,
    ExpiredEvidence,
    ForbiddenLaunch,
    MalformedEvidence,
    MissingCollateral,
    OutdatedTcb,
    UntrustedRoot,
    WrongCommitment,
    WrongMeasurement,
)
from perdure.evidence import anchors
from perdure.evidence.limits import TDX_STATUSES, TdxLimits
from perdure.evidence.policy import Measurement, Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.tdx import chain, collateral, verifier
from perdure.evidence.tdx import quote as quotes
from perdure.evidence.verified import expect_report_data
from tests.evidence.tdx.support import (
    ATTESTATION_KEY,
    CPU_SVN,
    DAY,
    DAY_MS,
    LEAF,
    MAKER,
    NOW,
    NOW_MS,
    OTHER_ROOT,
    PCE_SVN,
    PCK,
    PLATFORM,
    PLATFORM_CA,
    POLICY,
    PROCESSOR,
    REGISTERS,
    REPORT_DATA,
    ROOT,
    SEPT_VE_DISABLE,
    SIGN_CERTIFICATES,
    SIGN_DOCUMENTS,
    SIGNER,
    TCB_SIGNING,
    TEE_TCB_SVN,
    TOLERANT,
    V4,
    V5_TD10,
    V5_TD15,
    Maker,
    certify,
    key,
    level,
    point,
    policy,
    revocation_list,
    sgx_extension,
    svn_level,
    verify,
)

MACHINES = [V4, V5_TD10, V5_TD15]
OLDER = bytes((6, 1, 2)) + bytes(13)
OTHER_KEY = key("another")


def refuse(error, machine=V4, *makers, match=None, **options):
    with pytest.raises(error, match=match) as caught:
        verify(machine, *makers, **options)
    assert caught.type is error
    assert len(str(caught.value)) < 400


def test_intels_root_is_the_one_that_everybody_knows():
    fingerprint = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
    assert hashlib.sha256(anchors.INTEL_SGX_ROOT).hexdigest() == fingerprint


# What is good ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
def test_a_good_quote_gives_what_the_hardware_signed(machine):
    verified = verify(machine)
    assert verified.platform is Platform.TDX
    assert verified.root == "test-tdx"
    assert verified.measurement == REGISTERS
    assert verified.report_data == REPORT_DATA
    assert verified.time_ms is None
    assert verified.not_after_ms == NOW_MS + 29 * DAY_MS
    expect_report_data(verified, REPORT_DATA)


def test_a_quote_that_answers_another_question_is_seen():
    with pytest.raises(WrongCommitment):
        expect_report_data(verify(V5_TD15), bytes(64))


def test_a_machine_keeps_its_name_under_each_of_its_certificates_and_another_has_another():
    again = certify(PCK, PLATFORM, seed="again", extension=sgx_extension())
    other = certify(PCK, PLATFORM, seed="other", extension=sgx_extension(ppid=b"\x12" * 16))
    hosts = [verify(replace(V4, chain=(leaf, PLATFORM, ROOT))).host for leaf in (LEAF, again, other)]
    assert hosts[0] == hosts[1] != hosts[2]
    assert hosts[0] == "tdx-" + hashlib.sha256(b"\x11" * 16).hexdigest()[:16]


def test_a_module_id_tells_machines_and_registers_apart():
    first = verify(V4)
    assert first.module_id.startswith(f"{first.host}-")
    assert verify(V5_TD15).module_id == first.module_id
    changed = {verify(replace(V4, registers=REGISTERS | {name: bytes(48)})).module_id for name in ("rtmr3", "mrowner")}
    assert len(changed | {first.module_id}) == 3


def test_a_processor_ca_vouches_as_a_platform_ca_does():
    machine = replace(V4, chain=(certify(PCK, PROCESSOR, extension=sgx_extension()), PROCESSOR, ROOT))
    assert verify(machine, MAKER, Maker(issuer=PROCESSOR)).host == verify(V4).host


@pytest.mark.parametrize("bit", [30, 31, 63])
def test_attributes_that_only_use_the_processor_are_allowed(bit):
    assert verify(replace(V4, td_attributes=SEPT_VE_DISABLE | 1 << bit)).measurement == REGISTERS


# The quote ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
def test_a_root_that_the_policy_does_not_name_is_refused(machine):
    refuse(UntrustedRoot, machine, under=policy(root=OTHER_ROOT))
    refuse(UntrustedRoot, machine, under=Policy((TrustedRoot.builtin("intel-sgx", TdxLimits()),), ()))


def test_a_root_of_another_platform_vouches_for_nothing():
    refuse(UntrustedRoot, under=Policy((TrustedRoot("test-tdx", Platform.TPM, ROOT.der),), ()))


def test_a_root_of_the_same_name_with_another_key_does_not_help():
    refuse(BadChain, replace(V4, chain=(LEAF, PLATFORM, OTHER_ROOT)), under=policy(root=OTHER_ROOT))


STRANGE_LEAVES = {
    "another name": certify("Somebody", PLATFORM, extension=sgx_extension()),
    "the name of a signer": certify(TCB_SIGNING, PLATFORM, extension=sgx_extension()),
    "a CA": certify(PCK, PLATFORM, ca=True, extension=sgx_extension()),
    "a CA that signs documents": certify(PCK, PLATFORM, ca=True, usage=SIGN_DOCUMENTS, extension=sgx_extension()),
    "signs certificates": certify(
        PCK, PLATFORM, usage=SIGN_CERTIFICATES | {"digital_signature": True}, extension=sgx_extension()
    ),
    "signs nothing": certify(PCK, PLATFORM, usage={"key_agreement": True}, extension=sgx_extension()),
    "P-384": certify(PCK, PLATFORM, curve=ec.SECP384R1, extension=sgx_extension()),
    "another issuer": certify(PCK, PROCESSOR, extension=sgx_extension()),
    "issued by the root": certify(PCK, ROOT, extension=sgx_extension()),
    "issued by a leaf": certify(PCK, certify(PCK, PLATFORM, seed="x"), extension=sgx_extension()),
    "ended before its issuer began": certify(
        PCK, PLATFORM, not_before=NOW - 300 * DAY, not_after=NOW - 200 * DAY, extension=sgx_extension()
    ),
    "no extension": certify(PCK, PLATFORM),
    "an empty extension": certify(PCK, PLATFORM, extension=b"\x30\0"),
    "a short FMSPC": certify(PCK, PLATFORM, extension=sgx_extension(fmspc=b"\x90")),
}


@pytest.mark.parametrize("leaf", STRANGE_LEAVES.values(), ids=STRANGE_LEAVES)
def test_a_certificate_that_is_no_processors_is_refused(leaf):
    machine = replace(V4, chain=(leaf, PLATFORM, ROOT), qe_signer=key(PCK))
    refuse(BadChain, machine)


@pytest.mark.parametrize(
    "issuer",
    [
        certify("Intel SGX PCK Other CA", ROOT, ca=True, path_length=0),
        certify(PLATFORM_CA, OTHER_ROOT, ca=True, path_length=0),
        certify(PLATFORM_CA, ROOT),
        certify(PLATFORM_CA, ROOT, ca=True, usage={"crl_sign": True}),
    ],
)
def test_an_issuer_that_is_none_is_refused(issuer):
    leaf = certify(PCK, issuer, extension=sgx_extension())
    refuse(BadChain, replace(V4, chain=(leaf, issuer, ROOT)))


def test_a_chain_of_certificates_that_are_none_is_refused():
    refuse(UntrustedRoot, replace(V4, pem=b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n" * 3))
    pem = b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n" * 2 + ROOT.pem
    refuse(BadChain, replace(V4, pem=pem))


@pytest.mark.parametrize("days", [-101, 1001])
def test_a_quote_is_refused_outside_of_its_certificates_life(days):
    refuse(ExpiredEvidence, at_ms=NOW_MS + days * DAY_MS, match="The certificates of")


def test_the_end_of_a_certificates_life_is_outside_of_it():
    last = NOW_MS + DAY_MS
    short = certify(PCK, PLATFORM, not_after=NOW + DAY, extension=sgx_extension())
    machine = replace(V4, chain=(short, PLATFORM, ROOT))
    assert verify(machine, at_ms=last - 1).not_after_ms == last
    refuse(ExpiredEvidence, machine, at_ms=last, match="The certificates of")


@pytest.mark.parametrize(
    "changes",
    [
        {"quote_signer": OTHER_KEY},
        {"qe_signer": OTHER_KEY},
        {"attestation_key": OTHER_KEY},
        {"qe_report_data": bytes(64)},
        {"qe_report_data": hashlib.sha256(b"another key").digest() + bytes(32)},
    ],
)
@pytest.mark.parametrize("machine", [V4, V5_TD15])
def test_a_signature_by_the_wrong_key_is_refused(machine, changes):
    refuse(BadSignature, replace(machine, **changes))


def test_what_follows_the_hash_in_the_enclaves_report_must_be_zero():
    bound = hashlib.sha256(point(ATTESTATION_KEY) + V4.auth_data).digest()
    assert verify(replace(V4, qe_report_data=bound + bytes(32)))
    refuse(BadSignature, replace(V4, qe_report_data=bound + bytes(31) + b"\1"))


def test_an_attestation_key_that_is_no_point_is_refused():
    refuse(MalformedEvidence, replace(V4, attestation_point=b"\xff" * 64))


# The launch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("others", [0, SEPT_VE_DISABLE, SEPT_VE_DISABLE | 1 << 29])
def test_a_debug_guest_is_refused_whatever_else(machine, others):
    refuse(DebugMode, replace(machine, td_attributes=others | 1), under=TOLERANT)
    refuse(DebugMode, replace(machine, td_attributes=others | 1), Maker(status="Revoked", altered={"tcb_info": 0}))


@pytest.mark.parametrize(
    "attributes", [0, 1 << 63, *(SEPT_VE_DISABLE | 1 << bit for bit in (1, 4, 5, 6, 7, 8, 16, 27, 29, 32, 62))]
)
def test_a_launch_that_gives_the_host_a_hold_is_refused(attributes):
    refuse(ForbiddenLaunch, replace(V4, td_attributes=attributes), under=TOLERANT)


def test_a_guest_with_a_service_td_is_refused():
    refuse(ForbiddenLaunch, replace(V5_TD15, service_td=bytes(47) + b"\1"), match="migrated")


# The collateral -------------------------------------------------------------------------------------------


def test_without_collateral_for_its_kind_a_quote_is_not_judged():
    with pytest.raises(MissingCollateral, match="90c06f000000"):
        verifier.verify(V4.quote(), (), policy=POLICY, at_ms=NOW_MS)
    for other in (
        Maker(fmspc=bytes(6)),
        Maker(issuer=PROCESSOR),
        Maker(tcb={"pceId": "0001"}),
        Maker(tcb={"id": "SGX"}),
        Maker(qe={"id": "QE"}),
    ):
        refuse(MissingCollateral, V4, other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        "{}",
        "[" * 100_000,
        '"' + "x" * (1 << 18) + '"',
        "1" * 10_000,
        '{"tcb_info": "\\ud800"}',
    ],
)
def test_a_text_of_another_form_is_passed_over(text):
    assert collateral.read(text) is None
    good = MAKER.text()
    assert verifier.verify(V4.quote(), [text, good, text], policy=POLICY, at_ms=NOW_MS).measurement == REGISTERS


def test_a_text_that_is_too_long_is_passed_over_whatever_it_says():
    good = MAKER.text()
    assert collateral.read(good.ljust(collateral.TEXT_CHARS_MAX)) is not None
    assert collateral.read(good.ljust(collateral.TEXT_CHARS_MAX + 1)) is None


def test_a_text_with_any_key_missing_or_wrong_is_passed_over():
    good = json.loads(MAKER.text())
    unread = {"pck_crl_issuer_chain"}
    for name in good.keys() - unread:
        assert collateral.read(json.dumps({key: value for key, value in good.items() if key != name})) is None
        for value in (None, 1, [], {}, "", "zz", "ff", "\ud800", "null", "[]", "{}"):
            assert collateral.read(json.dumps(good | {name: value})) is None, (name, value)
    for statement in ("tcb_info", "qe_identity"):
        fields = json.loads(good[statement])
        for name in READ_FIELDS & fields.keys():
            for value in (None, 1.5, [], "zz"):
                changed = json.dumps(fields | {name: value})
                assert collateral.read(json.dumps(good | {statement: changed})) is None, (name, value)


@pytest.mark.parametrize("path", [[ROOT], [SIGNER, PLATFORM, ROOT]])
def test_a_signers_path_of_another_length_is_passed_over(path):
    pem = b"".join(one.pem for one in path).decode()
    for name in ("tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        refuse(MissingCollateral, V4, Maker(altered={name: pem}))


READ_FIELDS = {
    *("id", "issueDate", "nextUpdate", "fmspc", "pceId", "isvprodid"),
    *("mrsigner", "attributes", "attributesMask", "miscselect", "miscselectMask"),
}


def test_what_is_not_read_of_a_text_changes_nothing():
    leaf = certify(PCK, PLATFORM, seed="another", extension=sgx_extension())
    pem = (leaf.pem + PLATFORM.pem + ROOT.pem).decode()
    for altered in ({"pck_certificate_chain": pem}, {"pck_crl_issuer_chain": "x"}, {"other": 1}):
        assert verify(V4, Maker(altered=altered)) == verify(V4)


STRANGE_COLLATERAL = {
    "another root": (UntrustedRoot, Maker(root=OTHER_ROOT, root_crl=revocation_list(ROOT))),
    "root CRL by another": (BadSignature, Maker(root_crl=revocation_list(ROOT, signer=OTHER_ROOT))),
    "root CRL of another": (BadSignature, Maker(root_crl=revocation_list(PLATFORM))),
    "root CRL under another's name": (BadSignature, Maker(root_crl=revocation_list(PLATFORM, signer=ROOT))),
    "PCK CRL by another": (BadSignature, Maker(pck_crl=revocation_list(PLATFORM, signer=PROCESSOR))),
    "TCB info altered": (BadSignature, Maker(altered={"tcb_info": json.dumps(Maker(status="OutOfDate").tcb_info())})),
    "QE identity altered": (BadSignature, Maker(altered={"qe_identity": json.dumps(MAKER.identity())})),
    "TCB signature altered": (BadSignature, Maker(altered={"tcb_info_signature": "00" * 63 + "01"})),
    "TCB signature zero": (BadSignature, Maker(altered={"tcb_info_signature": "00" * 64})),
    "QE signature altered": (BadSignature, Maker(altered={"qe_identity_signature": "ff" * 64})),
    "signed by a processor": (BadChain, Maker(signer=LEAF)),
    "QE identity by a processor": (BadChain, Maker(qe_signer=LEAF)),
    "signed by an issuer": (BadChain, Maker(signer=PLATFORM)),
    "signed under an issuer": (BadChain, Maker(signer=certify(TCB_SIGNING, PLATFORM))),
    "signed under another root": (BadChain, Maker(signer=certify(TCB_SIGNING, OTHER_ROOT))),
    "signer is a CA": (BadChain, Maker(signer=certify(TCB_SIGNING, ROOT, ca=True, path_length=0))),
    "signer revoked": (BadChain, Maker(root_crl=revocation_list(ROOT, [SIGNER]))),
    "issuer revoked": (BadChain, Maker(root_crl=revocation_list(ROOT, [PLATFORM]))),
    "processor revoked": (BadChain, Maker(pck_crl=revocation_list(PLATFORM, [PROCESSOR, LEAF]))),
    "all expired": (ExpiredEvidence, Maker(not_before=NOW - 30 * DAY, not_after=NOW - DAY)),
    "all of the future": (ExpiredEvidence, Maker(not_before=NOW + DAY)),
    "TCB info expired": (ExpiredEvidence, Maker(tcb={"nextUpdate": "2026-03-01T12:00:00Z"})),
    "TCB info of the future": (ExpiredEvidence, Maker(tcb={"issueDate": "2026-03-01T12:00:01Z"})),
    "QE identity expired": (ExpiredEvidence, Maker(qe={"nextUpdate": "2026-03-01T12:00:00Z"})),
    "QE identity of the future": (ExpiredEvidence, Maker(qe={"issueDate": "2026-03-01T12:00:01Z"})),
    "root CRL expired": (ExpiredEvidence, Maker(root_crl=revocation_list(ROOT, not_after=NOW))),
    "PCK CRL expired": (ExpiredEvidence, Maker(pck_crl=revocation_list(PLATFORM, not_after=NOW))),
    "PCK CRL of the future": (ExpiredEvidence, Maker(pck_crl=revocation_list(PLATFORM, not_before=NOW + DAY))),
    "signer expired": (ExpiredEvidence, Maker(signer=certify(TCB_SIGNING, ROOT, not_after=NOW - DAY))),
    "another enclave": (BadChain, Maker(qe={"mrsigner": "00" * 32})),
    "another product": (BadChain, Maker(qe={"isvprodid": 1})),
    "another misc select": (BadChain, Maker(qe={"miscselect": "00000001"})),
    "other attributes": (BadChain, Maker(qe={"attributes": "13" + "00" * 15})),
}


@pytest.mark.parametrize(("error", "maker"), STRANGE_COLLATERAL.values(), ids=STRANGE_COLLATERAL)
def test_collateral_that_is_wrong_is_refused_for_what_it_is(error, maker):
    refuse(error, V4, maker, under=TOLERANT)
    refuse(error, V5_TD15, maker, under=TOLERANT)


@pytest.mark.parametrize(
    "changes",
    [{"qe_mrsigner": bytes(32)}, {"qe_product": 1}, {"qe_misc_select": 1}, {"qe_attributes": b"\x17" + bytes(15)}],
)
def test_an_enclave_that_is_not_intels_quoting_enclave_is_refused(changes):
    refuse(BadChain, replace(V4, **changes), match="not Intel's quoting enclave")


def test_bits_of_the_enclave_that_the_mask_leaves_open_may_differ():
    assert verify(replace(V4, qe_attributes=b"\x11" + b"\0" * 7 + b"\xff" * 8))
    assert verify(replace(V4, qe_misc_select=8), Maker(qe={"miscselectMask": "F7FFFFFF"}))


class List:
    """Stands for a revocation list of a kind that `cryptography` reads, perhaps, but does not write."""

    issuer, last_update_utc, next_update_utc = PLATFORM.certificate.subject, NOW, NOW + DAY

    def is_signature_valid(self, issuer):
        return True


def test_a_list_that_never_ends_is_refused():
    endless = List()
    endless.next_update_utc = None
    assert chain.verify_crl(List(), PLATFORM.certificate).not_after_ms == NOW_MS + DAY_MS
    with pytest.raises(MalformedEvidence, match="until when"):
        chain.verify_crl(endless, PLATFORM.certificate)


@pytest.mark.parametrize("error", [TypeError, ValueError, UnsupportedAlgorithm])
def test_a_list_under_an_algorithm_that_is_not_known_is_refused(error):
    class Strange(List):
        def is_signature_valid(self, issuer):
            raise error("strange")

    with pytest.raises(BadSignature):
        chain.verify_crl(Strange(), PLATFORM.certificate)


def test_the_newest_collateral_that_is_good_decides():
    old = Maker(not_before=NOW - 40 * DAY, not_after=NOW - 10 * DAY)
    assert verify(V4, old, MAKER) == verify(V4, MAKER, old) == verify(V4)
    assert verify(V4, old, MAKER, at_ms=NOW_MS - 20 * DAY_MS).not_after_ms == NOW_MS - 10 * DAY_MS
    forged = Maker(not_before=NOW, altered={"tcb_info_signature": "11" * 64})
    assert verify(V4, MAKER, forged) == verify(V4)
    worse = Maker(not_before=NOW, status="OutOfDate")
    refuse(OutdatedTcb, V4, MAKER, worse)
    revoking = Maker(not_before=NOW, pck_crl=revocation_list(PLATFORM, [LEAF]))
    refuse(BadChain, V4, MAKER, revoking, match="revoked")


def test_of_many_bad_texts_few_are_verified_and_the_newest_ones_fault_is_told():
    forged = [Maker(not_before=NOW - 60 * i * DAY / 86400, altered={"tcb_info_signature": "11" * 64}) for i in range(8)]
    refuse(BadSignature, V4, *forged, MAKER)
    assert verify(V4, *forged[:7], MAKER) == verify(V4)
    refuse(ExpiredEvidence, V4, Maker(not_before=NOW + DAY), forged[0])


# The TCB --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", TDX_STATUSES)
def test_a_status_is_accepted_if_and_only_if_the_policy_does(status):
    others = set(TDX_STATUSES) - {status}
    for machine in (V4, V5_TD15):
        assert verify(machine, Maker(status=status), under=policy(status, "UpToDate"))
        refuse(OutdatedTcb, machine, Maker(status=status), under=policy(*others), match=status)


OUTDATED = {
    "platform revoked": (V4, Maker(status="Revoked")),
    "module revoked": (V4, Maker(module_status="Revoked")),
    "enclave revoked": (V4, Maker(qe_status="Revoked")),
    "no level for the processor": (V4, Maker(tcb={"tcbLevels": [level("UpToDate", cpu=b"\4" + CPU_SVN[1:])]})),
    "no level for its PCE": (V4, Maker(tcb={"tcbLevels": [level("UpToDate", pce=PCE_SVN + 1)]})),
    "no level for the module": (replace(V4, tee_tcb_svn=b"\4" + TEE_TCB_SVN[1:]), MAKER),
    "no level for the microcode": (replace(V4, tee_tcb_svn=bytes((6, 1, 2)) + bytes(13)), MAKER),
    "no level at all": (V4, Maker(tcb={"tcbLevels": []})),
    "unknown module": (replace(V4, tee_tcb_svn=bytes((6, 2, 3)) + bytes(13)), MAKER),
    "module of another signer": (replace(V4, mrsignerseam=b"\1" * 48), MAKER),
    "enclave too old": (replace(V4, qe_svn=3), MAKER),
    "TD relaunch advised": (
        replace(V5_TD15, tee_tcb_svn=OLDER),
        Maker(tcb={"tcbLevels": [level("UpToDate"), level("OutOfDate", tdx=OLDER)]}),
    ),
    "unknown status": (V4, Maker(status="Wonderful")),
    "statement without levels": (V4, Maker(tcb={"tcbLevels": None})),
}


@pytest.mark.parametrize(("machine", "maker"), OUTDATED.values(), ids=OUTDATED)
def test_a_state_that_intel_does_not_vouch_for_is_refused_by_every_policy(machine, maker):
    refuse(OutdatedTcb, machine, maker, under=TOLERANT)


@pytest.mark.parametrize("part", ["status", "module_status", "qe_status"])
@pytest.mark.parametrize("machine", MACHINES)
def test_each_part_out_of_date_is_refused_unless_the_policy_accepts_it(machine, part):
    maker = Maker(**{part: "OutOfDate"})
    refuse(OutdatedTcb, machine, maker, match="OutOfDate")
    assert verify(machine, maker, under=policy("OutOfDate", "UpToDate"))


def test_an_enclave_that_needs_configuration_is_refused_though_the_sum_is_up_to_date():
    refuse(OutdatedTcb, V4, Maker(qe_status="ConfigurationNeeded"), match="ConfigurationNeeded")


def test_firmware_that_is_older_now_than_at_launch_is_refused_though_the_sum_is_up_to_date():
    maker = Maker(tcb={"tcbLevels": [level("UpToDate"), level("OutOfDate", tdx=OLDER)]})
    assert verify(V5_TD15, maker)
    refuse(OutdatedTcb, replace(V5_TD15, tee_tcb_svn2=OLDER), maker, match="OutOfDate")


def test_an_older_level_is_found_by_its_numbers():
    levels = [level("UpToDate", pce=PCE_SVN + 1), level("OutOfDate")]
    refuse(OutdatedTcb, V4, Maker(tcb={"tcbLevels": levels}), match="OutOfDate")
    module = [svn_level("UpToDate", 7), svn_level("OutOfDate", 5)]
    identity = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    maker = Maker(tcb={"tdxModuleIdentities": [{"id": "TDX_01", **identity, "tcbLevels": module}]})
    refuse(OutdatedTcb, V4, maker, match="OutOfDate")


# The program ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mrtd", "rtmr0", "rtmr1", "rtmr2"])
def test_another_program_is_refused(name):
    refuse(WrongMeasurement, replace(V4, registers=REGISTERS | {name: bytes(48)}))


@pytest.mark.parametrize("name", ["rtmr3", "mrconfigid", "mrowner", "mrownerconfig"])
def test_what_the_policy_lists_beside_counts_too(name):
    assert verify(replace(V4, registers=REGISTERS | {name: bytes(48)}))
    strict = policy(measurement=Measurement.of("test-tdx", REGISTERS))
    assert verify(V4, under=strict)
    refuse(WrongMeasurement, replace(V4, registers=REGISTERS | {name: bytes(48)}), under=strict)


# What native code is given --------------------------------------------------------------------------------


def test_native_code_is_given_nothing_that_a_host_chose(monkeypatch):
    """Every text and quote that reaches it is the same, whatever freedoms a host takes with what is not signed."""
    given = []

    class Recorder:
        def __init__(self, root):
            self.root = root

        def verify_with_policy(self, quote, collateral, seconds, limits):
            given.append((self.root, quote, collateral.to_json(), seconds))
            return dcap_qvl.QuoteVerifier(self.root).verify_with_policy(quote, collateral, seconds, limits)

    class Library:
        QuoteVerifier = Recorder
        QuotePolicy, QuoteCollateralV3 = dcap_qvl.QuotePolicy, dcap_qvl.QuoteCollateralV3
        parse_pck_extension_from_pem = staticmethod(dcap_qvl.parse_pck_extension_from_pem)

    monkeypatch.setitem(sys.modules, "dcap_qvl", Library)
    pem = b"".join(one.pem for one in V4.chain)
    free = [V4, replace(V4, tail=bytes(100)), replace(V4, pem=pem.replace(b"\n", b"\r\n")), replace(V4, pem=pem[:-1])]
    texts = [
        MAKER,
        Maker(altered={"pck_certificate_chain": "x", "pck_crl_issuer_chain": "y"}),
        Maker(altered={"tcb_info_issuer_chain": (SIGNER.pem + ROOT.pem).decode().replace("\n", "\r\n") + "\n\n"}),
    ]
    for machine in free:
        for text in texts:
            verify(machine, text)
    assert len(given) == len(free) * len(texts)
    assert len(set(given)) == 1
    assert given[0][:2] == (ROOT.der, quotes.parse(V4.quote()).to_bytes())
    for machine in (replace(V4, quote_signer=OTHER_KEY), replace(V4, qe_signer=OTHER_KEY)):
        refuse(BadSignature, machine)
    for error, maker in STRANGE_COLLATERAL.values():
        refuse(error, V4, maker)
    assert len(given) == len(free) * len(texts)


def test_a_failure_of_native_code_is_a_typed_error(monkeypatch):
    class Failing:
        def __init__(self, root):
            pass

        def verify_with_policy(self, *_):
            raise ValueError("\x1b[31m" + "x" * 1000)

    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", Failing)
    refuse(OutdatedTcb, match=r"\\x1b")
