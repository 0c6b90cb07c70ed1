"""The simulated hypervisor: takes an image, measures it, runs its program, and gives it a door to evidence.

What it stands for: PCRs come from the image's bytes and nothing else; only the image's files run, not the files of the
installation that launches it; the program gets its arguments from the host and evidence from here. What it does not:
isolation. The program runs as an ordinary process, with this machine's interpreter and libraries.

A disk is started as `python DIRECTORY --listen ADDRESS --size-bytes N --evidence SPEC --authority FILE`, a loader
with `--developers FILE` and without a size: the file is what the image's second ramdisk holds. It dies with this
process, however that ends; this process ends with it. If this process is killed, the directory with the unpacked
image, and a TPM's with its state, stay behind; they protect nothing.

There are two platforms. `simulated` stands for Nitro, SPEC is `nsm-socket:FD`, and this process answers as the module;
frames on that socket, both ways: u32 big-endian length, then CBOR; at most 4,096 bytes there, 12,288 back. `tpm` stands
for a machine whose firmware measures what it boots (`perdure.simtee.tpm`), SPEC is `tpm-fd:FD`, and a software TPM
answers commands on that socket.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from perdure.errors import Misuse, PerdureError
from perdure.evidence.roots import Platform
from perdure.image import build, cpio, eif, loader
from perdure.simtee.nsm import REQUEST_BYTES_MAX, SimulatedNsm, new_module_id
from perdure.simtee.pki import SimulatedRoot
from perdure.simtee.process import die_with
from perdure.simtee.tpm import SimulatedTpm, TpmRoot
from perdure.sockets import remove_stale

PLATFORMS: Final = (Platform.SIMULATED, Platform.TPM)
STOP_SECONDS_MAX: Final = 5
LOADER_STOP_SECONDS_MAX: Final = 90
"""A loader's main program brings everything home first."""
_INSTANCE_ID: Final = re.compile(r"i-[0-9a-f]{17}")
_FIXED: Final = {"--authority": build.AUTHORITY_FILE, "--developers": loader.DEVELOPERS_FILE}
"""What the second ramdisk of an image may hold, and the option by which its program learns where that is."""
# As `python -I DIRECTORY`: no environment, no user's packages, no current directory. Besides without `site`, because
# an editable installation's .pth file hooks in a finder that would supply modules which the image lacks.
_BOOT: Final = (
    "import os, runpy, sys; sys.path += sys.argv.pop(1).split(os.pathsep); "
    "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)


def run(
    image: bytes,
    *,
    root_directory: Path,
    listen: str,
    size_bytes: int | None,
    platform: Platform = Platform.SIMULATED,
    evidence_latency_ms: float = 0,
    ready_fd: int | None = None,
    instance_id: str | None = None,
) -> int:
    """Run the image's program until it ends or SIGTERM or SIGINT comes; return the exit status.

    `size_bytes` is what a disk lends, None for a loader. The status is 0 after such a signal, the program's own, or
    128 + N if signal N killed it. `evidence_latency_ms` is added to every evidence request, one after another, as
    the real device has one lock. `ready_fd` receives what the program prints, by default this process's standard
    output. Two launches with one `instance_id` seem to be on one host. A TPM takes the time it takes and names no
    host, so neither can be given for it. Must be called in the main thread. Raises Misuse if the image is not one
    for these platforms, or the platform cannot do what is asked.
    """
    parts = eif.parse(image)
    if parts.kernel != build.SIMULATED_KERNEL or parts.signature is not None:
        raise Misuse("The image is not an unsigned one for the simulated platform; build one with `build_simulated`.")
    if platform not in PLATFORMS:
        raise Misuse(f"There is no simulated platform {platform!r:.40}; there are {' and '.join(PLATFORMS)}.")
    if platform is Platform.TPM and (evidence_latency_ms or instance_id is not None):
        raise Misuse("A simulated TPM has no evidence latency and no instance id that could be chosen.")
    remove_stale(listen)
    patience = STOP_SECONDS_MAX if size_bytes is not None else LOADER_STOP_SECONDS_MAX
    with _Stopper(patience) as stopper, tempfile.TemporaryDirectory(prefix="perdure-simtee-") as directory:  # 0700
        _unpack(parts, Path(directory))
        size = [] if size_bytes is None else ["--size-bytes", str(size_bytes)]
        start = partial(_start, Path(directory), ["--listen", listen, *size], ready_fd)
        if platform is Platform.TPM:
            with SimulatedTpm(TpmRoot.load_or_create(root_directory), parts) as tpm:
                status = _outlast(start("tpm-fd", tpm.fileno()), stopper)
        else:
            nsm = _launched_nsm(parts, root_directory, instance_id)
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:  # the child has it now: when it closes it, or ends, the serving ends
                    child = start("nsm-socket", theirs.fileno())
                status = _outlast(child, stopper, lambda: _serve(ours, nsm, evidence_latency_ms / 1000))
    if stopper.is_stopping:
        return 0
    return status if status >= 0 else 128 - status


def _outlast(child: subprocess.Popen[bytes], stopper: _Stopper, serve: Callable[[], None] = lambda: None) -> int:
    """Serve the child, then wait for its end; return its status. It has ended when this returns or raises."""
    try:
        stopper.watch(child)
        serve()
        return child.wait()
    finally:
        child.kill()  # does nothing if it has ended
        child.wait()


def _launched_nsm(parts: eif.Eif, root_directory: Path, instance_id: str | None) -> SimulatedNsm:
    if instance_id is not None and not _INSTANCE_ID.fullmatch(instance_id):
        raise Misuse(f"An instance id is 'i-' and 17 hexadecimal digits, not {instance_id!r:.80}.")
    measured = eif.measure(parts)
    pcrs = {0: measured.pcr0, 1: measured.pcr1, 2: measured.pcr2}
    module_id = new_module_id(instance_id or f"i-{secrets.token_hex(9)[1:]}", _now_ms())
    root = SimulatedRoot.load_or_create(root_directory)
    return SimulatedNsm(root, pcrs, module_id, _now_ms, is_repeatable=False)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _unpack(parts: eif.Eif, directory: Path) -> None:
    """Write the ramdisks one over the other, as a kernel does."""
    for ramdisk in parts.ramdisks:
        for name, contents in cpio.unpack(ramdisk).items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents)


