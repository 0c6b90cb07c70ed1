"""The verbs of `perdure evidence`, over evidence of every platform that the tests make themselves."""

import base64
import contextlib
import dataclasses
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perdure.array import receipt as receipts
from perdure.array.create import create
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.roster import Departed
from perdure.array.world import World
from perdure.cli import judging
from perdure.cli.main import run
from perdure.disk import wire
from perdure.evidence import anchors, envelope
from perdure.evidence.collateral import NONE, Collateral
from perdure.evidence.limits import TDX_STATUSES, SnpLimits, Tcb, TdxLimits
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1, BUILTIN_CERTIFICATES, Platform
from perdure.evidence.snp.report import Product, Signer
from perdure.evidence.verifier import Verifier
from perdure.sim.disks import SimAttested, SimDisk
from perdure.simtee.pki import SimulatedRoot
from tests.array.world import SimArray
from tests.cli.rig import Done
from tests.disk.running import KEY, running, unix_address
from tests.evidence import support
from tests.evidence.snp import support as snp
from tests.evidence.tdx import support as tdx
from tests.evidence.tpm import support as tpm

AT = "2023-11-14T22:13:20Z"
"""The second in which the support module's simulated enclave signs."""
SNP_AT, TDX_AT, TPM_AT = "2024-01-06T00:00:00Z", "2026-03-01T12:00:00Z", AT
PERDURE = Path(sys.executable).with_name("perdure")


