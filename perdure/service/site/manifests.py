"""Manifests, lists of developers and signatures as files, and `ssh-keygen`, which signs with keys that we never see."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from perdure.errors import Misuse, NotAuthorised
from perdure.manifest import sshsig, tree
from perdure.manifest.developers import DEVELOPERS_BYTES_MAX, Developers
from perdure.manifest.manifest import MANIFEST_BYTES_MAX, Manifest, ProgramKind
from perdure.service.site.artefacts import read_bounded


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file. Raises Misuse that names the file and the key at fault."""
    data = read_bounded(path, "manifest", bytes_max=MANIFEST_BYTES_MAX)
    try:
        return Manifest.from_json(data)
    except Misuse as error:
        raise Misuse(f"In {path}: {error} Nothing was done with it.") from None


def read_developers(path: Path) -> Developers:
    """The list of developers in the file. Raises Misuse that names the file and the key at fault."""
    data = read_bounded(path, "list of developers", bytes_max=DEVELOPERS_BYTES_MAX)
    try:
        return Developers.from_json(data)
    except Misuse as error:
        raise Misuse(f"In {path}: {error} Nothing was verified.") from None


def write_new(path: Path, data: bytes, what: str) -> None:
    """Write a file that must not exist. Raises Misuse."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise Misuse(f"The file {path} exists and was left as it is; choose another name for the {what}.") from None
    except OSError as error:
        raise Misuse(f"The {what} {path} cannot be written ({error.strerror}).") from None


def program_digest(path: Path, kind: ProgramKind) -> bytes:
    """The digest by which a manifest names the program at `path`. Raises Misuse."""
    if kind is ProgramKind.TREE:
        return tree.digest(path)
    if kind is ProgramKind.IMAGE:
        return tree.image_digest(path)
    return tree.tarball_digest(read_bounded(path, "tarball", bytes_max=tree.TARBALL_BYTES_MAX))


def ssh_signature(key: Path, message: bytes) -> bytes:
    """The armoured signature by the private key in `key`, or by the agent or the token that has it. Raises Misuse.

    `ssh-keygen` asks for a passphrase on the terminal and for a touch on standard error; it takes as long as people do.
    """
    command = ["ssh-keygen", "-Y", "sign", "-n", sshsig.NAMESPACE, "-f", str(key)]
    try:
        done = subprocess.run(command, input=message, stdout=subprocess.PIPE, check=False)  # noqa: S603
    except FileNotFoundError:
        raise Misuse("ssh-keygen is not installed; on Debian it is in the package openssh-client.") from None
    if done.returncode != 0:
        raise Misuse(f"ssh-keygen did not sign with {key} (exit code {done.returncode}); nothing was written.")
    try:
        sshsig.verify(sshsig.parse(done.stdout), message)
    except (NotAuthorised, Misuse) as error:
        why = f"it {error}" if isinstance(error, NotAuthorised) else str(error).rstrip(".")
        raise Misuse(f"What ssh-keygen made with {key} would not be accepted: {why}. Nothing was written.") from None
    return done.stdout
