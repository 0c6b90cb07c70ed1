"""The acknowledgement chain: one-time secrets, of which an EXECUTE can show the one that is its own (spec 3.9).

The only secret that a disk ever holds, and only if a main program asks for it. Whoever knows the link of a seq can
forge that acknowledgement and all before it: it leaves with the answer to its own command, and not earlier.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.disk.wire import LINK_BYTES, LINKS, hashed_link


class Chain:
    """At most one at a time. `random` gives fresh bytes from the operating system's generator."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self.seqs = range(0)
        """Those that have a link."""
        self._random = random
        self._links = memoryview(bytearray(LINKS * LINK_BYTES))

    def renew(self, seq: int) -> bytes:
        """Draw another chain; the link of seq + j hashes in j steps to what is returned, its anchor."""
        link = self._random(LINK_BYTES)
        for at in reversed(range(0, len(self._links), LINK_BYTES)):
            self._links[at : at + LINK_BYTES] = link
            link = hashed_link(link)
        self.seqs = range(seq + 1, seq + 1 + LINKS)
        return link

    def show(self, seq: int) -> bytes:
        """The link of `seq`; it and those before it are wiped."""
        end = (seq + 1 - self.seqs.start) * LINK_BYTES
        link = bytes(self._links[end - LINK_BYTES : end])
        self._links[:end] = bytes(end)
        return link

    def drop(self) -> None:
        """Wipe what was not shown: nobody may learn it any more."""
        self._links[:] = bytes(len(self._links))
        self.seqs = range(0)