def invoke(*words):
    """Run a verb in this process through the same entry as the program's."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(word) for word in words])
    return Done(code, out.getvalue(), err.getvalue())


def error_of(done):
    """Class and exit code of what went wrong; both outputs must say the same."""
    error = done.json["error"]
    assert error["exit_code"] == done.code > 0
    assert done.sentence == error["message"]
    return error["class"], error["exit_code"]


def require_error(done, name, code=2):
    assert error_of(done) == (name, code)
    assert not done.sentence.startswith(f"{name}:"), "the object has it"


class Folder:
    """Files by their names, and the options that name them."""

    def __init__(self, path):
        self.path = path

    def write(self, name, data):
        path = self.path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def many(self, option, contents):
        found = [(option, self.write(f"{option[2:]}-{index}", data)) for index, data in enumerate(contents)]
        return [word for pair in found for word in pair]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def judged(folder, platform, evidence, *words, at, chain=(), collateral=(), roots=(), policy=None, as_json=True):
    options = folder.many("--chain", chain) + folder.many("--collateral", collateral)
    options += folder.many("--chain-root", roots)
    options += [] if policy is None else ["--policy", folder.write("policy.json", policy.to_json())]
    options += ["--json"] if as_json else []
    file = folder.write("evidence", evidence)
    return invoke("evidence", "verify", "--platform", platform, "--at", at, *options, *words, file)


def pem(*ders):
    blocks = [b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) for der in ders]
    return b"".join(block + b"-----END CERTIFICATE-----\n" for block in blocks)


# Enclaves' documents --------------------------------------------------------------------------------------


def simulated(folder, *words, at=AT, platform="simulated", **options):
    return judged(folder, platform, support.nsm("cli").attest(support.COMMITMENT), *words, at=at, **options)


def test_evidence_under_a_policy(folder):
    value = simulated(folder, policy=support.POLICY).json
    assert value["report_data"] == support.COMMITMENT.hex()
    assert value["measurement"]["pcr1"] == support.PCRS[1].hex()
    assert list(value["measurement"]) == [f"pcr{index}" for index in range(16)]
    assert (value["platform"], value["root"]) == ("simulated", "simulated")
    assert (value["measurement_checked"], value["limits"], value["limits_checked"]) == (True, None, None)
    assert (value["time_ms"], value["time"]) == (support.NOW_MS, "2023-11-14T22:13:20.123Z")
    assert (value["module_id"], value["host"]) == (support.MODULE_ID, support.INSTANCE_ID)
    assert value["not_after_ms"] > support.NOW_MS


def test_evidence_under_a_root_alone_leaves_the_measurement_to_the_reader(folder):
    done = simulated(folder, roots=[support.ROOT.der])
    assert done.code == 0
    assert (done.json["measurement_checked"], done.json["root"]) == (False, "chain-root-0")


def test_what_verify_prints_is_json_with_or_without_the_option(folder):
    done = simulated(folder, roots=[pem(support.ROOT.der)], as_json=False)
    assert (done.code, done.err) == (0, "")
    assert done.json == simulated(folder, roots=[pem(support.ROOT.der)]).json


def test_people_who_ask_a_disk_get_aligned_lines(folder):
    lines = judging.lines(simulated(folder, roots=[pem(support.ROOT.der)]).json).splitlines()
    width = max(len(line.split()[0]) for line in lines)
    assert all(line[width : width + 2] == "  " != line[width + 2] for line in lines)
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert shown["platform"] == "simulated"
    assert shown["measurement.pcr0"] == support.PCRS[0].hex()
    assert (shown["measurement_checked"], shown["limits"]) == ("no", "-")


def test_the_policys_programs_count_under_a_further_root(folder):
    other = SimulatedRoot.create(support.seeded("another root"))
    elsewhere = Policy((TrustedRoot("simulated", Platform.SIMULATED, other.der),), support.POLICY.measurements)
    require_error(simulated(folder, policy=elsewhere), "UntrustedRoot")
    done = simulated(folder, policy=elsewhere, roots=[support.ROOT.der])
    assert (done.code, done.json["root"], done.json["measurement_checked"]) == (0, "chain-root-0", True)
    program = Measurement.enclave("simulated", b"\4" * 48, b"\5" * 48, b"\6" * 48)
    require_error(
        simulated(folder, policy=Policy(elsewhere.roots, (program,)), roots=[support.ROOT.der]), "WrongMeasurement"
    )


def test_a_root_that_the_policy_has_already_is_not_a_further_one(folder):
    assert simulated(folder, policy=support.POLICY, roots=[support.ROOT.der]).json["root"] == "simulated"


@pytest.mark.parametrize(
    ("words", "options", "name"),
    [
        ([], {}, "Misuse"),
        ([], {"roots": [support.ROOT.der], "at": "2031-01-01T00:00:00Z"}, "ExpiredEvidence"),
        ([], {"roots": [support.ROOT.der], "at": "yesterday"}, "Misuse"),
        ([], {"roots": [support.ROOT.der], "at": "2023-11-14T22:13:20"}, "Misuse"),
        ([], {"roots": [b"{}"]}, "Misuse"),
        ([], {"policy": support.POLICY, "platform": "nitro"}, "UntrustedRoot"),
        ([], {"platform": "nitro"}, "UntrustedRoot"),
        ([], {"roots": [BUILTIN_CERTIFICATES[AWS_NITRO_G1][1]]}, "UntrustedRoot"),
        ([], {"platform": "nitrotpm"}, "MalformedEvidence"),
        ([], {"platform": "sev-snp"}, "MalformedEvidence"),
        ([], {"platform": "tdx"}, "MalformedEvidence"),
        ([], {"platform": "tpm"}, "Misuse"),
        (["--report-data", "no hexadecimal"], {"policy": support.POLICY}, "Misuse"),
        (["--nonce", "no hexadecimal"], {"policy": support.POLICY}, "Misuse"),
        (["--signature", "any"], {"policy": support.POLICY}, "Misuse"),
        (["--pcrs", "any"], {"policy": support.POLICY}, "Misuse"),
    ],
)
def test_evidence_that_does_not_hold_has_its_error(folder, words, options, name):
    require_error(simulated(folder, *words, **options), name)


def test_the_errors_class_is_named_for_people_too(folder):
    done = simulated(folder, roots=[support.ROOT.der], at="2031-01-01T00:00:00Z", as_json=False)
    assert (done.code, done.out) == (2, "")
    assert done.sentence.startswith("ExpiredEvidence: The evidence")


def test_evidence_must_commit_to_the_report_data_that_is_asked_for(folder):
    words = ["--report-data", support.COMMITMENT.hex()]
    assert simulated(folder, *words, policy=support.POLICY).code == 0
    wrong = bytes([support.COMMITMENT[0] ^ 1]) + support.COMMITMENT[1:]
    for other in (wrong, support.COMMITMENT[:-1], b""):
        done = simulated(folder, "--report-data", other.hex(), policy=support.POLICY)
        require_error(done, "WrongCommitment", 3)
    require_error(simulated(folder, "--nonce", "", policy=support.POLICY), "WrongCommitment", 3)


def test_evidence_of_another_program_is_refused_under_a_policy(folder):
    program = Measurement.enclave("simulated", support.PCRS[0], support.PCRS[1], b"\x44" * 48)
    require_error(simulated(folder, policy=Policy(support.POLICY.roots, (program,))), "WrongMeasurement")


def test_altered_evidence_is_refused(folder):
    data = bytearray(support.nsm("cli").attest(support.COMMITMENT))
    data[-1] ^= 1
    require_error(judged(folder, "simulated", data, at=AT, policy=support.POLICY), "BadSignature")


def test_a_program_in_debug_mode_is_refused_without_a_policy_too(folder):
    debugged = support.document(pcrs={index: bytes(48) for index in range(16)})
    require_error(judged(folder, "simulated", debugged, at=AT, roots=[support.ROOT.der]), "DebugMode")


# SEV-SNP --------------------------------------------------------------------------------------------------


def judged_snp(folder, machine=None, *words, report=None, chain=None, at=SNP_AT, roots=None, **options):
    machine = machine or snp.machine()
    report = machine.report if report is None else report
    chain = machine.hints if chain is None else chain
    roots = [machine.root] if roots is None else roots
    return judged(folder, "sev-snp", report, *words, at=at, chain=chain, roots=roots, **options)


def parts(product):
    names = ("bootloader", "tee", "snp", "microcode")
    found = dict(zip(names, (snp.PARTS[part] for part in (1, 2, 3, 8)), strict=True))
    return {**found, "fmc": snp.PARTS[9] if product is Product.TURIN else 0}


@pytest.mark.parametrize("signer", Signer, ids=lambda signer: signer.name)
@pytest.mark.parametrize("product", Product)
def test_a_raw_report_with_its_certificates(folder, product, signer):
    machine = snp.machine(product, signer)
    value = judged_snp(folder, machine, "--report-data", snp.REPORT_DATA.hex()).json
    assert (value["platform"], value["root"]) == ("sev-snp", "chain-root-0")
    assert value["measurement"] == {
        "measurement": snp.MEASUREMENT.hex(),
        "host_data": snp.HOST_DATA.hex(),
        "id_key_digest": snp.ID_KEY_DIGEST.hex(),
        "author_key_digest": snp.AUTHOR_KEY_DIGEST.hex(),
    }
    assert value["report_data"] == snp.REPORT_DATA.hex()
    assert (value["measurement_checked"], value["limits_checked"]) == (False, False)
    assert value["limits"] == {
        "tcb": dict.fromkeys(("reported", "current", "committed", "launch"), parts(product)),
        "vmpl": 0,
        "smt": True,
        "alias_checked": True,
        "csp_id": snp.CSP_ID if signer is Signer.VLEK else None,
    }
    assert (value["time"], value["time_ms"]) == (None, None)
    assert value["not_after"] == "2024-01-11T00:00:00.000Z"
    assert (value["host"] is None) is (signer is Signer.VLEK)


def test_a_report_of_a_version_that_does_not_say_the_product_has_that_of_its_certificate(folder):
    value = judged_snp(folder, snp.machine(Product.GENOA, version=2)).json
    assert value["limits"]["tcb"]["reported"] == parts(Product.GENOA)


def table(*kinds_and_ders):
    """The kernel's table of certificates (AMD publication 56421)."""
    at, entries, contents = 24 * (len(kinds_and_ders) + 1), b"", b""
    for kind, der in kinds_and_ders:
        entries += kind + at.to_bytes(4, "little") + len(der).to_bytes(4, "little")
        at += len(der)
        contents += der
    return entries + bytes(24) + contents


