"""`image fetch`, `build` and `measure`: what they print, what they write, and each refusal's sentence."""

import hashlib
import json
import os
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from perdure.array.commands import Authority
from perdure.cli.main import run
from perdure.errors import Unavailable
from perdure.evidence.limits import Tcb
from perdure.evidence.policy import Policy
from perdure.evidence.roots import BUILTIN_CERTIFICATES, Platform
from perdure.image import build, cpio, eif, expected
from perdure.service import images
from tests.evidence.support import VECTORS, needs_vectors
from tests.image.firmware import firmware
from tests.image.packages import RUNTIME
from tests.image.test_eif import SIGNER, UNSIGNED, entry, signed
from tests.image.test_platforms import AUTHORITY, KERNEL, MODULES, inputs

REGISTER = {"pcr0": "a0" * 32, "pcr2": "a2" * 32, "pcr4": "a4" * 32}
TDX = {"mrtd": "b0" * 48, "rtmr0": "b1" * 48, "rtmr1": "b2" * 48, "rtmr2": "b3" * 48}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder of the inputs, which is the current one; what stands in it before is in `given`."""
    folder = inputs(tmp_path / "inputs", list)
    (folder / "firmware").write_bytes(firmware())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a cloud's TPMs")])
    day = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + timedelta(days=30))
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "root.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "root.der").write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def invoke(capsys):
    def invoke(*words, code=0):
        found = run([str(word) for word in words])
        captured = capsys.readouterr()
        assert found == code, captured.err
        return captured.out, captured.err

    return invoke


USUAL = ("--kernel", "kernel", "--init-blobs", "blobs", "--runtime", "runtime", "--public-key", AUTHORITY.hex())


@pytest.fixture
def make(invoke):
    """`image build --json -o image` for a platform; what it printed."""

    def make(platform, *words, usual=USUAL):
        out, err = invoke("image", "build", "--json", "--platform", platform, *usual, "-o", "image", *words)
        assert err == ""
        return json.loads(out)

    return make


@pytest.fixture
def refused(invoke, here):
    """A build that must be refused in one sentence, and must not write anything; the sentence."""

    def refused(platform, *words, usual=USUAL):
        before = sorted(os.listdir("."))
        words = ("image", "build", "--json", "--platform", platform, *usual, "-o", "image", *words)
        out, err = invoke(*words, code=2)
        assert err.startswith("perdure: ")
        assert err.count("\n") == 1
        sentence = err.removeprefix("perdure: ").strip()
        assert json.loads(out)["error"] == {"class": "Misuse", "message": sentence, "exit_code": 2}
        assert sorted(os.listdir(".")) == before
        return sentence

    return refused


def program(platform):
    return build.program_ramdisk(platform, RUNTIME, MODULES)


def policy():
    return Policy.from_json(Path("policy.json").read_bytes())


# Builds ------------------------------------------------------------------------------------------------------


def test_an_enclave(here, make):
    printed = make("nitro", "--policy", "policy.json")
    image = Path("image").read_bytes()
    assert image == build.build_nitro(KERNEL, b"panic=1", program(Platform.NITRO), AUTHORITY)
    pcrs = eif.measure(eif.parse(image))
    registers = {"pcr0": pcrs.pcr0.hex(), "pcr1": pcrs.pcr1.hex(), "pcr2": pcrs.pcr2.hex()}
    assert printed == {"image": "image", "cmdline": "panic=1", "policy": "policy.json", **registers}
    (root,) = policy().roots
    assert (root.name, root.certificate) == ("aws-nitro-g1", BUILTIN_CERTIFICATES["aws-nitro-g1"][1])
    (measurement,) = policy().measurements
    assert {name: value.hex() for name, value in measurement.registers} == registers


def test_an_enclaves_command_line_is_the_given_one_then_the_blobs_then_awss(here, make):
    assert make("nitro", "--cmdline", "mine")["cmdline"] == "mine"
    assert make("nitro", "--cmdline", "")["cmdline"] == ""
    assert eif.parse(Path("image").read_bytes()).cmdline == b""
    assert make("nitro")["cmdline"] == "panic=1"
    (here / "blobs" / "cmdline").unlink()
    assert make("nitro")["cmdline"] == build.NITRO_CMDLINE.decode()
    assert eif.parse(Path("image").read_bytes()).cmdline == build.NITRO_CMDLINE
    without = ("--kernel", "kernel", "--runtime", "runtime", "--public-key", AUTHORITY.hex())
    assert make("nitro", usual=without)["cmdline"] == build.NITRO_CMDLINE.decode()
    assert json.loads(cpio.unpack(eif.parse(Path("image").read_bytes()).ramdisks[0])["boot.json"])["modules"] == []


def test_an_enclaves_policy_may_ask_for_more_registers(here, make):
    printed = make("nitro", "--policy", "policy.json", "--register", f"pcr3={'33' * 48}", "--root", "aws-nitro-g1")
    assert printed["pcr3"] == "33" * 48
    assert dict(policy().measurements[0].registers)["pcr3"] == b"\x33" * 48


def test_a_machine_with_a_tpm(here, make):
    known = [word for name, value in REGISTER.items() for word in ("--register", f"{name}={value}")]
    words = ("--cmdline", "console=ttyS0", "--policy", "policy.json", "--root-certificate")
    printed = make("tpm", *words, "root.pem", *known)
    image = Path("image").read_bytes()
    assert image == build.build_initramfs(program(Platform.TPM), AUTHORITY)
    pcr9 = expected.tpm_pcr9("console=ttyS0", image).hex()
    assert printed == {
        "image": "image", "cmdline": "console=ttyS0", "policy": "policy.json", "pcr9": pcr9, **REGISTER,
    }  # fmt: skip
    (root,) = policy().roots
    assert (root.name, root.platform, root.certificate) == ("tpm-root", Platform.TPM, Path("root.der").read_bytes())
    found = {name: value.hex() for name, value in policy().measurements[0].registers}
    assert found == {"pcr9": pcr9, **REGISTER}
    first = Path("policy.json").read_bytes()
    make("tpm", *words, "root.der", *known)
    assert Path("policy.json").read_bytes() == first


def test_a_machine_with_sev_snp(here, make):
    words = ("--firmware", "firmware", "--cpus", "3", "--cpu-type", "EPYC-Milan")
    printed = make("sev-snp", *words, "--policy", "policy.json", "--root", "amd-milan", "--tcb-min", "4.0.24.219")
    image = Path("image").read_bytes()
    assert image == build.build_initramfs(program(Platform.SEV_SNP), AUTHORITY)
    measurement = expected.sev_snp(
        firmware=Path("firmware"),
        kernel=Path("kernel"),
        initramfs=image,
        cmdline="panic=1",
        cpu_count=3,
        cpu_type="EPYC-Milan",
    ).hex()
    assert printed == {"image": "image", "cmdline": "panic=1", "policy": "policy.json", "measurement": measurement}
    (root,) = policy().roots
    assert (root.name, root.limits.tcb_min) == ("amd-milan", Tcb(4, 0, 24, 219))
    assert dict(policy().measurements[0].registers) == {"measurement": bytes.fromhex(measurement)}


def test_a_processor_with_five_numbers(here, make):
    words = ("--firmware", "firmware", "--cpu-type", "EPYC-Turin", "--policy", "policy.json", "--root", "amd-turin")
    make("sev-snp", *words, "--tcb-min", "1.2.3.4.5")
    assert policy().roots[0].limits.tcb_min == Tcb(bootloader=1, tee=2, snp=3, microcode=4, fmc=5)


def test_sev_snp_without_firmware_waits_for_a_first_boot(here, make, invoke):
    assert make("sev-snp") == {"image": "image", "cmdline": "panic=1", "policy": None}
    out, _ = invoke("image", "build", "--platform", "sev-snp", *USUAL, "-o", "image")
    assert out == "What will be measured depends on firmware and machine: boot it once, then `perdure evidence ask`.\n"


def test_a_machine_with_tdx(here, make):
    known = [word for name, value in TDX.items() for word in ("--register", f"{name}={value}")]
    printed = make("tdx", *known, "--policy", "policy.json")
    assert printed == {"image": "image", "cmdline": "panic=1", "policy": "policy.json", **TDX}
    assert Path("image").read_bytes() == build.build_initramfs(program(Platform.TDX), AUTHORITY)
    (root,) = policy().roots
    assert (root.name, root.platform) == ("intel-sgx", Platform.TDX)
    assert {name: value.hex() for name, value in policy().measurements[0].registers} == TDX


def test_a_key_file_gives_the_image_of_its_public_half(here, make):
    Path("key.file").write_text("11" * 32 + "\n")
    Path("key.file").chmod(0o600)
    public = Authority(b"\x11" * 32).public_key
    with_file = make("nitro", usual=(*USUAL[:6], "--authority-key-file", "key.file"))
    image = Path("image").read_bytes()
    assert with_file == make("nitro", usual=(*USUAL[:6], "--public-key", public.hex()))
    assert Path("image").read_bytes() == image
    assert b"\x11" * 32 not in image


def test_text_for_people(here, invoke):
    out, _ = invoke("image", "build", "--platform", "nitro", *USUAL, "-o", "image")
    pcrs = eif.measure(eif.parse(Path("image").read_bytes()))
    assert out == f"PCR0 {pcrs.pcr0.hex()}\nPCR1 {pcrs.pcr1.hex()}\nPCR2 {pcrs.pcr2.hex()}\n"


# Written whole -----------------------------------------------------------------------------------------------


def test_files_are_for_everyone_to_read_and_replaced_whole(here, make):
    Path("image").write_bytes(b"old")
    old = Path("image").stat().st_ino
    umask = os.umask(0o022)
    try:
        make("nitro", "--policy", "policy.json")
    finally:
        os.umask(umask)
    assert Path("image").stat().st_ino != old
    assert [stat.S_IMODE(Path(name).stat().st_mode) for name in ("image", "policy.json")] == [0o644, 0o644]
    assert not [name for name in os.listdir(".") if name.startswith(".")]


def test_a_disk_that_is_full_leaves_the_old_image(here, invoke, monkeypatch):
    Path("image").write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    _, err = invoke("image", "build", "--platform", "nitro", *USUAL, "-o", "image", code=2)
    assert "No space left on device" in err
    assert Path("image").read_bytes() == b"old"


# Refusals ----------------------------------------------------------------------------------------------------

NITRO_ROOT = ("--policy", "policy.json", "--root")


@pytest.mark.parametrize(
    ("platform", "words", "sentence"),
    [
        ("nitro", (*NITRO_ROOT, "amd-milan"), "A policy for nitro needs its root, by --root or --root-certificate"),
        ("tdx", (*NITRO_ROOT, "aws-nitro-g1"), "A policy for tdx needs its root"),
        ("tpm", ("--policy", "policy.json"), "A policy for tpm needs its root"),
        ("sev-snp", ("--policy", "policy.json", "--tcb-min", "1.2.3.4"), "A policy for sev-snp needs its root"),
        ("sev-snp", (*NITRO_ROOT, "amd-milan"), "A policy for sev-snp needs --tcb-min as bootloader.tee.snp.microcode"),
        ("sev-snp", (*NITRO_ROOT, "amd-milan", "--tcb-min", "1.2.3"), "A policy for sev-snp needs --tcb-min"),
        ("sev-snp", (*NITRO_ROOT, "amd-milan", "--tcb-min", "1.2.3.x"), "A policy for sev-snp needs --tcb-min"),
        ("sev-snp", (*NITRO_ROOT, "amd-milan", "--tcb-min", "1.2.3.4.5.6"), "A policy for sev-snp needs --tcb-min"),
        ("sev-snp", (*NITRO_ROOT, "amd-milan", "--tcb-min", "-1.2.3.4"), "A policy for sev-snp needs --tcb-min"),
        ("sev-snp", (*NITRO_ROOT, "amd-milan", "--tcb-min", "1.2.3.256"), "tcb_min.microcode is a whole number"),
        (
            "sev-snp",
            (*NITRO_ROOT, "amd-milan", "--tcb-min", "1.2.3.4"),
            "needs the register measurement: name the --firmware",
        ),
        ("tdx", ("--policy", "policy.json"), "needs the register mrtd: boot it where you trust"),
        ("tpm", ("--policy", "policy.json", "--root-certificate", "root.pem"), "and add --register pcr0=HEX. Nothing"),
        ("tpm", ("--policy", "policy.json", "--root-certificate", "kernel"), "kernel is not an X.509 certificate"),
        ("tpm", ("--policy", "policy.json", "--root-certificate", "none"), "The certificate none cannot be read"),
        ("tpm", ("--register", "pcr24=00"), "--register 'pcr24=00' is not a register of tpm"),
        (
            "tpm",
            ("--register", f"pcr4={'a4' * 48}"),
            "is not a register of tpm with its value; there are pcr0, pcr2, pcr4",
        ),
        ("tpm", ("--register", "pcr4"), "--register 'pcr4' is not a register of tpm"),
        ("tpm", ("--register", "="), "--register '=' is not a register of tpm"),
        ("tpm", ("--register", ""), "--register '' is not a register of tpm"),
        ("tpm", ("--register", "pcr4=xy"), "--register 'pcr4=xy' is not a register of tpm"),
        ("nitro", ("--register", "mrtd=00"), "--register 'mrtd=00' is not a register of nitro"),
        ("sev-snp", ("--firmware", "none"), "The measurement cannot be computed"),
        ("sev-snp", ("--firmware", "kernel"), "The measurement cannot be computed"),
        ("sev-snp", ("--firmware", "firmware", "--cpu-type", "i486"), "'i486' is no processor that SEV-SNP runs on"),
        ("sev-snp", ("--cpus", "0"), "0 is not in the range"),
        ("nitro", ("--kernel", "none"), "The kernel none cannot be read"),
        ("nitro", ("--runtime", "none"), "is missing; `perdure image fetch` brings it"),
        ("nitro", ("--runtime", "blobs"), "is missing; `perdure image fetch` brings it"),
        ("nitro", ("--public-key", "zz"), "--public-key is not hexadecimal"),
        ("nitro", ("--public-key", "00" * 33), "The authority is not a point of secp256k1"),
        ("nitro", ("--public-key", ""), "The authority is not a point of secp256k1"),
        ("nitro", ("--authority-key-file", "key"), "Name the authority by one of"),
        ("nitro", ("-o", "none/image"), "The file none/image cannot be written"),
        ("enclave", (), "'enclave' is not one of"),
        ("nitrotpm", (), "'nitrotpm' is not one of"),
    ],
)
def test_refuses(platform, words, sentence, refused):
    assert sentence in refused(platform, *words)


def without(name):
    at = USUAL.index(name)
    return (*USUAL[:at], *USUAL[at + 2 :])


@pytest.mark.parametrize("platform", build.BOOTS)
def test_each_platform_needs_a_kernel(platform, refused):
    assert (
        refused(platform, usual=without("--kernel")) == f"An image for {platform} needs --kernel; nothing was written."
    )


def test_the_python_of_an_image_comes_from_the_cache_unless_it_is_named(here, invoke, monkeypatch):
    fetched = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))

    def fetch(directory):
        fetched.append(directory)
        directory.parent.mkdir(parents=True)
        shutil.copytree(here / "runtime", directory)

    monkeypatch.setattr(images, "fetch", fetch)
    build_ = ("image", "build", "--platform", "nitro", "-o")
    invoke(*build_, "cached.eif", *without("--runtime"))
    assert fetched == [here / "cache" / "perdure" / "runtime"]
    invoke(*build_, "named.eif", *USUAL)
    assert (here / "cached.eif").read_bytes() == (here / "named.eif").read_bytes()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(here))
    assert images.cached_runtime() == here / ".cache" / "perdure" / "runtime"


def test_an_authority_must_be_named(refused):
    assert "Name the authority by one of" in refused("nitro", usual=USUAL[:6])


def test_a_list_of_modules_that_leaves_the_folder_is_refused(here, refused):
    (here / "blobs" / "modules").write_text("../kernel")
    assert "names '../kernel', which is no file in" in refused("nitro")


def test_another_package_than_the_locks_is_refused(here, refused):
    (here / "runtime" / "libc6.deb").write_bytes(b"x")
    assert "libc6.deb is not version 1 that the lock pins" in refused("nitro")


@pytest.mark.parametrize(
    ("platform", "register"), [("nitro", f"pcr0={'00' * 48}"), ("tpm", f"pcr9={'00' * 32}")]
)  # fmt: skip
def test_a_register_that_contradicts_the_image_is_refused(platform, register, refused):
    """Else the policy accepts another program than the one that was built."""
    refused(platform, "--register", register)


def test_a_command_line_that_is_no_text_is_refused(here, refused):
    (here / "blobs" / "cmdline").write_bytes(b"panic=1 \xe9")
    refused("nitro")
    (here / "blobs" / "cmdline").unlink()
    assert "not ASCII text" in refused("nitro", "--cmdline", "panic=1 \u00e9")


# Measure -----------------------------------------------------------------------------------------------------


@needs_vectors("eif")
def test_images_of_other_tools_are_measured(invoke):
    records = json.loads((VECTORS / "eif" / "synthetic-expected.json").read_text())
    for name, record in records.items():
        path = VECTORS / "eif" / name
        out, _ = invoke("image", "measure", "--json", path)
        registers = {f"pcr{number}": record[f"PCR{number}"] for number in range(3)}
        assert json.loads(out) == {"image": str(path), **registers}
        out, _ = invoke("image", "measure", path)
        assert out == "".join(f"{register.upper()} {value}\n" for register, value in registers.items())


def test_a_signed_image_has_pcr8_too(tmp_path, invoke):
    (tmp_path / "signed.eif").write_bytes(signed(entry(SIGNER, UNSIGNED.pcr0)))
    printed = json.loads(invoke("image", "measure", "--json", tmp_path / "signed.eif")[0])
    der = SIGNER[1].public_bytes(serialization.Encoding.DER)
    assert printed["pcr8"] == hashlib.sha384(bytes(48) + hashlib.sha384(der).digest()).hexdigest()
    assert printed["pcr0"] == UNSIGNED.pcr0.hex()
    assert "\nPCR8 " in invoke("image", "measure", tmp_path / "signed.eif")[0]


def test_what_was_built_is_measured_as_it_was_printed(here, make, invoke):
    built = make("nitro")
    measured = json.loads(invoke("image", "measure", "--json", "image")[0])
    assert measured == {"image": "image", **{name: built[name] for name in ("pcr0", "pcr1", "pcr2")}}


@pytest.mark.parametrize("what", ["cut", "changed", "initramfs", "empty", "absent", "long"])
def test_a_file_that_is_no_image_is_told_in_one_sentence(what, here, make, invoke, monkeypatch):
    make("nitro")
    image = Path("image").read_bytes()
    changed = image[:-9] + bytes([image[-9] ^ 1]) + image[-8:]
    contents = {"cut": image[:-1], "changed": changed, "initramfs": cpio.pack({}), "empty": b"", "long": image}
    Path("image").unlink()
    if what != "absent":
        Path("image").write_bytes(contents[what])
    if what == "long":
        monkeypatch.setattr("perdure.cli.image.IMAGE_BYTES_MAX", 100)
    out, err = invoke("image", "measure", "--json", "image", code=2)
    assert err.startswith("perdure: The ")
    assert err.count("\n") == 1
    assert json.loads(out)["error"]["class"] == "Misuse"


# Fetch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newest", [False, True])
def test_fetch_tells_what_it_brought(newest, here, invoke, monkeypatch):
    asked = []

    def fetch(directory, *, newest):
        asked.append((directory, newest))
        return ["libc6", "coincurve"]

    monkeypatch.setattr("perdure.service.images.fetch", fetch)
    words = ["--newest"] if newest else []
    out, err = invoke("image", "fetch", "--json", *words, "folder")
    assert json.loads(out) == {"directory": "folder", "fetched": ["libc6", "coincurve"], "newest": newest}
    assert err == "fetching the packages of the image's Python\n"
    assert invoke("image", "fetch", *words, "folder")[0] == "folder is complete; 2 packages were fetched.\n"
    assert asked == [(Path("folder"), newest)] * 2


def test_fetch_that_fails_is_one_sentence_and_may_be_tried_again(here, invoke, monkeypatch):
    def fetch(directory, *, newest):
        raise Unavailable("Version 1 of libc6 cannot be fetched (no network).")

    monkeypatch.setattr("perdure.service.images.fetch", fetch)
    code = run(["image", "fetch", "folder"])
    assert code == Unavailable("x").exit_code
