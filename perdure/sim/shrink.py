"""A failing plan made short: steps are left out for as long as the rest still fails the same way.

Delta debugging (Zeller and Hildebrandt, 2002): try halves, then quarters, down to single steps. Only steps are left
out; the world stays as the seed drew it. What is left is printed, and told again with `--only`.
"""

from __future__ import annotations

from collections.abc import Callable

RUNS_MAX = 600


def shrink(count: int, fails: Callable[[list[int]], bool]) -> list[int]:
    """The numbers of a small set of steps, of `count`, for which `fails` holds; it must hold for all of them."""
    left = list(range(count))
    runs = 0
    size = (count + 1) // 2
    while size and left:
        start = 0
        while start < len(left) and runs < RUNS_MAX:
            rest = left[:start] + left[start + size :]
            runs += 1
            if fails(rest):
                left = rest
            else:
                start += size
        size = size // 2 if size > 1 else 0
    return left