VCEK_KIND = bytes.fromhex("8d75da6364e66445adc5f4b93be8accd")
ASK_KIND = bytes.fromhex("79b3b74aacbbe44fa02f05aef327c782")


@pytest.mark.filterwarnings("error")
def test_a_chain_comes_in_every_form(folder):
    vcek, ask = snp.machine().hints
    auxblob = table((VCEK_KIND, vcek), (ASK_KIND, ask))
    for chain in (
        (vcek, ask),
        (pem(vcek, ask),),
        (pem(ask), vcek),
        (auxblob,),
        (b"Bag: attributes\n" + pem(vcek, ask),),
    ):
        done = judged_snp(folder, chain=chain)
        assert (done.code, done.err) == (0, ""), done.err
    sent = envelope.seal(envelope.TSM, b"sev_guest", snp.machine().report, auxblob)
    assert judged_snp(folder, report=sent, chain=()).code == 0
    require_error(judged_snp(folder, chain=()), "MissingCollateral")


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"junk",
        b"\x30\x03\x02\x01\x01",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n",
        snp.LEAF_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        bytes(3 * 24)[:-1] + b"\1",
    ],
)
def test_a_chain_of_another_form_is_a_mistake(folder, junk):
    done = judged_snp(folder, chain=(*snp.machine().hints, junk))
    if junk and any(junk[:24]):
        require_error(done, "Misuse")
    else:
        assert done.code == 0  # a table without entries


def test_limits_hold_under_a_policy_and_are_free_without_one(folder):
    machine = snp.machine()
    done = judged_snp(folder, policy=snp.policy(machine.root, snp.limits()), roots=())
    assert (done.code, done.json["limits_checked"], done.json["measurement_checked"]) == (0, True, True)
    newer = snp.limits(tcb_min=Tcb(4, 1, 24, 218))
    require_error(judged_snp(folder, policy=snp.policy(machine.root, newer), roots=()), "OutdatedTcb")
    for changes in ({"vmpl": 3}, {"policy": 0x30000, "platform_info": 1}, {"launch_tcb": bytes(8)}):
        report = snp.report(Product.MILAN, **changes)
        assert judged_snp(folder, report=report).code == 0
    report = snp.report(Product.MILAN, vmpl=2, launch_tcb=bytes(8), policy=0x20000, platform_info=0)
    value = judged_snp(folder, report=report).json
    assert (value["limits"]["vmpl"], value["limits"]["smt"], value["limits"]["alias_checked"]) == (2, False, False)
    assert value["limits"]["tcb"]["launch"] == dict.fromkeys(parts(Product.MILAN), 0)


def test_what_no_policy_can_allow_is_refused_without_one_too(folder):
    debugged = snp.report(Product.MILAN, policy=0xB0000)
    require_error(judged_snp(folder, report=debugged), "DebugMode")
    migrated = snp.report(Product.MILAN, policy=0x70000)
    require_error(judged_snp(folder, report=migrated), "ForbiddenLaunch")
    require_error(judged_snp(folder, report=snp.report(Product.MILAN, vmpl=4)), "ForbiddenLaunch")


def test_reports_that_do_not_hold(folder):
    machine = snp.machine()
    require_error(judged_snp(folder, report=machine.report[:-1]), "MalformedEvidence")
    altered = bytearray(machine.report)
    altered[0x50] ^= 1
    require_error(judged_snp(folder, report=altered), "BadSignature")
    require_error(judged_snp(folder, at="2024-02-01T00:00:00Z"), "ExpiredEvidence")
    require_error(judged_snp(folder, roots=()), "BadChain")  # AMD's own issuer did not sign it
    elsewhere = snp.policy(snp.ark(Product.MILAN, "elsewhere"), snp.limits())
    require_error(judged_snp(folder, policy=elsewhere, roots=()), "UntrustedRoot")
    require_error(judged_snp(folder, None, "--report-data", "00" * 64), "WrongCommitment", 3)


@pytest.mark.parametrize("options", [{"by": "another key"}, {"key": snp.OTHER_KEY.public_key()}])
def test_neither_a_strangers_certificate_nor_another_clouds_hides_the_clouds_own(folder, options):
    """One has the same key and is not AMD's, one is AMD's and has another key."""
    machine = snp.machine(Product.MILAN, Signer.VLEK)
    other = snp.leaf(Product.MILAN, Signer.VLEK, changes={"5": snp.text("CN=elsewhere")}, **options)
    value = judged_snp(folder, machine, chain=(other, *machine.hints)).json
    assert value["limits"]["csp_id"] == snp.CSP_ID


