"""Evidence checks off the event loop: P-384 takes a third of a millisecond and releases the interpreter's lock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from perdure.evidence.collateral import NONE, Collateral
from perdure.evidence.policy import Policy
from perdure.evidence.verified import VerifiedEvidence
from perdure.evidence.verifier import Verifier

THREADS = 2


class PolicyVerifier:
    """A `Verifier` (perdure.array.ports) that accepts what `policy` allows, now.

    `collateral` is asked for what verifiers may need beside the evidence each time, from several threads.
    """

    def __init__(self, policy: Policy, collateral: Callable[[], Collateral] = lambda: NONE) -> None:
        self._verifier = Verifier(policy)
        self._collateral = collateral
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="evidence")

    async def verify(self, document: bytes, commitment: bytes) -> VerifiedEvidence:
        """What the document proves, if it carries `commitment`. Raises BadEvidence."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._verify, document, commitment)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False)

    def _verify(self, document: bytes, commitment: bytes) -> VerifiedEvidence:
        verifier = replace(self._verifier, collateral=self._collateral())  # the chains that were found good are kept
        return verifier.verify(document, commitment, time.time_ns() // 1_000_000)
