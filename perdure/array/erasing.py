"""An erasure and its witnesses: after a trim has come home everywhere, every member shows that it holds nothing.

Trimming wipes homes and ring on every disk. What is added here is the proof: READs with evidence, made afterwards, of
which `perdure.array.receipt` makes a receipt that anybody can check.
"""

from __future__ import annotations

from perdure.array.cache import WriteCache
from perdure.array.committer import Committer
from perdure.array.fetch import CHUNK_SECTORS
from perdure.array.genesis import Genesis
from perdure.array.geometry import TAG_BYTES, Run
from perdure.array.members import Members
from perdure.array.ports import Attested, results
from perdure.array.reader import Reader
from perdure.array.receipt import Erased, Exchange, Proof, Receipt, judge, plan
from perdure.array.sealing import generation_of
from perdure.array.session import Session
from perdure.array.world import TRIES, World, persistently
from perdure.errors import Corrupt, Misuse, PerdureError


class Erasure:
    """One erasure of a mounted array."""

    def __init__(
        self,
        world: World,
        genesis: Genesis,
        members: Members,
        cache: WriteCache,
        reader: Reader,
        committer: Committer,
    ) -> None:
        self._world = world
        self._genesis = genesis
        self._members = members
        self._cache = cache
        self._reader = reader
        self._committer = committer
        self._attested: dict[bytes, Attested] = {}
        """By document: every answer was verified when it came; what is judged at the end is what they say together."""

    async def oldest_version(self, run: Run) -> int:
        """The lowest generation in `run` once everything written so far is home; 0 when nothing is there."""
        if not self._committer.is_idle:
            await self._committer.settle()
        oldest = 0
        for start in range(run.start, run.end, CHUNK_SECTORS):
            part = Run(start, min(CHUNK_SECTORS, run.end - start))
            await self._reader.load_tags(part)
            tags = self._reader.tags.get(part)
            found = [generation_of(tags[at : at + TAG_BYTES]) for at in range(0, len(tags), TAG_BYTES)]
            oldest = min(filter(None, [oldest, *found]), default=0)
        return oldest

    async def witnessed(self, run: Run, oldest: int) -> Erased:
        """Settle what was trimmed, and have every member of the roster in force prove it. See `Array.erase`."""
        for _ in range(TRIES):
            receipt = await self._receipt(run, oldest)
            try:
                return judge(receipt, lambda document, _: self._attested[document])
            except Corrupt:
                # Written and trimmed again while they were asked? Then asking again shows it, else a disk is wrong.
                if self._committer.last == receipt.entry and not self._is_written(run):
                    raise
            if self._is_written(run):
                break
        raise Misuse(
            "the range was written again while it was erased: what it held before is gone from every live disk, but "
            "there can be no receipt. Erase it again when nobody writes to it."
        )

    async def _receipt(self, run: Run, oldest: int) -> Receipt:
        """What all members of one roster answer, each after it had carried out everything up to one entry."""
        while True:
            entry = await self._committer.settle()
            roster = self._members.roster
            self._attested.clear()
            work = [self._proof(session, run) for _, session in self._members]
            proofs = results(await self._world.runtime.gather(*work))
            if None not in proofs and self._members.roster is roster and not self._committer.is_changing:
                # Else a disk was lost on the way, or somebody joins: whoever is a member then shows it again.
                fields = (self._world.authority, self._genesis, run, entry, oldest, tuple(proofs))
                return Receipt.signed(*fields)

    async def _proof(self, session: Session, run: Run) -> Proof | None:
        """This member's answers; None when it was given up instead."""
        proof = []
        try:
            for runs in plan(self._genesis.geometry, run):
                one = await persistently(self._world, lambda runs=runs: session.testify(runs))  # type: ignore[misc]
                self._attested[one.answer.document] = one.attested
                proof.append(Exchange.of(b"".join(one.command.parts), one.reply))
        except PerdureError as verdict:
            self._members.report_lost(session, verdict)
            return None
        return tuple(proof)

    def _is_written(self, run: Run) -> bool:
        """Whether anything of `run` is in use again."""
        indices = range(run.start, run.end)
        return any(any(self._cache.find(index) or self._reader.tags.get(Run(index, 1))) for index in indices)