def test_a_further_root_has_the_limits_that_the_policys_roots_have(folder):
    machine, elsewhere = snp.machine(), snp.ark(Product.MILAN, "elsewhere")
    policy = snp.policy(elsewhere, snp.limits())
    assert judged_snp(folder, policy=policy).json["root"] == "chain-root-0"
    strict = snp.policy(elsewhere, snp.limits(tcb_min=Tcb(255, 1, 24, 217)))
    require_error(judged_snp(folder, policy=strict), "OutdatedTcb")
    other = TrustedRoot("other", Platform.SEV_SNP, snp.ark(Product.GENOA, "elsewhere"), snp.limits(vmpl_max=1))
    require_error(judged_snp(folder, policy=Policy((*policy.roots, other), policy.measurements)), "Misuse")
    require_error(judged_snp(folder, policy=support.POLICY), "Misuse")
    assert machine.root not in {root.certificate for root in policy.roots}


# TDX ------------------------------------------------------------------------------------------------------


def judged_tdx(folder, quote=None, *words, makers=(tdx.MAKER,), at=TDX_AT, roots=(tdx.ROOT.der,), **options):
    quote = tdx.V4.quote() if quote is None else quote
    texts = [maker.text() for maker in makers]
    return judged(folder, "tdx", quote, *words, at=at, collateral=texts, roots=roots, **options)


def test_a_raw_quote_with_intels_statements(folder):
    value = judged_tdx(folder, None, "--report-data", tdx.REPORT_DATA.hex()).json
    assert (value["platform"], value["root"], value["time"]) == ("tdx", "chain-root-0", None)
    assert value["measurement"] == {name: value.hex() for name, value in tdx.REGISTERS.items()}
    assert value["report_data"] == tdx.REPORT_DATA.hex()
    assert (value["limits"], value["limits_checked"]) == ({"statuses": ["UpToDate"]}, False)
    sent = envelope.seal(envelope.TSM, b"tdx_guest", tdx.V5_TD15.quote(), b"")
    assert judged_tdx(folder, sent).json["measurement"] == value["measurement"]


@pytest.mark.parametrize(
    ("maker", "statuses"),
    [
        (tdx.Maker(status="OutOfDate"), {"OutOfDate", "UpToDate"}),
        (tdx.Maker(status="SWHardeningNeeded"), {"SWHardeningNeeded", "UpToDate"}),
        (tdx.Maker(status="ConfigurationNeeded"), {"ConfigurationNeeded", "UpToDate"}),
    ],
)
def test_statuses_are_printed_instead_of_refused(folder, maker, statuses):
    """Those that a policy must accept, no more and no fewer."""
    found = judged_tdx(folder, makers=(maker,)).json["limits"]["statuses"]
    assert found == [status for status in TDX_STATUSES if status in statuses]
    root, program = tdx.POLICY.roots[0], tdx.POLICY.measurements
    for policy, code in ((found, 0), *((sorted(set(found) - {one}) or ["OutOfDate"], 2) for one in found)):
        trusted = TrustedRoot(root.name, Platform.TDX, root.certificate, TdxLimits(tuple(policy)))
        done = judged_tdx(folder, makers=(maker,), roots=(), policy=Policy((trusted,), program))
        assert done.code == code, (policy, done.err)
        if code:
            require_error(done, "OutdatedTcb")
        else:
            assert (done.json["limits"]["statuses"], done.json["limits_checked"]) == (found, True)


def test_quotes_that_do_not_hold(folder):
    good = tdx.V4.quote()
    require_error(judged_tdx(folder, good[:-100]), "MalformedEvidence")
    require_error(judged_tdx(folder, good[:200] + bytes([good[200] ^ 1]) + good[201:]), "BadSignature")
    require_error(judged_tdx(folder, makers=()), "MissingCollateral")
    require_error(judged_tdx(folder, at="2026-04-15T00:00:00Z"), "ExpiredEvidence")
    require_error(judged_tdx(folder, roots=()), "UntrustedRoot")
    require_error(judged_tdx(folder, tdx.Machine(td_attributes=1 << 28 | 1).quote()), "DebugMode")
    require_error(judged_tdx(folder, makers=(tdx.Maker(status="Revoked"),)), "OutdatedTcb")
    require_error(judged_tdx(folder, None, "--report-data", "00" * 64), "WrongCommitment", 3)


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_collateral_of_another_form_is_a_mistake(folder, junk):
    path = folder.write("junk", junk)
    require_error(judged_tdx(folder, None, "--collateral", path), "Misuse")


# TPMs -----------------------------------------------------------------------------------------------------


def quote_words(folder, quote):
    return ["--signature", folder.write("sig", quote.signature), "--pcrs", folder.write("pcrs", quote.pcrs)]


def judged_tpm(folder, quote=None, *words, at=TPM_AT, chain=tpm.HINTS, roots=(tpm.ROOT.der,), **options):
    quote = quote or tpm.quote()
    words = (*quote_words(folder, quote), *words)
    return judged(folder, "tpm", quote.attest, *words, at=at, chain=chain, roots=roots, **options)


def sent_by_tpm(quote, certificate=tpm.AK.der):
    return envelope.seal(envelope.TPM, quote.attest, quote.signature, quote.pcrs, certificate)


def test_a_quote_in_three_files(folder):
    value = judged_tpm(folder).json
    assert (value["platform"], value["root"], value["time"], value["limits"]) == ("tpm", "chain-root-0", None, None)
    assert value["measurement"] == {f"pcr{index}": pcr.hex() for index, pcr in tpm.PCRS.items()}
    assert value["report_data"] == tpm.EXTRA_DATA.hex()
    assert (value["module_id"], value["not_after"]) == (f"{value['host']}-7.3", "2023-11-15T22:13:20.000Z")


