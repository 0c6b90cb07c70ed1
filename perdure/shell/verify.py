"""Evidence checks off the event loop: P-384 takes a third of a millisecond and releases the interpreter's lock."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from perdure.evidence.nitro import ChainCache, VerifiedEvidence, expect_report_data, verify
from perdure.evidence.policy import Policy

THREADS = 2


class PolicyVerifier:
    """A `Verifier` (perdure.array.ports) that accepts what `policy` allows, now."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._chains = ChainCache()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="evidence")

    async def verify(self, document: bytes, commitment: bytes) -> VerifiedEvidence:
        """What the document proves, if it carries `commitment`. Raises BadEvidence."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._verify, document, commitment)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False)

    def _verify(self, document: bytes, commitment: bytes) -> VerifiedEvidence:
        at_ms = time.time_ns() // 1_000_000
        verified = verify(document, policy=self._policy, at_ms=at_ms, chains=self._chains)
        expect_report_data(verified, commitment)
        return verified
