"""`manifest new`, `show`, `diff`: what developers are asked to sign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from perdure.cli import output, signing
from perdure.cli.options import FILE, verb
from perdure.errors import Misuse
from perdure.evidence.policy import SEATS_MAX, Policy
from perdure.manifest import signatures
from perdure.manifest.difference import difference
from perdure.manifest.manifest import OVERRIDES, VERSION_MAX, Manifest, Overrides, Program, ProgramKind
from perdure.service.site import artefacts, config, manifests

_KINDS: Final = [kind.value for kind in ProgramKind]
_HAND: Final = ("array_id", "threshold", "disks", "policy_file")


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group("manifest")
    def manifest() -> None:
        """What the main program is, signed by m of n developers, for a loader that runs nothing else."""

    _register_new(manifest)
    _register_show(manifest)
    _register_diff(manifest)
    signing.register(manifest)


# new ------------------------------------------------------------------------------------------------------


def _register_new(manifest: click.Group) -> None:
    seats = click.IntRange(1, SEATS_MAX)

    @verb(
        manifest,
        "new",
        "perdure manifest new --name node --version 1 --program ./program --array-from perdure.toml \\\n"
        "    -o manifest.json -- python3 '{program}/main.py' --config '{directory}/perdure.toml'",
    )
    @click.option("--name", required=True, help="What the program is called: a-z, 0-9 and '-'.")
    @click.option("--version", required=True, type=click.IntRange(1, VERSION_MAX), help="Higher than any before.")
    @click.option("--program", "program", required=True, type=click.Path(path_type=Path), help="What shall run.")
    @click.option("--kind", type=click.Choice(_KINDS), help="What that is; a directory is a tree.")
    @click.option("--array-from", "config_file", type=FILE, help="Take the array from this perdure.toml.")
    @click.option("--array-id", metavar="HEX", help="Or by hand: its id,")
    @click.option("--threshold", type=seats, help="how many disks must be there (k),")
    @click.option("--disks", type=seats, help="how many there are (n),")
    @click.option("--policy", "policy_file", type=FILE, help="and its evidence policy.")
    @click.option("--acknowledgements", type=click.Choice(OVERRIDES["acknowledgements"]), help="Fix this setting.")
    @click.option("--attest", type=click.Choice(OVERRIDES["attest"]), help="Fix this setting.")
    @click.option("--when-too-few-disks", type=click.Choice(OVERRIDES["when-too-few-disks"]), help="Fix this setting.")
    @click.option("-o", "--output", "output_file", required=True, type=FILE, help="A file that does not exist yet.")
    @click.argument("command", nargs=-1, required=True)
    def new(
        name: str,
        version: int,
        program: Path,
        kind: str | None,
        acknowledgements: str | None,
        attest: str | None,
        when_too_few_disks: str | None,
        output_file: Path,
        command: tuple[str, ...],
        as_json: bool,
        **array: Any,  # noqa: ANN401  (what click gives)
    ) -> int:
        """Write a manifest for developers to sign: this program, for this array, under its policy.

        COMMAND may hold {program}, where the loader puts the program, and {directory}, where it puts perdure.toml. The
        settings that are fixed are taken out of the host's hands. The file holds exactly the bytes that are signed.
        """
        array_id, threshold, disks, policy = _array(**array)
        of_kind = _kind(program, kind)
        made = Manifest(
            name,
            version,
            Program(of_kind, manifests.program_digest(program, of_kind)),
            command,
            array_id,
            threshold,
            disks,
            policy,
            Overrides(acknowledgements, attest, when_too_few_disks),
        )
        manifests.write_new(output_file, made.to_json(), "manifest")
        output.result({"file": str(output_file), **_to_json(made)}, _text(made), as_json=as_json)
        return 0


def _array(config_file: Path | None, **by_hand: Any) -> tuple[bytes, int, int, Policy]:  # noqa: ANN401
    """Which array: all of it from a configuration, or all of it by hand."""
    given = [key for key in _HAND if by_hand[key] is not None]
    if given != ([] if config_file else [*_HAND]):
        raise Misuse(
            "Name the array by --array-from alone, or by all of --array-id, --threshold, --disks and --policy; nothing "
            "was written."
        )
    if config_file is None:
        try:
            array_id = bytes.fromhex(by_hand["array_id"])
        except ValueError:
            raise Misuse("--array-id is 64 hexadecimal digits; nothing was written.") from None
        return array_id, by_hand["threshold"], by_hand["disks"], artefacts.read_policy(by_hand["policy_file"])
    found = config.load(config_file).array
    if found.array_id is None:
        raise Misuse(f"{config_file} has no array.id yet: `perdure create` makes the array. Nothing was written.")
    return found.array_id, found.threshold, found.disks, artefacts.read_policy(found.policy_file)


def _kind(path: Path, kind: str | None) -> ProgramKind:
    """What `path` is: as it was said, and a directory if nothing was. Raises Misuse."""
    if kind is not None:
        return ProgramKind(kind)
    if not path.is_dir():
        raise Misuse(f"{path} is no directory; say with --kind whether it is a tarball or an image. Nothing was done.")
    return ProgramKind.TREE


# show -----------------------------------------------------------------------------------------------------


def _register_show(manifest: click.Group) -> None:
    @verb(manifest, "show", "perdure manifest show manifest.json")
    @click.argument("file", type=FILE)
    def show(file: Path, as_json: bool) -> int:
        """Print what a manifest says, and the digest that names it."""
        found = manifests.read_manifest(file)
        output.result(_to_json(found), _text(found), as_json=as_json)
        return 0


def _to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest, and what follows from it."""
    return {
        "manifest": json.loads(manifest.to_json()),
        "digest": manifest.digest().hex(),
        "policy_digest": manifest.policy.digest().hex(),
        "text_to_sign": signatures.text_to_sign(manifest.digest()),
    }