def test_a_quote_as_a_disk_sends_it(folder):
    sent = sent_by_tpm(tpm.quote())
    assert judged(folder, "tpm", sent, at=TPM_AT, chain=[tpm.ISSUER.der], roots=[tpm.ROOT.der]).code == 0
    words = quote_words(folder, tpm.quote())
    require_error(judged(folder, "tpm", sent, *words, at=TPM_AT, roots=[tpm.ROOT.der]), "Misuse")


@pytest.mark.parametrize(
    ("data", "name", "code"),
    [
        (tpm.EXTRA_DATA, None, 0),
        (support.COMMITMENT, None, 0),
        (bytes(32), "WrongCommitment", 3),
        (bytes(32) + support.COMMITMENT[32:], "WrongCommitment", 3),
        (support.COMMITMENT[:31], "Misuse", 2),
        (support.COMMITMENT + b"\0", "Misuse", 2),
    ],
)
def test_a_tpms_report_data_is_32_bytes_or_a_whole_commitment(folder, data, name, code):
    done = judged_tpm(folder, None, "--report-data", data.hex())
    if name is None:
        assert done.code == code
    else:
        require_error(done, name, code)


def test_quotes_of_tpms_that_do_not_hold(folder):
    good = tpm.quote()
    require_error(judged_tpm(folder, tpm.Quote(good.attest[:-1], good.signature, good.pcrs)), "MalformedEvidence")
    flipped = good.signature[:-1] + bytes([good.signature[-1] ^ 1])
    require_error(judged_tpm(folder, tpm.Quote(good.attest, flipped, good.pcrs)), "BadSignature")
    require_error(judged_tpm(folder, chain=()), "MissingCollateral")
    require_error(judged_tpm(folder, chain=[tpm.AK.der]), "UntrustedRoot")
    require_error(judged_tpm(folder, at="2023-12-14T22:13:20Z"), "ExpiredEvidence")
    require_error(judged_tpm(folder, roots=()), "Misuse")
    require_error(judged_tpm(folder, tpm.quote(pcrs=bytes(24 * 32))), "ForbiddenLaunch")
    require_error(judged_tpm(folder, tpm.quote(indexes=range(1, 24))), "WrongMeasurement")
    for missing in ("--signature", "--pcrs"):
        words = quote_words(folder, good)
        at = words.index(missing)
        words = words[:at] + words[at + 2 :]
        done = judged(folder, "tpm", good.attest, *words, at=TPM_AT, roots=[tpm.ROOT.der])
        require_error(done, "Misuse")


def test_evidence_of_no_known_provider(folder):
    sent = envelope.seal(envelope.TSM, b"arm_cca", b"token", b"")
    require_error(judged(folder, "tdx", sent, at=TDX_AT), "MalformedEvidence")
    cut = envelope.seal(envelope.TSM, b"sev_guest", b"", b"")[:-1]
    require_error(judged(folder, "sev-snp", cut, at=TDX_AT), "MalformedEvidence")


# A running disk -------------------------------------------------------------------------------------------


SIMULATED = Policy(
    (TrustedRoot("simulated", Platform.SIMULATED, support.ROOT.der),), support.POLICY.measurements, skew_ms_max=5000
)


def simulated_now():
    """The module of an enclave that starts now."""
    return support.SimulatedNsm(
        support.ROOT, support.PCRS, support.MODULE_ID, lambda: time.time_ns() // 1_000_000, draw=support.seeded("now")
    )


@pytest.fixture
def disk(tmp_path):
    with running(unix_address(tmp_path)) as disk:
        disk.notary.attest = simulated_now().attest
        yield disk


def ask(folder, disk, *words, key=KEY, as_json=True):
    file = folder.write("authority.key", key.secret.hex())
    file.chmod(0o600)
    address = disk if isinstance(disk, str) else disk.address
    return invoke("evidence", "ask", *(["--json"] if as_json else []), address, "--authority-key-file", file, *words)


def under(folder, policy=SIMULATED):
    return ["--policy", folder.write("policy.json", policy.to_json())]


def test_a_simulated_disk_is_called_so_whatever_root_is_given(folder, disk):
    """Its form is Nitro's, but only AWS's own root makes it that."""
    root = folder.write("root.der", support.ROOT.der)
    value = ask(folder, disk, "--chain-root", root).json
    assert (value["platform"], value["root"], value["measurement_checked"]) == ("simulated", "chain-root-0", False)
    require_error(ask(folder, disk, "--chain-root", root, *under(folder)), "Misuse")


def test_a_document_under_awss_root_is_judged_as_nitros():
    aws = support.document(cabundle=[anchors.AWS_NITRO_G1, *support.leaf().cabundle[1:]])
    assert judging.platform_of(aws, judging.read_stated(aws, NONE)) is Platform.NITRO


@pytest.mark.parametrize("platform", ["sev-snp", "tdx"])
def test_evidence_that_has_no_nonce_beside_its_report_data(folder, platform):
    require_error(judged(folder, platform, b"evidence", "--nonce", "00", at=TDX_AT), "Misuse")
    for other in ("00", "00" * 63, "00" * 65):
        require_error(judged(folder, platform, b"evidence", "--report-data", other, at=TDX_AT), "Misuse")


def test_asking_a_disk_says_who_answers_and_what_its_evidence_proves(folder, disk):
    done = ask(folder, disk, *under(folder), "-o", folder.path / "evidence.bin")
    value = done.json
    assert done.code == 0
    assert (value["instance"], value["epoch"], value["seq"]) == ((b"I" * 32).hex(), "00" * 16, 0)
    assert value["size_bytes"] == len(disk.memory)
    assert (value["platform"], value["measurement"]["pcr2"]) == ("simulated", support.PCRS[2].hex())
    assert (value["measurement_checked"], value["latency"]) == (True, None)
    evidence = (folder.path / "evidence.bin").read_bytes()
    assert value["evidence_bytes"] == len(evidence)
    words = ["--report-data", value["report_data"], *under(folder)]
    again = invoke(
        *("evidence", "verify", "--json", "--platform", "simulated", "--at", value["time"]),
        *(*words, folder.path / "evidence.bin"),
    )
    assert again.json == {**{name: value[name] for name in again.json if name in value}, "report_data_checked": True}


