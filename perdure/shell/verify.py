"""Evidence checks, now and under a policy, on the event loop.

Not in threads: neither OpenSSL's nor AWS-LC's binding lets other threads run while it checks a signature (two threads
take twice as long as one), so a thread would add two hand-overs, each of which may wait for a turn of 5 ms, and no
parallel work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from perdure.errors import BadEvidence
from perdure.evidence.collateral import NONE, Collateral
from perdure.evidence.policy import Policy
from perdure.evidence.verified import VerifiedEvidence
from perdure.evidence.verifier import Verifier
from perdure.shell.meter import Meter


class PolicyVerifier:
    """A `Verifier` (perdure.array.ports) that accepts what `policy` allows, now.

    `collateral` is asked each time for what verifiers may need beside the evidence.
    """

    def __init__(self, policy: Policy, collateral: Callable[[], Collateral] = lambda: NONE) -> None:
        self._verifier = Verifier(policy)
        self._collateral = collateral
        self.meter = Meter()
        """Of documents: how long each took to verify, its bytes, and how many were no good."""

    async def verify(self, document: bytes, commitment: bytes) -> VerifiedEvidence:
        """What the document proves, if it carries `commitment`. Raises BadEvidence."""
        verifier = replace(self._verifier, collateral=self._collateral())  # the chains that were found good are kept
        begun = time.perf_counter()
        try:
            found = verifier.verify(document, commitment, time.time_ns() // 1_000_000)
        except BadEvidence:
            self.meter.failed += 1
            raise
        self.meter.note(time.perf_counter() - begun, len(document))
        return found
