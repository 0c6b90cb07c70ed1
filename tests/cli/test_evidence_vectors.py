"""`evidence verify` over evidence that real hardware made: what is good is printed as recorded, all else has its error.

Every document is judged without a policy, as by a reader who has nothing but the file.
"""

import json
import subprocess
from datetime import UTC, datetime

import pytest

from perdure.evidence.limits import SnpLimits, Tcb, TdxLimits
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1, Platform
from perdure.evidence.snp.report import Product
from tests.cli.test_evidence import PERDURE, Folder, judged, pem, quote_words, require_error
from tests.evidence.support import ROOT, VECTORS, expected, needs_vectors
from tests.evidence.tpm import support as tpm
from tests.evidence.tpm.test_real_quotes import certify, swtpm_quote

DAY_S = 86_400


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def read(folder, name):
    return (VECTORS / folder / name).read_bytes()


def utc(seconds):
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def only(root):
    """A policy that names one root of the platform: not the one that the evidence hangs on."""
    return Policy((root,), ())


# Nitro and NitroTPM ---------------------------------------------------------------------------------------


NITRO = {name: record for name, record in expected("nitro").items() if record["signature_ok"]}
GOOD = {name: record for name, record in NITRO.items() if not record["debug_mode"]}
DOCUMENTS = [
    *(("nitro", name, record) for name, record in GOOD.items()),
    *(("nitrotpm", name, record) for name, record in expected("nitrotpm").items()),
]
documents = pytest.mark.parametrize(("platform", "name", "record"), DOCUMENTS, ids=[name for _, name, _ in DOCUMENTS])


def judge_document(folder, platform, name, record, *words, data=None, at=None, **options):
    data = read(platform, name) if data is None else data
    return judged(folder, platform, data, *words, at=utc(at or record["verify_at"]), **options)


@needs_vectors("nitro")
@needs_vectors("nitrotpm")
@documents
def test_a_good_document_is_printed_as_recorded(folder, platform, name, record):
    value = judge_document(folder, platform, name, record).json
    pcrs = record.get("nitrotpm_pcrs") or {
        str(index): record["nonzero_pcrs"].get(str(index), "00" * 48) for index in record["pcr_indexes"]
    }
    assert value["measurement"] == {f"pcr{index}": pcr for index, pcr in pcrs.items()}
    assert (value["platform"], value["measurement_checked"]) == (platform, False)
    assert value["root"] == {"nitro": AWS_NITRO_G1, "nitrotpm": "aws-nitrotpm-g1"}[platform]
    assert value["report_data"] == record.get("user_data")
    assert (value["nonce"], value["public_key"]) == (record.get("nonce"), record.get("public_key"))
    assert (value["module_id"], value["time_ms"]) == (record["module_id"], record["timestamp_ms"])
    assert value["module_id"].startswith(f"{value['host']}-")
    assert value["not_after"] == record["valid_until"].replace("+00:00", ".000Z")


