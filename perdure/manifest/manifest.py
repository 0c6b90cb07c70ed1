"""A manifest: the one main program that may have the authority's key, and what of it a host must not choose.

Developers sign its canonical bytes (docs/spec.md, section 16); the loader, which is fixed and measured, runs what it
names and nothing else. The array's id binds k, n and the policy already, so a manifest that disagrees with its array
keeps it closed. They stand here too so that whoever signs can read what he signs.

Trusts nothing: a manifest that parses is well-formed, and authorised only once `signatures.verify` says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from perdure.errors import Misuse
from perdure.evidence.policy import POLICY_BYTES_MAX, SEATS_MAX, Policy
from perdure.manifest import form

FORMAT: Final = 1
DIGEST_TAG: Final = b"perdure/manifest/1"
MANIFEST_BYTES_MAX: Final = POLICY_BYTES_MAX + (1 << 17)
"""A policy, a long command, and white space."""
VERSION_MAX: Final = (1 << 63) - 1
WORDS_MAX: Final = 64
WORD_CHARS_MAX: Final = 1024
PROGRAM_PLACE: Final = "{program}"
DIRECTORY_PLACE: Final = "{directory}"
_PLACES: Final = re.compile(r"\{program\}|\{directory\}")
_WORD: Final = re.compile(r"[ -~]*")
OVERRIDES: Final[Mapping[str, tuple[str, ...]]] = {
    "acknowledgements": ("evidence", "chains"),
    "attest": ("flush", "every-read"),
    "when-too-few-disks": ("fail", "freeze"),
}
"""The settings of [serve] in perdure.toml that a manifest may fix, and their values. The list is closed."""


class ProgramKind(StrEnum):
    """How the host hands the program over: a directory, a tarball of one, or one file such as a disk image."""

    TREE = "tree"
    TARBALL = "tarball"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Program:
    """What runs. `sha256` is `tree.digest` of a tree or tarball (the same for both), `tree.image_digest` of an image.

    Raises Misuse if the digest has not 32 bytes.
    """

    kind: ProgramKind
    sha256: bytes

    def __post_init__(self) -> None:
        if len(self.sha256) != 32:
            raise Misuse("A program's SHA-256 has 32 bytes.")


@dataclass(frozen=True, slots=True)
class Overrides:
    """Settings that the manifest takes out of the host's hands; None leaves one to perdure.toml.

    Raises Misuse for a value that the setting has not.
    """

    acknowledgements: str | None = None
    attest: str | None = None
    when_too_few_disks: str | None = None

    def __post_init__(self) -> None:
        for key, value in self.to_json().items():
            form.one_of(value, f"manifest's overrides.{key}", OVERRIDES[key])

    def to_json(self) -> dict[str, str]:
        """Those that are fixed, by the names that they have in perdure.toml."""
        values = (self.acknowledgements, self.attest, self.when_too_few_disks)
        return {key: value for key, value in zip(OVERRIDES, values, strict=True) if value is not None}


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that developers sign. Equal manifests have equal digests.

    `version` rises with every manifest of an array, so that a loader that has seen one runs none before it. `command`
    may hold `{program}`, where the loader put the program, and `{directory}`, where it put perdure.toml. `array_id` has
    32 bytes; any `threshold` of `disks` disks hold the array. Raises Misuse for what no loader could run.
    """

    name: str
    version: int
    program: Program
    command: tuple[str, ...]
    array_id: bytes
    threshold: int
    disks: int
    policy: Policy
    overrides: Overrides = Overrides()

    def __post_init__(self) -> None:
        form.name(self.name, "manifest's name")
        form.number(self.version, "manifest's version", least=1, most=VERSION_MAX)
        if len(self.array_id) != 32:
            raise Misuse("An array's id has 32 bytes.")
        form.number(self.disks, "manifest's array.disks", least=2, most=SEATS_MAX)
        form.number(self.threshold, "manifest's array.threshold", least=self.disks // 2 + 1, most=self.disks)
        _require_command(self.command)
        if self.overrides.acknowledgements == "chains" and not self.policy.acknowledgement_chains:
            raise Misuse("The manifest's overrides.acknowledgements is chains, which its policy does not allow.")

    def arguments(self, program: str, directory: str) -> tuple[str, ...]:
        """The command with the two places filled in."""
        places = {PROGRAM_PLACE: program, DIRECTORY_PLACE: directory}
        return tuple(_PLACES.sub(lambda place: places[place[0]], word) for word in self.command)

    def to_json(self) -> bytes:
        """The canonical bytes, which are what is signed."""
        value = {
            "array": {"disks": self.disks, "id": self.array_id.hex(), "threshold": self.threshold},
            "command": list(self.command),
            "format": FORMAT,
            "name": self.name,
            "overrides": self.overrides.to_json(),
            "policy": json.loads(self.policy.to_json()),
            "program": {"kind": self.program.kind.value, "sha256": self.program.sha256.hex()},
            "version": self.version,
        }
        return form.canonical(value)

    def digest(self) -> bytes:
        """The manifest's name for all that sign or compare: 32 bytes, `digest_of` its canonical bytes."""
        return digest_of(self.to_json())

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a manifest; order and white space are free, all else is strict. Raises Misuse that names the key.

        What was signed is `to_json()` of what is returned, never `data`.
        """
        fields = form.read_object(data, "manifest", bytes_max=MANIFEST_BYTES_MAX)
        _require_format(fields)
        form.keys(fields, "manifest", _KEYS)
        array = form.keys(fields["array"], "manifest's array", {"disks", "id", "threshold"})
        return cls(
            name=fields["name"],
            version=fields["version"],
            program=_program(fields["program"]),
            command=tuple(form.items(fields["command"], "manifest's command", count_max=WORDS_MAX)),
            array_id=form.hexadecimal(array["id"], "manifest's array.id", length=32),
            threshold=array["threshold"],
            disks=array["disks"],
            policy=_policy(fields["policy"]),
            overrides=_overrides(fields["overrides"]),
        )


_KEYS: Final = frozenset({"array", "command", "format", "name", "overrides", "policy", "program", "version"})


def digest_of(canonical: bytes) -> bytes:
    """The 32-byte tagged hash of a manifest's canonical bytes."""
    return form.tagged(DIGEST_TAG, canonical)


def _require_format(fields: Mapping[str, Any]) -> None:
    """Before unknown keys: a later format has some, and what the reader needs to know is that it is a later one."""
    if "format" in fields and (type(fields["format"]) is not int or fields["format"] != FORMAT):
        raise Misuse(f"The manifest's format is {fields['format']!a:.40}; this release reads format {FORMAT}.")


def _require_command(command: tuple[str, ...]) -> None:
    if not 1 <= len(command) <= WORDS_MAX:
        raise Misuse(f"The manifest's command has 1 to {WORDS_MAX} words.")
    for word in command:
        form.text(word, "manifest's command, in one of its words,")
        if len(word) > WORD_CHARS_MAX or not _WORD.fullmatch(word):
            raise Misuse(
                f"A word of the manifest's command is up to {WORD_CHARS_MAX} of printable ASCII, not {word!a:.80}."
            )
        if set("{}") & set(_PLACES.sub("", word)):
            raise Misuse(f"In the manifest's command, braces are for {{program}} and {{directory}} only: {word!a:.80}.")
    if not command[0]:
        raise Misuse("The first word of the manifest's command is the program to start; it cannot be empty.")


def _program(value: object) -> Program:
    fields = form.keys(value, "manifest's program", {"kind", "sha256"})
    kind = form.one_of(fields["kind"], "manifest's program.kind", tuple(ProgramKind))
    return Program(ProgramKind(kind), form.hexadecimal(fields["sha256"], "manifest's program.sha256", length=32))


def _policy(value: object) -> Policy:
    try:
        return Policy.from_json(json.dumps(value).encode("ascii"))
    except RecursionError:
        raise Misuse("The manifest's policy is nested too deeply.") from None


def _overrides(value: object) -> Overrides:
    fields = form.keys(value, "manifest's overrides", (), OVERRIDES)
    # Null is no value: it would read as "not fixed", and there is one way to say that.
    values = {key: form.text(item, f"manifest's overrides.{key}") for key, item in fields.items()}
    return Overrides(**{key.replace("-", "_"): item for key, item in values.items()})
