"""`image fetch`, `build` and `measure`: disk images and what hardware says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from perdure.cli import output
from perdure.cli.options import DIRECTORY, FILE, verb
from perdure.errors import Misuse
from perdure.evidence.limits import SnpLimits, Tcb, TdxLimits
from perdure.evidence.measurement import REGISTERS
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1, BUILTIN_CERTIFICATES, Platform
from perdure.image import build as images
from perdure.image import eif, expected
from perdure.service import images as inputs
from perdure.service.site import artefacts, local
from perdure.simtee.pki import SimulatedRoot
from perdure.simtee.tpm import TpmRoot

IMAGE_BYTES_MAX: Final = 1 << 32
PLATFORMS: Final = (Platform.SIMULATED, *images.BOOTS)


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group("image")
    def image() -> None:
        """Build and measure disk images."""

    @verb(image, "fetch", "perdure image fetch runtime")
    @click.option("--newest", is_flag=True, help="Take the versions that there are now, and lock these in DIRECTORY.")
    @click.argument("directory", type=DIRECTORY)
    def fetch(directory: Path, newest: bool, as_json: bool) -> int:
        """Bring the packages of the image's Python into DIRECTORY, each compared with the hash that is locked."""
        with output.progress("fetching the packages of the image's Python"):
            fetched = inputs.fetch(directory, newest=newest)
        value = {"directory": str(directory), "fetched": fetched, "newest": newest}
        output.result(value, f"{directory} is complete; {len(fetched)} packages were fetched.", as_json=as_json)
        return 0

    @verb(
        image,
        "build",
        "perdure image build --platform nitro --kernel bzImage --init-blobs blobs \\\n"
        "    --authority-key-file authority.key -o disk.eif --policy measurements.json",
    )
    @click.option("--platform", required=True, type=click.Choice([one.value for one in PLATFORMS]), help="Its TEE.")
    @click.option("--authority-key-file", type=FILE, help="The authority's key file; only its public half is used.")
    @click.option("--public-key", metavar="HEX", help="Instead: the public half, 33 bytes compressed, in hexadecimal.")
    @click.option("--kernel", type=FILE, help="The kernel (bzImage).")
    @click.option("--init-blobs", type=DIRECTORY, help="The kernel's modules, and its command line if not --cmdline.")
    @click.option(
        "--runtime",
        type=DIRECTORY,
        help="The packages of the image's Python, from `perdure image fetch`.  [default: fetched into the cache]",
    )
    @click.option("--cmdline", help="The kernel's command line.  [default: the blobs', else AWS's for Nitro]")
    @click.option("-o", "--output", "output_file", required=True, type=FILE, help="Where EIF or initramfs goes.")
    @click.option("--policy", "policy_file", type=FILE, help="Also write a policy that accepts these registers alone.")
    @click.option("--root-directory", type=DIRECTORY, help="Simulated: the platform's root, made if absent.")
    @click.option("--with-tpm", is_flag=True, help="Simulated: the policy accepts it on machines with a TPM too.")
    @click.option("--root", "root_name", type=click.Choice(list(BUILTIN_CERTIFICATES)), help="For --policy: the root.")
    @click.option("--root-certificate", type=FILE, help="Instead: a root of your own (DER or PEM), for TPMs.")
    @click.option("--firmware", type=FILE, help="SEV-SNP: the OVMF file that takes the kernel's hashes.")
    @click.option("--cpus", type=click.IntRange(1, 512), default=2, show_default=True, help="SEV-SNP: processors.")
    @click.option("--cpu-type", default="EPYC-v4", show_default=True, help="SEV-SNP: QEMU's name of the processor.")
    @click.option("--tcb-min", metavar="B.T.S.M[.F]", help="SEV-SNP: least bootloader, TEE, SNP, microcode, FMC.")
    @click.option("--register", "registers", multiple=True, metavar="NAME=HEX", help="A register that you know.")
    def build(as_json: bool, **given: Any) -> int:  # noqa: ANN401  (what click gives)
        """Build a disk image for an authority, print its measurement, and write the policy that accepts it.

        Same inputs, same bytes. Nitro gets an EIF; SEV-SNP, TDX and TPM an initramfs that boots with the same kernel
        and command line. Registers that depend on firmware or machine come from a first boot that you trust
        (`perdure evidence ask`): add them with --register.
        """
        platform = Platform(given["platform"])
        authority = _public_key(given["authority_key_file"], given["public_key"])
        built = _simulated(given, authority) if platform is Platform.SIMULATED else _real(platform, given, authority)
        output_file, policy_file = given["output_file"], given["policy_file"]
        artefacts.write_atomic(output_file, built.data, 0o644)
        if built.policy is not None:
            artefacts.write_atomic(policy_file, built.policy.to_json(), 0o644)
        policy = None if policy_file is None else str(policy_file)
        _show(built.registers, as_json=as_json, image=str(output_file), cmdline=built.cmdline, policy=policy)
        return 0

    @verb(image, "measure", "perdure image measure disk.eif")
    @click.argument("file", type=FILE)
    def measure(file: Path, as_json: bool) -> int:
        """Print what Nitro, or the simulated platform, measures of an image (EIF), whoever built it."""
        parts = eif.parse(artefacts.read_bounded(file, "image", bytes_max=IMAGE_BYTES_MAX))
        _show(_pcrs(parts), as_json=as_json, image=str(file))
        return 0


