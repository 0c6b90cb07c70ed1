"""Evidence in its real format: documents by the simulated module, believed by the product's own verifier.

A hundred times dearer than a MAC, so only some stories have it. Everything is drawn from fixed seeds: a story must be
the same to the byte wherever it is told.
"""

from __future__ import annotations

from functools import cache
from random import Random

from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.verifier import Verifier
from perdure.sim.disks import SimAttested
from perdure.sim.loop import Loop
from perdure.simtee.nsm import PCR_BYTES, SimulatedNsm, new_module_id
from perdure.simtee.pki import SimulatedRoot

_NAME = "simulated"
_PCRS = {index: bytes([index + 1]) * PCR_BYTES for index in range(3)}


@cache
def _root() -> SimulatedRoot:
    return SimulatedRoot.create(Random(1).randbytes)  # noqa: S311 (a simulation must repeat)


class Hardware:
    """The module of every disk of one story, and a verifier under a policy that names its root and its program."""

    def __init__(self, loop: Loop) -> None:
        draw = Random(2).randbytes  # noqa: S311
        module_id = new_module_id("i-00000000000000001", loop.unix_ms(), draw)
        self._loop = loop
        self._module = SimulatedNsm(_root(), _PCRS, module_id, loop.unix_ms, draw=draw)
        trusted = (TrustedRoot(_NAME, Platform.SIMULATED, _root().der),)
        self._verifier = Verifier(Policy(trusted, (Measurement.enclave(_NAME, *_PCRS.values()),)))

    def attest(self, report_data: bytes) -> bytes:
        """A document over 64 bytes."""
        return self._module.attest(report_data)

    async def verify(self, document: bytes, commitment: bytes) -> SimAttested:
        """What the document proves. Raises BadEvidence."""
        verified = self._verifier.verify(document, commitment, self._loop.unix_ms())
        return SimAttested(str(verified.platform), verified.root, verified.module_id, verified.time_ms)
