"""What manifests, lists of developers and signatures have in common: strict JSON objects with one canonical form.

Order and white space are free when a file is read; all else is strict. The canonical form is ASCII with sorted keys and
no white space, so that equal contents are equal bytes, can be signed, and have one digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from perdure.errors import Misuse

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""A name of a program or a developer. It is shown to people, so it has no characters that look like others."""


def canonical(value: Mapping[str, Any]) -> bytes:
    """The one form of a JSON object that is signed and hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def tagged(tag: bytes, data: bytes) -> bytes:
    """32 bytes: BIP-340's tagged hash, so that what is signed for one purpose is nothing under another's."""
    prefix = hashlib.sha256(tag).digest()
    return hashlib.sha256(prefix + prefix + data).digest()


def read_object(data: bytes, what: str, *, bytes_max: int) -> dict[str, Any]:
    """The JSON object in `data`. Raises Misuse if it is none, is too large, or has a key twice anywhere in it."""
    if len(data) > bytes_max:
        raise Misuse(f"The {what} has more than {bytes_max} bytes, so it is none.")
    try:
        value = json.loads(data, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise Misuse(f"The {what} is not JSON: {error!s:.200}.") from None
    return _object(value, what)


def keys(value: object, what: str, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """`value` if it is an object with all of the required keys and no unknown one. Raises Misuse that names the key."""
    fields = _object(value, what)
    if unknown := sorted(fields.keys() - {*required, *optional}):
        raise Misuse(f"The {what} has the unknown key {unknown[0]!a:.80}.")
    if missing := sorted({*required} - fields.keys()):
        raise Misuse(f"The {what} lacks the key {missing[0]!r}.")
    return fields


def items(value: object, what: str, *, count_max: int) -> list[Any]:
    """`value` if it is a list of at most `count_max` things. Raises Misuse."""
    if not isinstance(value, list) or len(value) > count_max:
        raise Misuse(f"The {what} is not a list of at most {count_max}.")
    return value


def text(value: object, what: str) -> str:
    """`value` if it is text. Raises Misuse."""
    if not isinstance(value, str):
        raise Misuse(f"The {what} is not text.")
    return value


def number(value: object, what: str, *, least: int, most: int) -> int:
    """`value` if it is a whole number from `least` to `most`. Raises Misuse."""
    if type(value) is not int or not least <= value <= most:
        raise Misuse(f"The {what} is not a whole number from {least} to {most}.")
    return value


def hexadecimal(value: object, what: str, *, length: int) -> bytes:
    """The `length` bytes that `value` names in lower-case hexadecimal. Raises Misuse."""
    if not isinstance(value, str) or len(value) != 2 * length or not re.fullmatch(r"[0-9a-f]+", value):
        raise Misuse(f"The {what} is not {length} bytes in lower-case hexadecimal.")
    return bytes.fromhex(value)


def name(value: object, what: str) -> str:
    """`value` if it is a name. Raises Misuse."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise Misuse(f"The {what} is 1 to 64 characters of a-z, 0-9 and '-', not {value!a:.80}.")
    return value


def one_of(value: object, what: str, choices: Iterable[str]) -> str:
    """`value` if it is one of the choices. Raises Misuse that lists them."""
    listed = tuple(choices)
    if not isinstance(value, str) or value not in listed:
        raise Misuse(f"The {what} is one of {', '.join(listed)}, not {value!a:.80}.")
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Misuse(f"The {what} is not a JSON object.")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key!a:.80} is there twice")
        value[key] = item
    return value
