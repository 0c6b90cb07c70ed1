"""Cauchy Reed-Solomon over whole columns: many sectors in one library call.

The code is linear and works byte by byte, so the columns of many sectors laid end to end are coded as one: column j
is fragment j of every sector. `pyeclib` (ISA-L) writes an 80-byte header before each fragment, which depends only on
the fragment's number and length; we strip it and put it back from a template, and trust nothing in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pyeclib.ec_iface import ECDriver

from perdure.array.ports import Buffer

_HEADER_BYTES = 80


class Code:
    """The k-of-n code. Fragments 0 to k-1 are the data itself."""

    def __init__(self, k: int, n: int) -> None:
        self.k, self.n = k, n
        self._driver: Any = ECDriver(k=k, m=n - k, ec_type="isa_l_rs_cauchy") if n > k else None
        self._headers = lru_cache(maxsize=1024)(self._make_headers)

    def encode(self, columns: bytes) -> list[memoryview]:
        """The n columns of which `columns` is the first k, end to end; its length must be a multiple of 16 k."""
        length = len(columns) // self.k
        if self._driver is None:
            view = memoryview(columns)
            return [view[i * length : (i + 1) * length] for i in range(self.k)]
        return [memoryview(fragment)[_HEADER_BYTES:] for fragment in self._driver.encode(columns)]

    def decode(self, columns: Mapping[int, Buffer]) -> list[Buffer]:
        """The k data columns, from any k of the n, all of one length."""
        if len(columns) < self.k:
            raise ValueError(f"{len(columns)} columns of {self.k}")
        if all(seat in columns for seat in range(self.k)):
            return [columns[seat] for seat in range(self.k)]
        length = len(next(iter(columns.values())))
        headers = self._headers(length)
        data = memoryview(self._driver.decode([headers[seat] + bytes(column) for seat, column in columns.items()]))
        return [data[i * length : (i + 1) * length] for i in range(self.k)]

    def _make_headers(self, length: int) -> list[bytes]:
        fragments = self._driver.encode(bytes(length * self.k))
        assert all(len(fragment) == _HEADER_BYTES + length for fragment in fragments)
        return [fragment[:_HEADER_BYTES] for fragment in fragments]
