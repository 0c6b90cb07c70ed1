"""What documents of one enclave have in common is taken apart once.

They are alike to the byte, for as long as a leaf certificate lasts, in all but the time and the 64 bytes of user data.
A payload that equals an earlier one everywhere else must have the same fields everywhere else: in CBOR neither the
eight bytes of a number nor those of a string, once their heads are the same, say anything about what follows. Only
parsing is saved by this, two thirds of the work beside the signature; whatever is decided is decided each time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from perdure.errors import MalformedEvidence
from perdure.evidence.nitro import document
from perdure.evidence.nitro.document import Payload

_TIME_HEAD: Final = b"\x69timestamp\x1b"  # the key, and the head of a number of eight bytes
_TIME_BYTES: Final = 8
_DATA_HEAD: Final = b"\x69user_data\x58\x40"  # the key, and the head of a string of 64 bytes
_DATA_BYTES: Final = 64
_KEY_BYTES: Final = 56
"""The start of a payload, which holds the module's id, finds the form that it may have."""


@dataclass(frozen=True, slots=True)
class _Form:
    """A payload around the two fields, and its fields."""

    before: bytes
    between: bytes
    after: bytes
    fields: Payload

    def parse(self, payload: bytes) -> Payload | None:
        """The fields of a payload that is alike, else None."""
        time_start = len(self.before)
        time_end = time_start + _TIME_BYTES
        data_start = time_end + len(self.between)
        data_end = data_start + _DATA_BYTES
        is_alike = (
            len(payload) == data_end + len(self.after)
            and payload.startswith(self.before)
            and payload[time_end:data_start] == self.between
            and payload[data_end:] == self.after
        )
        time_ms = int.from_bytes(payload[time_start:time_end], "big")
        if not is_alike or not 0 < time_ms <= document.TIME_MS_MAX:
            return None
        return replace(self.fields, time_ms=time_ms, user_data=payload[data_start:data_end])


def _form_of(payload: bytes, fields: Payload) -> _Form | None:
    """The form of a payload with these fields; None if the two are not where they usually are, in that order."""
    time_start = payload.find(_TIME_HEAD) + len(_TIME_HEAD)
    data_start = payload.find(_DATA_HEAD, time_start) + len(_DATA_HEAD)
    time_end, data_end = time_start + _TIME_BYTES, data_start + _DATA_BYTES
    if time_start < len(_TIME_HEAD) or data_start < time_end:
        return None
    form = _Form(payload[:time_start], payload[time_end:data_start], payload[data_end:], fields)
    # The proof that these are the fields, and not other bytes that look like them: they hold the values, and with other
    # values there it is a payload that differs in these two fields, and in nothing else.
    if payload[time_start:time_end] != fields.time_ms.to_bytes(_TIME_BYTES, "big"):
        return None
    if payload[data_start:data_end] != fields.user_data:
        return None
    other_time_ms, other_data = fields.time_ms ^ 1, bytes(byte ^ 0xFF for byte in payload[data_start:data_end])
    other = form.before + other_time_ms.to_bytes(_TIME_BYTES, "big") + form.between + other_data + form.after
    try:
        is_right = document.parse(other) == replace(fields, time_ms=other_time_ms, user_data=other_data)
    except MalformedEvidence:
        return None
    return form if is_right else None


class Forms:
    """The most recently used forms; safe to share between threads."""

    SIZE_MAX: Final = 64

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forms: OrderedDict[bytes, _Form] = OrderedDict()

    def parse(self, payload: bytes) -> Payload:
        """As `document.parse`, result and errors."""
        fields = self._known(payload)
        return document.parse(payload) if fields is None else fields

    def _known(self, payload: bytes) -> Payload | None:
        key = payload[:_KEY_BYTES]
        with self._lock:
            form = self._forms.get(key)
            if form is not None:
                self._forms.move_to_end(key)
        return form.parse(payload) if form is not None else None

    def learn(self, payload: bytes, fields: Payload) -> None:
        """Keep the form of a payload with these fields. Only if hardware signed it: others could push out good ones."""
        form = _form_of(payload, fields) if self._known(payload) is None else None
        if form is None:
            return
        key = payload[:_KEY_BYTES]
        with self._lock:
            self._forms[key] = form
            self._forms.move_to_end(key)
            if len(self._forms) > self.SIZE_MAX:
                self._forms.popitem(last=False)

    def __len__(self) -> int:
        with self._lock:
            return len(self._forms)
