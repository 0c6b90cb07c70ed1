"""Bytes on the wire, as the kernel counted them at the TCP sockets (`ss`), while the work runs undisturbed.

Counted is what the parts of a target send to each other, each byte once, where it is sent, headers of IP and TCP
apart. What passes between the client and the target is not. Unix sockets have no such counters: the array's are
counted with its disks at TCP ports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from bench.processes import call

_PID = re.compile(r"pid=(\d+)")
_SENT = re.compile(r"\bbytes_sent:(\d+)")
Link = tuple[str, str]
"""Local and remote address of one end of a connection."""


def sent(pids: Iterable[int]) -> dict[Link, int]:
    """Bytes that each end of each connection among these processes has sent. Raises Skip without `ss`."""
    return parse(call("ss", "-tinpHO"), set(pids))


def parse(output: str, pids: set[int]) -> dict[Link, int]:
    """The same from what `ss -tinpHO` printed, one connection a line."""
    ends: dict[Link, int] = {}
    for line in output.splitlines():
        words = line.split()
        if len(words) > 4 and pids.intersection(map(int, _PID.findall(line))):
            count = _SENT.search(line)
            ends[words[3], words[4]] = int(count[1]) if count else 0
    return {link: count for link, count in ends.items() if link[::-1] in ends}


def between(before: Mapping[Link, int], after: Mapping[Link, int]) -> int:
    """What was sent between two looks; a connection that was closed meanwhile is not counted."""
    return sum(count - before.get(link, 0) for link, count in after.items())
