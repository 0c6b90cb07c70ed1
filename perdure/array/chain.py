"""What a main program knows of one disk's acknowledgement chain (docs/spec.md, 3.9 and 9.9): a core within `session`.

The anchor came under the hardware's evidence, so the disk alone knew the links then, and it shows that of a seq only
when it has carried out the command of that seq, of which there is one. So a link proves this command and all before
it, as evidence does, *if the disk has kept its secret since*. Evidence does not need this "if". Hence the bounds: a
chain is used for CHAIN_MS_MAX, and has LINKS links.
"""

from __future__ import annotations

from hmac import compare_digest

from perdure.disk.wire import LINKS, hashed_link
from perdure.errors import WrongCommitment

CHAIN_MS_MAX = 1000
"""How long after its evidence was asked for the links of a chain count: a secret is worth something for no longer."""
CHAIN_ASK_MS_MAX = 500
"""How long they are asked for, so that an honest answer has time to come."""


class Chain:
    """The chain whose `anchor` the disk attested in its answer to the command of `seq`, sent at `asked_ms`."""

    def __init__(self, anchor: bytes, seq: int, asked_ms: int) -> None:
        self._known = anchor
        self._seq = seq
        self._last_seq = seq + LINKS
        self._asked_ms = asked_ms

    def reaches(self, seq: int, now_ms: int) -> bool:
        """Whether a command of this seq, sent now, may be acknowledged by a link."""
        return seq <= self._last_seq and now_ms - self._asked_ms < CHAIN_ASK_MS_MAX

    def accept(self, seq: int, link: bytes, now_ms: int) -> None:
        """Return if `link` is that of `seq`: then the disk has carried out its command. Raises WrongCommitment.

        Also when it comes too late: then evidence has to say.
        """
        if now_ms - self._asked_ms > CHAIN_MS_MAX:
            raise WrongCommitment("an acknowledgement came by a link that does not count any more")
        hashed, steps = link, seq - self._seq
        for _ in range(steps):
            hashed = hashed_link(hashed)
        if steps < 1 or seq > self._last_seq or not compare_digest(hashed, self._known):
            raise WrongCommitment("an acknowledgement is not the link of its command: a host forged it")
        self._known, self._seq = link, seq