def test_a_disk_of_an_array_is_asked_without_a_change(folder, disk):
    disk.open()
    value = ask(folder, disk, *under(folder)).json
    assert value["epoch"] == (bytes(15) + b"\1").hex()
    assert ask(folder, disk, *under(folder)).json["report_data"] != value["report_data"]
    assert ask(folder, disk, *under(folder)).json["epoch"] == value["epoch"]


def test_latency_is_that_of_each_question(folder, disk):
    fast, asked = disk.notary.attest, []

    def attest(report_data):
        asked.append(report_data)
        time.sleep(0.15 if len(asked) == 5 else 0.01)
        return fast(report_data)

    disk.notary.attest = attest
    latency = ask(folder, disk, *under(folder), "--count", "10").json["latency"]
    assert len(set(asked)) == 11  # the first is not counted: it pays for the connection
    assert latency["count"] == 10
    assert 10 <= latency["p50_ms"] < 150 <= latency["p99_ms"]


def test_people_get_lines_about_a_disk(folder, disk):
    done = ask(folder, disk, *under(folder), "--count", "1", as_json=False)
    shown = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert (shown["address"], shown["latency.count"], shown["output"]) == (disk.address, "1", "-")


@pytest.fixture
def tpm_disk(tmp_path, monkeypatch):
    """A disk with a TPM, in the minute for which the tests' certificates are."""
    monkeypatch.setattr("perdure.service.asking.time.time_ns", lambda: support.NOW_MS * 1_000_000)
    with running(unix_address(tmp_path)) as disk:
        disk.notary.attest = lambda data: sent_by_tpm(tpm.quote(extra_data=tpm.sized(data[:32])))
        yield disk


def test_a_disk_with_a_tpm(folder, tpm_disk):
    words = folder.many("--chain", [tpm.ISSUER.der])
    value = ask(folder, tpm_disk, *words, *under(folder, tpm.POLICY)).json
    assert (value["platform"], value["time"]) == ("tpm", None)
    assert len(value["report_data"]) == 64


def test_bad_evidence_is_written_before_it_is_judged(folder, tpm_disk):
    """A TPM has no built-in root; the evidence is there all the same."""
    output = folder.path / "evidence.bin"
    require_error(ask(folder, tpm_disk, "-o", output), "Misuse")
    assert envelope.open_envelope(output.read_bytes()).name == envelope.TPM
    words = folder.many("--chain", [tpm.ISSUER.der])
    assert judged(folder, "tpm", output.read_bytes(), *words, at=TPM_AT, roots=[tpm.ROOT.der]).code == 0


def test_without_a_policy_only_built_in_roots_are_trusted(folder, disk):
    require_error(ask(folder, disk), "Misuse")


def test_evidence_for_another_answer_is_refused(folder, disk):
    disk.notary.attest = lambda data: simulated_now().attest(bytes(64))
    require_error(ask(folder, disk, *under(folder)), "WrongCommitment", 3)


def test_every_answer_must_prove_itself(folder, disk):
    good, asked = disk.notary.attest, []

    def attest(report_data):
        asked.append(report_data)
        return good(report_data if len(asked) < 4 else asked[0])

    disk.notary.attest = attest
    assert ask(folder, disk, *under(folder), "--count", "2").code == 0
    asked.clear()
    done = ask(folder, disk, *under(folder), "--count", "3", as_json=False)
    assert (done.code, done.out) == (3, "")
    assert done.sentence.startswith("WrongCommitment: ")


def test_a_disk_that_is_not_there(folder, tmp_path):
    done = ask(folder, f"unix:{tmp_path}/none")
    require_error(done, "Disconnected")
    assert "does not answer (cannot connect:" in done.sentence
    done = ask(folder, "nonsense")
    require_error(done, "Misuse")
    assert done.sentence.endswith("; nothing was asked.")


def test_a_disk_that_obeys_another_authority(folder, disk):
    done = ask(folder, disk, *under(folder), key=type(KEY)(b"\x22" * 32))
    require_error(done, "Refused")
    assert "the disk refused: it obeys another authority" in done.sentence


def test_a_disk_whose_platform_gives_no_evidence(folder, tmp_path):
    with running(unix_address(tmp_path)) as disk:
        disk.notary.failure = OSError("there is no such device")
        done = ask(folder, disk, "-o", tmp_path / "evidence.bin")
    require_error(done, "Refused")
    assert "its platform gave no evidence" in done.sentence
    assert not (tmp_path / "evidence.bin").exists()