@needs_vectors("nitro")
@needs_vectors("nitrotpm")
@documents
def test_what_is_made_of_a_good_document_has_its_error(folder, platform, name, record):
    data = read(platform, name)
    program = bytes.fromhex((record.get("nitrotpm_pcrs") or record["nonzero_pcrs"])["4"])

    def require(error, *words, code=2, **options):
        require_error(judge_document(folder, platform, name, record, *words, **options), error, code)

    require("MalformedEvidence", data=data[:-1])
    require("MalformedEvidence", data=data[: len(data) // 2])
    require("MalformedEvidence", data=data + b"\0")
    require("BadSignature", data=flipped(data, len(data) - 1))
    require("BadSignature", data=flipped(data, data.index(program)))
    require("ExpiredEvidence", at=record["verify_at"] + DAY_S)
    require("ExpiredEvidence", at=record["verify_at"] - DAY_S)
    require("WrongCommitment", "--report-data", "5a" * 64, code=3)
    require("UntrustedRoot", policy=only(TrustedRoot("other", Platform(platform), ROOT.der)))


@needs_vectors("nitro")
@needs_vectors("nitrotpm")
@documents
@pytest.mark.parametrize(("option", "field"), [("--report-data", "user_data"), ("--nonce", "nonce")])
def test_a_document_must_carry_the_nonce_and_the_user_data_that_are_asked_for(
    folder, platform, name, record, option, field
):
    carried = record.get(field)
    if carried is not None:
        assert judge_document(folder, platform, name, record, option, carried).code == 0
        wrong = flipped(bytes.fromhex(carried), len(carried) // 4)
        for other in (wrong, wrong[:-1], bytes.fromhex(carried) + b"\0", b""):
            done = judge_document(folder, platform, name, record, option, other.hex())
            require_error(done, "WrongCommitment", 3)
    else:
        require_error(judge_document(folder, platform, name, record, option, "00"), "WrongCommitment", 3)


@needs_vectors("nitro")
@pytest.mark.parametrize("name", [name for name, record in NITRO.items() if record["debug_mode"]])
def test_a_document_of_an_enclave_in_debug_mode(folder, name):
    require_error(judge_document(folder, "nitro", name, NITRO[name]), "DebugMode")


@needs_vectors("nitro")
def test_a_document_with_a_bad_signature(folder):
    name = "veracruz-2022-11-09-bad-signature.cbor"
    require_error(judge_document(folder, "nitro", name, expected("nitro")[name]), "BadSignature")


@needs_vectors("nitrotpm")
def test_a_document_about_a_machine_is_none_about_an_enclave_and_the_other_way_round(folder):
    for platform, name, record in (DOCUMENTS[0], DOCUMENTS[-1]):
        data, at = read(platform, name), utc(record["verify_at"])
        for other in {"nitro", "nitrotpm", "sev-snp", "tdx"} - {platform}:
            require_error(judged(folder, other, data, at=at), "MalformedEvidence")


# SEV-SNP --------------------------------------------------------------------------------------------------


SIGNED = {name: record for name, record in expected("sev-snp").items() if "report" in record}
DEBUGGED = "milan-vcek-v2-go-sev-guest"
"""Its guest policy, 0xb0000, has the bit for debugging (19)."""
REPORTS = {name: record for name, record in SIGNED.items() if name != DEBUGGED}
SNP_AT = 1_746_057_600  # 2025-05-01, inside of every certificate
reports = pytest.mark.parametrize(("name", "record"), REPORTS.items(), ids=REPORTS)


def judge_report(folder, record, *words, data=None, at=SNP_AT, chain=None, **options):
    data = read("sev-snp", record["report"]) if data is None else data
    chain = [read("sev-snp", record["ek"])] if chain is None else chain
    return judged(folder, "sev-snp", data, *words, at=utc(at), chain=chain, **options)


@needs_vectors("sev-snp")
@reports
def test_a_good_report_is_printed_as_recorded(folder, name, record):
    fields, product = record["fields"], Product(name.partition("-")[0].title())
    for chain in (None, [pem(read("sev-snp", record["ek"])), read("roots", record["chain"].partition("/")[2])]):
        done = judge_report(folder, record, "--report-data", fields["report_data"], chain=chain)
        assert (done.code, done.err) == (0, "")
    value = done.json
    registers = ("measurement", "host_data", "id_key_digest", "author_key_digest")
    assert value["measurement"] == {register: fields[register] for register in registers}
    assert (value["report_data"], value["root"]) == (fields["report_data"], f"amd-{product.lower()}")
    assert (value["time"], value["not_after"]) == (None, record["ek_valid_until"].replace("+00:00", ".000Z"))
    assert (value["measurement_checked"], value["limits_checked"]) == (False, False)
    tcbs = {which: bytes.fromhex(fields[f"{which}_tcb"]) for which in ("reported", "current", "committed", "launch")}
    # Milan and Genoa: boot loader, TEE, four that are reserved, SNP, microcode.
    assert value["limits"]["tcb"] == {
        which: {"bootloader": raw[0], "tee": raw[1], "snp": raw[6], "microcode": raw[7], "fmc": 0}
        for which, raw in tcbs.items()
    }
    guest, processor = int(fields["policy"], 16), int(fields["plat"], 16)
    assert value["limits"]["vmpl"] == fields["vmpl"]
    assert value["limits"]["smt"] is bool(guest >> 16 & 1 or processor & 1)
    assert value["limits"]["alias_checked"] is bool(processor >> 5 & 1)
    csp_id = record["ek_ext_der"].get("1.5")
    assert value["limits"]["csp_id"] == (None if csp_id is None else bytes.fromhex(csp_id)[2:].decode())
    assert (value["host"] is None) is not any(bytes.fromhex(fields["chip_id"]))


@needs_vectors("sev-snp")
@reports
def test_what_is_made_of_a_good_report_has_its_error(folder, name, record):
    data = read("sev-snp", record["report"])

    def require(error, *words, code=2, **options):
        require_error(judge_report(folder, record, *words, **options), error, code)

    require("MalformedEvidence", data=data[:-1])
    require("MalformedEvidence", data=data + b"\0")
    require("BadSignature", data=flipped(data, 0x90))
    require("BadSignature", data=flipped(data, 0x2A0))
    require("MissingCollateral", chain=[])
    require("ExpiredEvidence", at=SNP_AT + 10 * 366 * DAY_S)
    require("ExpiredEvidence", at=SNP_AT - 5 * 366 * DAY_S)
    require("WrongCommitment", "--report-data", "5a" * 64, code=3)
    other = TrustedRoot.builtin("amd-turin", SnpLimits(Tcb(0, 0, 0, 0)))
    require("UntrustedRoot", policy=only(other))


@needs_vectors("sev-snp")
def test_a_report_of_a_guest_that_may_be_debugged(folder):
    record = SIGNED[DEBUGGED]
    require_error(judge_report(folder, record), "DebugMode")
    altered = flipped(read("sev-snp", record["report"]), 0x90)
    require_error(judge_report(folder, record, data=altered), "BadSignature")


# TDX ------------------------------------------------------------------------------------------------------


QUOTE = "dcap-qvl-v4"


def judge_quote(folder, name=QUOTE, *words, data=None, at=None, collateral=None, **options):
    record = expected("tdx")[name]
    data = read("tdx", f"{name}.quote") if data is None else data
    collateral = [read("tdx", record["collateral"])] if collateral is None else collateral
    return judged(folder, "tdx", data, *words, at=utc(at or record["verify_at"]), collateral=collateral, **options)


@needs_vectors("tdx")
def test_a_good_quote_is_printed_as_recorded(folder):
    record = expected("tdx")[QUOTE]
    value = judge_quote(folder, QUOTE, "--report-data", record["report_data"]).json
    recorded = {"mrtd": "mr_td", "mrconfigid": "mr_config_id", **{f"rtmr{at}": f"rtmr{at}" for at in range(4)}}
    assert {name: value["measurement"][name] for name in recorded} == {
        name: record[there] for name, there in recorded.items()
    }
    assert set(value["measurement"]) == {*recorded, "mrowner", "mrownerconfig"}
    assert (value["report_data"], value["root"], value["time"]) == (record["report_data"], "intel-sgx", None)
    assert value["limits"] == {"statuses": [record["dcap_qvl_0_7_0"]["status"]]}
    assert (value["measurement_checked"], value["limits_checked"]) == (False, False)


@needs_vectors("tdx")
def test_what_is_made_of_a_good_quote_has_its_error(folder):
    record = expected("tdx")[QUOTE]
    data, text = read("tdx", f"{QUOTE}.quote"), read("tdx", record["collateral"]).decode()

    def require(error, *words, code=2, **options):
        require_error(judge_quote(folder, QUOTE, *words, **options), error, code)

    require("MalformedEvidence", data=data[: len(data) // 2])
    require("MalformedEvidence", data=data + b"\1")
    require("BadSignature", data=flipped(data, 200))  # in the body
    require("BadSignature", data=flipped(data, 48 + 584 + 4 + 10))  # in the signature
    require("ExpiredEvidence", at=record["verify_at"] + 31 * DAY_S)
    require("MissingCollateral", collateral=[])
    altered = json.loads(text)
    altered["tcb_info"] = altered["tcb_info"].replace('"tcbEvaluationDataNumber":1', '"tcbEvaluationDataNumber":2')
    assert altered["tcb_info"] not in text
    require("BadSignature", collateral=[json.dumps(altered)])
    require("WrongCommitment", "--report-data", "5a" * 64, code=3)
    require("UntrustedRoot", policy=only(TrustedRoot("other", Platform.TDX, ROOT.der, TdxLimits())))


@needs_vectors("tdx")
def test_quotes_that_are_not_good(folder):
    require_error(judge_quote(folder, "trustee-v4-debug-td"), "DebugMode")
    other = read("tdx", "go-tdx-guest-v5.quote")  # of another kind of processor than the statements
    require_error(judge_quote(folder, QUOTE, data=other, at=1_772_323_200), "MissingCollateral")


# TPM ------------------------------------------------------------------------------------------------------


@needs_vectors("tpm")
def test_a_software_tpms_quote_is_good_but_for_the_firmware_that_it_lacks(folder):
    quote, chain = swtpm_quote(), certify(read("tpm", "swtpm-ak.pem"))

    def judge(attest=quote.attest, signature=quote.signature, pcrs=quote.pcrs):
        words = quote_words(folder, tpm.Quote(attest, signature, pcrs))
        return judged(folder, "tpm", attest, *words, at=utc(tpm.NOW_MS // 1000), chain=chain, roots=[tpm.ROOT.der])

    require_error(judge(), "ForbiddenLaunch")
    require_error(judge(attest=quote.attest[:-1]), "MalformedEvidence")
    require_error(judge(attest=flipped(quote.attest, 50)), "BadSignature")
    require_error(judge(signature=flipped(quote.signature, 20)), "BadSignature")
    require_error(judge(pcrs=flipped(quote.pcrs, 0)), "BadSignature")
    require_error(judge(pcrs=quote.pcrs[:-1]), "MalformedEvidence")


# The program itself ---------------------------------------------------------------------------------------


@needs_vectors("nitro")
def test_the_installed_program_exits_0_for_what_is_good_and_only_then():
    name, record = next(iter(GOOD.items()))
    words = [PERDURE, "evidence", "verify", "--platform", "nitro", "--at"]
    for at, code in ((record["verify_at"], 0), (record["verify_at"] + DAY_S, 2)):
        command = [*words, utc(at), VECTORS / "nitro" / name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code
        if code:
            assert done.stdout == ""
            assert done.stderr.startswith("perdure: ExpiredEvidence: ")
        else:
            assert done.stderr == ""
            assert record["module_id"] in done.stdout
