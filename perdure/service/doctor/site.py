"""One array's files and main program, as its configuration names them. Reads and asks; repairs nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from perdure.array.commands import Authority
from perdure.errors import Misuse, PerdureError
from perdure.evidence.policy import Policy
from perdure.evidence.roots import Platform
from perdure.service import collateral
from perdure.service.doctor import expiry
from perdure.service.doctor.finding import Finding, fail, ok, warn
from perdure.service.site import artefacts, background, config
from perdure.service.site.config import Config
from perdure.service.status import State


def configuration(path: Path) -> tuple[Finding, Config | None]:
    """Whether the file can be read and says what it must."""
    try:
        found = config.load(path)
    except Misuse as error:
        return _bad("configuration", error, "Without it nobody knows which array is meant."), None
    shape = found.array
    text = f"{path}: {shape.threshold} of {shape.disks} disks, {shape.size_bytes} bytes"
    if len(found.addresses) != shape.disks:
        return warn(
            "configuration",
            f"{text}, but {len(found.addresses)} addresses",
            "A seat without an address is not found.",
            f"Name {shape.disks} addresses in [disks], in the order of the seats.",
        ), found
    return ok("configuration", text), found


def array_id(found: Config) -> Finding:
    """Whether the file names an array, and the record beside it names the same."""
    try:
        record = artefacts.read_record(found.directory)
    except Misuse as error:
        return _bad("array id", error, "The record shows which array was made here.")
    wanted = found.array.array_id
    if wanted is None:
        what = "no array was created" if record is None else f"{artefacts.ARRAY_FILE} is about {record.array_id}"
        return warn(
            "array id",
            f"The configuration names no array; {what}",
            "The id says which data you see, and covers key, policy, k, n and size.",
            "Run `perdure create`, or write the id that it printed into [array]."
            if record is None
            else "Write that id into [array], if it is the array that you mean.",
        )
    if record is not None and record.array_id != wanted.hex():
        return fail(
            "array id",
            f"The configuration names {wanted.hex()}, and {artefacts.ARRAY_FILE} is about {record.array_id}",
            "One of them is wrong, and the id decides which data you see; the main program does not start.",
            "Correct whichever is wrong, by your own copy of the id.",
        )
    return ok("array id", wanted.hex())


def directory(found: Config) -> Finding:
    """Whether others than its owner could put other files into the place of key, policy and configuration."""
    place = found.directory.stat()
    mode = stat.S_IMODE(place.st_mode)
    text = f"{found.directory} is of user {place.st_uid}, mode {mode:04o}"
    if place.st_uid not in (os.geteuid(), 0):
        do = f"Give it to whoever runs the main program: `chown -R USER {found.directory}`."
    elif mode & 0o022:
        do = f"Run `chmod go-w {found.directory}`."
    else:
        return ok("directory", text)
    why = (
        "Whoever can write there can put another key, policy or array id in the place of yours, and you would trust it."
    )
    return fail("directory", text, why, do)


def key(found: Config) -> tuple[Finding, Authority | None]:
    """Whether the authority's key is there, whole, and readable by its owner only."""
    try:
        authority = artefacts.read_key(found.array.key_file)
    except Misuse as error:
        return _bad("key", error, "It signs every command and opens every sector."), None
    return ok("key", f"{found.array.key_file}, for its owner only; public key {authority.public_key.hex()}"), authority


def policy(found: Config) -> tuple[Finding, Policy | None]:
    """Whether the policy can be read, and whether it mixes what protects with what does not."""
    try:
        read = artefacts.read_policy(found.array.policy_file)
    except Misuse as error:
        return _bad("policy", error, "It says which hardware and which programs are believed."), None
    kinds = sorted({root.platform.value for root in read.roots})
    text = f"{len(read.measurements)} programs under {len(read.roots)} roots ({', '.join(kinds)})"
    if Platform.SIMULATED.value in kinds and len(kinds) > 1:
        return warn(
            "policy",
            text,
            "A simulated root protects nothing: whoever has its folder makes a disk that this policy believes.",
            "For an array with anything of worth on it, make a policy without that root, and a new array.",
        ), read
    protects = "; simulated, so it protects nothing" if kinds == [Platform.SIMULATED.value] else ""
    return ok("policy", f"{text}{protects}"), read


def main_program(found: Config) -> Finding:
    """Whether a main program runs, and what it says of the array."""
    process = background.running(found)
    if process is None:
        return ok("main program", f"None runs here; `perdure status` would find none at {found.serve.control}")
    try:
        status = background.status(found)
    except PerdureError as error:
        return _bad("main program", error, f"Process {process.pid} runs, and nobody can ask or stop it.")
    text = f"Process {process.pid}: {status.state} {status.summary}, {status.losses_survived} more disks may be lost"
    if status.exit_code == 0:
        return ok("main program", text)
    make = warn if status.state is State.DEGRADED and status.exit_code == 1 else fail
    return make("main program", text, "`perdure status` shows why.", status.action)


def page(found: Config) -> Finding:
    """Whether the page and the metrics are served, if the main program that runs was asked for them."""
    if background.running(found) is None:
        return ok("page", f"To be served at {found.serve.http}" if found.serve.http else "None is asked for")
    try:
        status = background.status(found)
    except PerdureError:
        return ok("page", "Not known: see the main program")
    if status.http_error is None:
        return ok("page", status.http_url or "None is asked for")
    return warn(
        "page",
        status.http_error.partition(". ")[0],
        "Whoever watches the array over HTTP sees nothing, neither metrics nor alarms.",
        "Free the place or name another at `serve.http`, then run `perdure upgrade`: clients only wait meanwhile.",
    )


def sockets(found: Config) -> Iterator[Finding]:
    """Whether others than the owner could connect to the control socket, or to NBD's."""
    listen = Path(found.serve.listen.removeprefix("unix:")) if found.serve.listen.startswith("unix:") else None
    for name, path in (("control socket", found.serve.control), ("NBD socket", listen)):
        if path is None or not path.is_socket():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        text = f"{path}, mode {mode:04o}"
        if mode & 0o077:
            yield fail(
                name,
                text,
                "Whoever can connect reads and writes plaintext, or stops the main program.",
                f"Run `chmod 600 {path}`, and see who may enter {found.directory}.",
            )
        else:
            yield ok(name, text)


def hints(found: Config, now_ms: int) -> Finding:
    """Whether what verifiers need beside evidence is there, and for how long it holds. Unix milliseconds."""
    if found.collateral is None:
        return ok("collateral", "No folder is named; Nitro, NitroTPM and TPMs with their certificates need none")
    try:
        read = collateral.read_collateral(found.collateral)
    except Misuse as error:
        return _bad("collateral", error, "Without it evidence of AMD's and Intel's processors cannot be judged.")
    return expiry.judge(found.collateral, expiry.ends_of(read), now_ms)


def _bad(check: str, error: PerdureError, why: str) -> Finding:
    """A sentence of the service's says already what is wrong and what to do."""
    found, _, do = str(error).partition(". ")
    return fail(check, f"{found.rstrip('.')}", why, do or "Correct it, and look again.")