@dataclass(frozen=True, slots=True)
class _Built:
    """An image, what is known of its measurement, and the policy if one was asked for; `cmdline` of a real kernel."""

    data: bytes
    registers: Mapping[str, bytes]
    policy: Policy | None
    cmdline: str | None


def _simulated(given: Mapping[str, Any], authority: bytes) -> _Built:
    policy_file, root_directory = given["policy_file"], given["root_directory"]
    if (policy_file is None) is not (root_directory is None):
        raise Misuse("--policy and --root-directory go together: a policy names the root; nothing was written.")
    data = images.build_simulated(authority)
    policy = None
    if policy_file is not None:
        tpm_root = TpmRoot.load_or_create(root_directory).der if given["with_tpm"] else None
        policy = local.policy_of(data, SimulatedRoot.load_or_create(root_directory).der, tpm_root)
    return _Built(data, _pcrs(eif.parse(data)), policy, None)


def _real(platform: Platform, given: Mapping[str, Any], authority: bytes) -> _Built:
    if given["kernel"] is None:
        raise Misuse(f"An image for {platform} needs --kernel; nothing was written.")
    kernel = inputs.read_kernel(given["kernel"])
    blobs = inputs.Blobs({}, None) if given["init_blobs"] is None else inputs.read_blobs(given["init_blobs"])
    nitros = images.NITRO_CMDLINE.decode() if platform is Platform.NITRO else ""
    cmdline = next(one for one in (given["cmdline"], blobs.cmdline, nitros) if one is not None)
    if not cmdline.isascii():
        raise Misuse("The kernel's command line is not ASCII text; nothing was written.")
    program = images.program_ramdisk(platform, inputs.read_runtime(_runtime(given["runtime"])), blobs.modules)
    if platform is Platform.NITRO:
        data = images.build_nitro(kernel, cmdline.encode(), program, authority)
        registers = _pcrs(eif.parse(data))
    else:
        data = images.build_initramfs(program, authority)
        registers = _machine_registers(platform, given, data, cmdline)
    for name, value in _given_registers(platform, given["registers"]).items():
        if registers.setdefault(name, value) != value:
            raise Misuse(f"--register {name} is not what this image has, {registers[name].hex()}; nothing was written.")
    policy = None
    if given["policy_file"] is not None:
        root = _root(platform, given)
        _require_known(platform, registers)
        policy = inputs.policy_of(root, registers)
    return _Built(data, registers, policy, cmdline)


def _require_known(platform: Platform, registers: Mapping[str, bytes]) -> None:
    missing = [name for name in REGISTERS[platform].required if name not in registers]
    if missing:
        how = "boot it where you trust the machine, ask it with `perdure evidence ask`, and add"
        how = f"{how} --register {missing[0]}=HEX"
        if platform is Platform.SEV_SNP:
            how = "name the --firmware that takes the kernel's hashes"
        raise Misuse(f"A policy for {platform} needs the register {missing[0]}: {how}. Nothing was written.")


def _runtime(given: Path | None) -> Path:
    """The folder of the image's Python: the one that was named, else one in the user's cache, complete."""
    if given is not None:
        return given
    directory = inputs.cached_runtime()
    with output.progress(f"looking for the packages of the image's Python in {directory}"):
        inputs.fetch(directory)
    return directory