def test_something_that_is_no_disk(folder, tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        peer, _ = listener.accept()
        with peer:
            peer.recv(1 << 16)
            peer.sendall(wire.FRAME_HEADER.pack(4) + b"what")
            peer.recv(1)

    thread = threading.Thread(target=answer)
    thread.start()
    done = ask(folder, f"tcp:127.0.0.1:{listener.getsockname()[1]}", as_json=False)
    thread.join(10)
    listener.close()
    assert done.code == 2
    assert done.sentence.startswith("MalformedEvidence: At tcp:127.0.0.1:")


def test_the_installed_program_asks_a_disk_of_its_own_and_verifies_what_it_wrote(tmp_path):
    key, image, policy = tmp_path / "key", tmp_path / "disk.eif", tmp_path / "policy.json"
    assert invoke("key", "new", "-o", key).code == 0
    root = ["--root-directory", tmp_path / "root"]
    build = ["--platform", "simulated", "--authority-key-file", key, "-o", image, "--policy", policy]
    assert invoke("image", "build", *build, *root).code == 0

    def program(*words):
        command = [PERDURE, "evidence", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    command = [PERDURE, "disk", "run", "--image", image, "--listen", f"unix:{tmp_path}/d", "--size", "1M", *root]
    disk = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert disk.stdout.readline() == f"listening unix:{tmp_path}/d\n"
        output = tmp_path / "evidence.bin"
        words = [f"unix:{tmp_path}/d", "--authority-key-file", key, "--policy", policy, "--count", "5", "-o", output]
        asked = program("ask", "--json", *words)
        assert asked.code == 0, asked.err
    finally:
        disk.terminate()
        disk.wait(30)
        disk.stdout.close()
    value = asked.json
    assert (value["platform"], value["size_bytes"], value["latency"]["count"]) == ("simulated", 1 << 20, 5)
    verify = ["verify", "--platform", "simulated", "--at", value["time"], "--policy", policy]
    assert program(*verify, "--json", "--report-data", value["report_data"], output).json["report_data"]
    wrong = program(*verify, "--report-data", "00" * 64, output)
    assert (wrong.code, wrong.out) == (3, "")
    assert wrong.sentence.startswith("WrongCommitment: ")


# Joining policies -----------------------------------------------------------------------------------------


SNP_POLICY = Policy(
    (TrustedRoot.builtin("amd-milan", SnpLimits(Tcb(4, 0, 24, 217))),),
    (Measurement.of("amd-milan", {"measurement": b"\1" * 48}),),
    skew_ms_max=1000,
)
NITRO_POLICY = Policy(
    (TrustedRoot.builtin(AWS_NITRO_G1),), (Measurement.enclave(AWS_NITRO_G1, b"\1" * 48, b"\2" * 48, b"\3" * 48),)
)


def merge(folder, *policies, words=()):
    files = [folder.write(f"{index}.json", policy.to_json()) for index, policy in enumerate(policies)]
    return invoke("evidence", "merge-policies", "--json", *files, "-o", folder.path / "joint.json", *words)


def joint(folder):
    return Policy.from_json((folder.path / "joint.json").read_bytes())


def test_a_joint_policy_has_all_roots_and_programs_and_the_smallest_skew(folder):
    done = merge(folder, NITRO_POLICY, SNP_POLICY, tdx.POLICY, words=["--seats-per-root-max", "1"])
    found = joint(folder)
    assert done.code == 0
    assert set(found.roots) == {*NITRO_POLICY.roots, *SNP_POLICY.roots, *tdx.POLICY.roots}
    assert set(found.measurements) == {*NITRO_POLICY.measurements, *SNP_POLICY.measurements, *tdx.POLICY.measurements}
    assert (found.skew_ms_max, found.seats_per_root_max, found.seats_per_domain_max) == (1000, 1, None)
    assert done.json["digest"] == found.digest().hex()
    assert done.json["roots"] == ["amd-milan", "aws-nitro-g1", "test-tdx"]
    assert (done.json["measurements"], done.json["seats_per_root_max"]) == (3, 1)


def test_a_joint_policy_allows_chains_if_all_do_or_if_it_is_told_to(folder):
    allowing = [replace(policy, acknowledgement_chains=True) for policy in (NITRO_POLICY, SNP_POLICY)]
    for policies, words, allows in (
        ((NITRO_POLICY, SNP_POLICY), [], False),
        ((allowing[0], SNP_POLICY), [], False),
        (allowing, [], True),
        ((NITRO_POLICY, SNP_POLICY), ["--acknowledgement-chains"], True),
    ):
        done = merge(folder, *policies, words=words)
        assert (done.code, done.json["acknowledgement_chains"]) == (0, allows)
        assert joint(folder).acknowledgement_chains is allows


def test_what_policies_share_is_there_once(folder):
    program = Measurement.of("amd-milan", {"measurement": b"\2" * 48})
    other = Policy(SNP_POLICY.roots, (*SNP_POLICY.measurements, program))
    assert merge(folder, SNP_POLICY, other, SNP_POLICY).code == 0
    assert joint(folder) == Policy(other.roots, other.measurements, skew_ms_max=1000)
    assert merge(folder, other).code == 0
    assert joint(folder) == other


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (TrustedRoot.builtin("amd-milan", SnpLimits(Tcb(4, 0, 24, 218))), "the platform or limits"),
        (
            TrustedRoot("milan", Platform.SEV_SNP, SNP_POLICY.roots[0].certificate, SnpLimits(Tcb(4, 0, 24, 217))),
            "name",
        ),
    ],
)
def test_roots_that_contradict_each_other_are_a_mistake(folder, other, what):
    done = merge(folder, SNP_POLICY, Policy((other,), ()))
    require_error(done, "Misuse")
    assert what in done.sentence
    assert "0.json" in done.sentence
    assert "1.json" in done.sentence
    assert done.sentence.endswith("Nothing was written.")
    assert not (folder.path / "joint.json").exists()


def test_one_name_for_two_certificates_is_a_mistake(folder):
    others = [SimulatedRoot.create(support.seeded(name)).der for name in "ab"]
    policies = [Policy((TrustedRoot("ours", Platform.SIMULATED, der),), ()) for der in others]
    done = merge(folder, *policies)
    require_error(done, "Misuse")
    assert "name or certificate of root ours" in done.sentence


