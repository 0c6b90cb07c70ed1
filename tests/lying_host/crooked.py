"""What a host runs in the place of a disk: another program, or the platform's module with one thing wrong about it.

    python -m tests.lying_host.crooked LIE CLAIMED --image FILE ...      # the rest as for perdure.simtee.launch

The lies: `debug` (a debug enclave: PCRs are zero), and three that claim to be the image in the file CLAIMED while
another one runs: `foreign` (signed under a root of the host's own, with the names of the true one), `forged` (the true
root in front of certificates that it did not sign), `expired` (a leaf whose key leaked, a day after its end).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from perdure.image import eif
from perdure.image.build import build_simulated, program_files
from perdure.simtee import launch
from perdure.simtee.nsm import SimulatedNsm, new_module_id
from perdure.simtee.pki import Leaf, LeafChain, SimulatedRoot

DAY_MS = 86_400_000
LIES = ("debug", "foreign", "forged", "expired")
_CHECK = b"        if instance != self.instance:\n            raise Refusal(Reason.WRONG_INSTANCE)\n"
_TURNS = b"        self.instance = instance\n"


def turncoat(authority: bytes, *, note: bytes = b"") -> bytes:
    """An image for this authority whose program takes the instance that a command names for its own.

    So a host can play a recorded log into it, up to any point, and has the disk back as it was then. With another
    `note`, a comment, it is another program to the hardware.
    """
    files = program_files()
    core = files["perdure/disk/core.py"]
    assert core.count(_CHECK) == 1
    return build_simulated(authority, {**files, "perdure/disk/core.py": core.replace(_CHECK, _TURNS) + note})


class _ForgedChain(LeafChain):
    """A chain of an impostor's, with the true root's certificate in front."""

    def __init__(self, true_root: SimulatedRoot, module_id: str) -> None:
        super().__init__(SimulatedRoot.create(), module_id)
        self._true = true_root

    def at(self, now_ms: int) -> Leaf:
        leaf = super().at(now_ms)
        return Leaf(leaf.key, leaf.certificate, (self._true.der, *leaf.cabundle[1:]))


def _crooked(lie: str, claimed: Path) -> None:
    """Have `launch` run images on a module with this lie."""

    def launched(_parts: eif.Eif, root_directory: Path, _instance_id: str | None) -> SimulatedNsm:
        root = SimulatedRoot.create() if lie == "foreign" else SimulatedRoot.load_or_create(root_directory)
        pcrs = dict.fromkeys(range(3), bytes(48))
        if lie != "debug":
            measured = eif.measure(eif.parse(claimed.read_bytes()))
            pcrs = {0: measured.pcr0, 1: measured.pcr1, 2: measured.pcr2}
        late_ms = DAY_MS if lie == "expired" else 0
        module_id = new_module_id("i-0123456789abcdef0", time.time_ns() // 1_000_000)
        nsm = SimulatedNsm(root, pcrs, module_id, lambda: time.time_ns() // 1_000_000 - late_ms)
        if lie == "forged":
            nsm._chain = _ForgedChain(root, module_id)
        return nsm

    launch._launched_nsm = launched


if __name__ == "__main__":
    lie = sys.argv.pop(1)
    assert lie in LIES, lie
    _crooked(lie, Path(sys.argv.pop(1)))
    launch.main()