def _machine_registers(platform: Platform, given: Mapping[str, Any], data: bytes, cmdline: str) -> dict[str, bytes]:
    if platform is Platform.TPM:
        return {"pcr9": expected.tpm_pcr9(cmdline, data)}
    if platform is Platform.SEV_SNP and given["firmware"] is not None:
        measurement = expected.sev_snp(
            firmware=given["firmware"],
            kernel=given["kernel"],
            initramfs=data,
            cmdline=cmdline,
            cpu_count=given["cpus"],
            cpu_type=given["cpu_type"],
        )
        return {"measurement": measurement}
    return {}


def _given_registers(platform: Platform, given: tuple[str, ...]) -> dict[str, bytes]:
    lengths, registers = REGISTERS[platform].lengths, {}
    for text in given:
        name, _, value = text.partition("=")
        if name in registers:
            raise Misuse(f"--register {name:.40} is given twice; nothing was written.")
        try:
            registers[name] = bytes.fromhex(value)
        except ValueError:
            registers[name] = b""
        if len(registers[name]) != lengths.get(name, 0) or name not in lengths:
            known = ", ".join(lengths)
            raise Misuse(f"--register {text!r:.60} is not a register of {platform} with its value; there are {known}.")
    return registers


def _root(platform: Platform, given: Mapping[str, Any]) -> TrustedRoot:
    limits: SnpLimits | TdxLimits | None = None
    if platform is Platform.SEV_SNP:
        limits = SnpLimits(_tcb(given["tcb_min"], given["root_name"]))
    elif platform is Platform.TDX:
        limits = TdxLimits()
    if given["root_certificate"] is not None:
        if given["root_name"] is not None:
            raise Misuse("Name the policy's root by one of --root and --root-certificate; nothing was written.")
        der = artefacts.read_certificate(given["root_certificate"])
        return TrustedRoot(f"{platform}-root", platform, der, limits)
    fixed = {Platform.NITRO: AWS_NITRO_G1, Platform.TDX: "intel-sgx"}.get(platform)
    name = given["root_name"] or fixed
    if name is None or BUILTIN_CERTIFICATES[name][0] is not platform:
        raise Misuse(f"A policy for {platform} needs its root, by --root or --root-certificate; nothing was written.")
    return TrustedRoot.builtin(name, limits)


def _tcb(text: str | None, root_name: str | None) -> Tcb:
    """The floor under AMD's firmware: the operator's to say, since any default would be wrong for some processor."""
    parts = [] if text is None else text.split(".")
    counts = {None: (4, 5), "amd-turin": (5,)}.get(root_name, (4,))
    if len(parts) not in counts or not all(part.isdecimal() for part in parts):
        raise Misuse(
            "A policy for sev-snp needs --tcb-min as bootloader.tee.snp.microcode, for instance 4.0.24.219, and for "
            "Turin with a fifth number, its FMC's; nothing was written."
        )
    return Tcb(*(int(part) for part in parts))


def _public_key(key_file: Path | None, public_key: str | None) -> bytes:
    if (key_file is None) is (public_key is None):
        raise Misuse("Name the authority by one of --authority-key-file and --public-key; nothing was written.")
    if key_file is not None:
        return artefacts.read_key(key_file).public_key
    try:
        return bytes.fromhex(public_key or "")
    except ValueError:
        raise Misuse(
            "--public-key is not hexadecimal; nothing was written. Use what `perdure key new` printed."
        ) from None


def _pcrs(parts: eif.Eif) -> dict[str, bytes]:
    pcrs = eif.measure(parts)
    found = {"pcr0": pcrs.pcr0, "pcr1": pcrs.pcr1, "pcr2": pcrs.pcr2}
    return found if pcrs.pcr8 is None else {**found, "pcr8": pcrs.pcr8}


def _show(registers: Mapping[str, bytes], *, as_json: bool, **files: str | None) -> None:
    value = {**files, **{name: register.hex() for name, register in registers.items()}}
    text = [f"{name.upper()} {register.hex()}" for name, register in registers.items()]
    if not registers:
        text = ["What will be measured depends on firmware and machine: boot it once, then `perdure evidence ask`."]
    output.result(value, "\n".join(text), as_json=as_json)