def test_numbers_of_seats_that_differ_must_be_chosen(folder):
    policies = [Policy((), (), seats_per_root_max=1, seats_per_domain_max=seats) for seats in (2, None)]
    done = merge(folder, *policies)
    require_error(done, "Misuse")
    assert "--seats-per-domain-max" in done.sentence
    assert merge(folder, *policies, words=["--seats-per-domain-max", "3"]).code == 0
    assert (joint(folder).seats_per_root_max, joint(folder).seats_per_domain_max) == (1, 3)
    require_error(merge(folder, *policies, words=["--seats-per-domain-max", "0"]), "Misuse")


# Receipts by machines whose evidence states no time -------------------------------------------------------


COLLATERAL = Collateral((tpm.ISSUER.der,))


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What makes the evidence of simulated disks, and believes it."""

    attest: Callable[[bytes], bytes]
    policy: Policy

    async def verify(self, document, commitment):
        found = Verifier(self.policy, COLLATERAL).verify(document, commitment, support.NOW_MS)
        return SimAttested(str(found.platform), found.root, found.module_id, found.time_ms)


TPMS = Hardware(lambda data: sent_by_tpm(tpm.quote(extra_data=tpm.sized(data[:32]))), tpm.POLICY)
ENCLAVES = Hardware(support.nsm("receipts").attest, support.POLICY)


class RealArray(SimArray):
    """An array of disks on such hardware."""

    def __init__(self, hardware, **shape):
        self.hardware = hardware
        super().__init__(sectors=16, dead_after_ms=200, **shape)
        self.array_id = self._start(
            self.run(create(self.world(), self.new_channels(), self.geometry, hardware.policy.digest()))
        ).array_id
        self.write(0, 77)
        self.settle()

    def new_disk(self, authority=None):
        return SimDisk(self.loop, self.authority.public_key, self.geometry.disk_bytes, evidence=self.hardware)

    def world(self):
        return World(self.authority, self.hardware, self.loop, self.dead_after_ms)

    def receipt(self):
        """The text of the receipt for an erasure of the first sector."""
        return json.dumps(self.run(self.array.erase(0, SECTOR_BYTES)).receipt.to_json())


@pytest.fixture(scope="module")
def timeless():
    return RealArray(TPMS, k=2, n=3).receipt()


def verify_receipt(folder, text, *words, policy=tpm.POLICY, chain=(tpm.ISSUER.der,), as_json=True):
    words = ["--policy", folder.write("policy.json", policy.to_json()), *folder.many("--chain", chain), *words]
    words += ["--json"] if as_json else []
    return invoke("evidence", "verify-receipt", *words, folder.write("receipt.json", text))


def test_a_receipt_without_times_is_judged_at_the_time_that_is_given(folder, timeless):
    done = verify_receipt(folder, timeless, "--at", TPM_AT)
    assert done.code == 0, done.err
    assert done.json["judged_at"] == "2023-11-14T22:13:20.000Z"
    assert [(one["seat"], one["platform"], one["time"]) for one in done.json["witnesses"]] == [
        (seat, "tpm", None) for seat in range(3)
    ]
    text = verify_receipt(folder, timeless, "--at", TPM_AT, as_json=False).out
    assert text.count("  no time stated ") == 3
    assert "Evidence without a time was judged as of 2023-11-14T22:13:20.000Z" in text


def test_a_receipt_without_times_is_judged_now_unless_told_otherwise(folder, timeless):
    require_error(verify_receipt(folder, timeless), "ExpiredEvidence")
    done = verify_receipt(folder, timeless, as_json=False)
    assert (done.code, done.out) == (2, "")
    assert done.sentence.startswith("ExpiredEvidence: ")


def test_a_receipt_may_need_certificates_beside_it(folder, timeless):
    require_error(verify_receipt(folder, timeless, "--at", TPM_AT, chain=()), "UntrustedRoot")
    require_error(verify_receipt(folder, timeless, "--at", "now"), "Misuse")


def test_a_receipt_with_times_is_judged_at_them_whatever_the_time(folder):
    sim = RealArray(ENCLAVES, k=2, n=3)
    text = sim.receipt()
    for words in ((), ("--at", "2031-01-01T00:00:00Z")):
        done = verify_receipt(folder, text, *words, "--array-id", sim.array_id.hex(), policy=support.POLICY)
        assert {one["time"] for one in done.json["witnesses"]} == {"2023-11-14T22:13:20.123Z"}
        assert (done.code, done.json["judged_at"]) == (0, None)
    text = verify_receipt(folder, text, policy=support.POLICY, as_json=False).out
    assert "2023-11-14T22:13:20.123Z" in text
    assert "judged as of" not in text


def test_a_receipt_that_leaves_too_many_exposed_is_not_enough(folder, timeless, monkeypatch):
    def judge(receipt, attest):
        erased = receipts.judge(receipt, attest)
        gone = tuple(Departed(seat, 9, b"gone" * 8) for seat in range(2))
        return dataclasses.replace(erased, receipt=dataclasses.replace(receipt, oldest=1), departed=gone)

    monkeypatch.setattr("perdure.cli.receipt.judge", judge)
    done = verify_receipt(folder, timeless, "--at", TPM_AT)
    require_error(done, "Unproved")
    assert "of 2 seats" in done.sentence


def test_a_receipt_about_something_else_is_refused(folder, timeless):
    require_error(verify_receipt(folder, timeless, "--array-id", "00" * 32), "WrongCommitment", 3)
    require_error(verify_receipt(folder, timeless, policy=support.POLICY), "Misuse")
    require_error(verify_receipt(folder, "{"), "Misuse")
    altered = json.dumps({**json.loads(timeless), "oldest": 99})
    require_error(verify_receipt(folder, altered, "--at", TPM_AT), "Corrupt")