def _text(manifest: Manifest) -> str:
    policy = manifest.policy
    counts = {root.name: sum(one.root == root.name for one in policy.measurements) for root in policy.roots}
    fixed = [f"{key} is {value}" for key, value in manifest.overrides.to_json().items()]
    rows = [
        ("manifest", manifest.name),
        ("version", str(manifest.version)),
        ("digest", manifest.digest().hex()),
        ("program", f"{manifest.program.kind}, SHA-256 {manifest.program.sha256.hex()}"),
        ("command", " ".join(json.dumps(word) if " " in word or not word else word for word in manifest.command)),
        ("array", manifest.array_id.hex()),
        ("", f"any {manifest.threshold} of {manifest.disks} disks hold it"),
        ("policy", policy.digest().hex()),
        *(("", f"{root.name} ({root.platform}): disk programs {counts[root.name]}") for root in policy.roots),
        ("fixed", ", ".join(fixed) or "nothing; all settings are the usual ones"),
    ]
    return "\n".join(f"{name + ':' if name else '':>10} {value}" for name, value in rows)


# diff -----------------------------------------------------------------------------------------------------


def _register_diff(manifest: click.Group) -> None:
    @verb(
        manifest,
        "diff",
        "perdure manifest diff manifest-1.json manifest-2.json",
        exit_codes={0: "they are compared, equal or not", 2: "one of them is no manifest; nothing was compared"},
    )
    @click.argument("old", type=FILE)
    @click.argument("new", type=FILE)
    def diff(old: Path, new: Path, as_json: bool) -> int:
        """Say what changes from one manifest to the next; `!` marks what is more than a new release.

        That is another array, more that is trusted, weaker thresholds, another command, or fewer settings fixed.
        """
        changes = difference(manifests.read_manifest(old), manifests.read_manifest(new))
        value = {"changes": [{"text": change.text, "matters": change.matters} for change in changes]}
        lines = [f"{'!' if change.matters else ' '} {change.text}" for change in changes]
        output.result(value, "\n".join(lines) or "  They are the same manifest.", as_json=as_json)
        return 0