def _start(directory: Path, options: list[str], stdout: int | None, kind: str, fd: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", "-B", "-c", _BOOT, os.pathsep.join(site.getsitepackages()), str(directory)]
    command += options
    command += ["--evidence", f"{kind}:{fd}"]
    for option, name in _FIXED.items():
        command += [option, str(directory / name)] if (directory / name).exists() else []
    return subprocess.Popen(  # noqa: S603  (running the image is the purpose)
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        pass_fds=(fd,),
        env={"PATH": os.defpath},
        start_new_session=True,  # a terminal's Ctrl-C reaches the launcher alone, which then ends the program
        preexec_fn=die_with(os.getpid()),  # noqa: PLW1509  (this process has one thread)
    )


class _Stopper:
    """Turns SIGTERM and SIGINT into the end of the child, which ends the serving; kills it if it takes too long."""

    def __init__(self, patience_s: int) -> None:
        self.is_stopping = False
        self._patience_s = patience_s
        self._child: subprocess.Popen[bytes] | None = None

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        """End this child on a signal, at once if one has come already."""
        self._child = child
        if self.is_stopping:
            child.terminate()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.is_stopping = True
        signal.alarm(self._patience_s)
        if self._child is not None:
            self._child.terminate()

    def _kill(self, _number: int, _frame: FrameType | None) -> None:
        if self._child is not None:
            self._child.kill()

    def __enter__(self) -> _Stopper:
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGALRM: self._kill}
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _serve(requests: socket.socket, nsm: SimulatedNsm, latency_s: float) -> None:
    """Answer requests, one at a time, until the other end closes or breaks the framing; then close for good."""
    with requests.makefile("rb") as stream, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while len(head := stream.read(4)) == 4 and (length := int.from_bytes(head, "big")) <= REQUEST_BYTES_MAX:
            request = stream.read(length)
            time.sleep(latency_s)
            response = nsm.respond(request)
            requests.sendall(len(response).to_bytes(4, "big") + response)
    requests.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Command line of `run`; exits with its status."""
    parser = argparse.ArgumentParser(prog="python -m perdure.simtee.launch", description="Run a disk image, simulated.")
    parser.add_argument("--image", required=True, type=Path, metavar="FILE")
    parser.add_argument("--root-directory", required=True, type=Path, metavar="DIRECTORY")
    parser.add_argument("--listen", required=True, metavar="ADDRESS")
    parser.add_argument("--size-bytes", type=int, metavar="N", help="what a disk lends; not for a loader")
    parser.add_argument("--platform", choices=[str(one) for one in PLATFORMS], default=str(Platform.SIMULATED))
    parser.add_argument("--evidence-latency-ms", type=float, default=0.0, metavar="MS")
    parser.add_argument("--instance-id", metavar="ID", help="the host it seems to run on (default: one of its own)")
    options = parser.parse_args()
    try:
        status = run(
            options.image.read_bytes(),
            root_directory=options.root_directory,
            listen=options.listen,
            size_bytes=options.size_bytes,
            platform=Platform(options.platform),
            evidence_latency_ms=options.evidence_latency_ms,
            instance_id=options.instance_id,
        )
    except OSError as error:
        sys.exit(f"The image cannot be run: {error}")
    except PerdureError as error:
        sys.exit(str(error))
    sys.exit(status)


if __name__ == "__main__":
    main()
