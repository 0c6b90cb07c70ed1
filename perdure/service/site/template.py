"""The text of a configuration: the commented file that `up` writes, and one value changed with all comments kept."""

from __future__ import annotations

import re
import tomllib
from typing import Final

from perdure.errors import Misuse


def render(
    *,
    disks: int,
    threshold: int,
    size: str,
    addresses: tuple[str, ...],
    listen: str,
    dead_after_ms: int,
    acknowledgements: str = "evidence",
    spares: tuple[str, ...] = (),
    http: str | None = None,
    sealing: str = "perdure",
) -> str:
    """The commented file that `up` writes; without an id, which `create` adds."""
    lines = "".join(f'    "{address}",\n' for address in addresses)
    return _TEMPLATE.format(
        disks=f"disks = {disks}",
        threshold=f"threshold = {threshold}",
        size=f'size = "{size}"',
        sealing='# sealing = "none"' if sealing == "perdure" else f'sealing = "{sealing}"',
        addresses=lines,
        spares=_spares(spares),
        http='# http = "127.0.0.1:9464"' if http is None else f'http = "{http}"',
        listen=f'listen = "{listen}"',
        dead_after_ms=f"dead-after-ms = {dead_after_ms}",
        acknowledgements=f'acknowledgements = "{acknowledgements}"',
    )


def _spares(addresses: tuple[str, ...]) -> str:
    if not addresses:
        return '# spares = ["tcp:10.0.0.9:7001"]  # blank disks that take the seat of one that is dead, by themselves\n'
    items = ", ".join(f'"{address}"' for address in addresses)
    return f"# Blank disks that take the seat of one that is dead, by themselves.\nspares = [{items}]\n"


def without_spare(text: str, index: int) -> str:
    """`text` without that one of `[disks] spares`, comments kept. Raises Misuse as `with_value` does."""
    try:
        before = tomllib.loads(text)
        spares = before["disks"]["spares"]
        del spares[index]
        found = _SPARES.search(text)
        items = ", ".join(f'"{one}"' for one in spares)
        changed = f"{text[: found.start(1)]}[{items}]{text[found.end(1) :]}"  # type: ignore[union-attr]
        if before == tomllib.loads(changed):
            return changed
    except (tomllib.TOMLDecodeError, KeyError, TypeError, IndexError, AttributeError):
        pass  # as above
    raise Misuse(
        "A spare that is one no more cannot be taken out of the configuration; remove it from [disks] yourself."
    )


def with_value(text: str, table: str, key: str, value: str) -> str:
    """`text` with `key = "value"` in `[table]`, comments kept: in place of the key's line, else first in the table.

    Raises Misuse when the file is written in a way that this cannot change; then the user must write the line.
    """
    line, lines = f'{key} = "{value}"', text.splitlines()
    try:
        start = next(at for at, found in enumerate(lines) if re.fullmatch(rf"\s*\[{table}\]\s*(#.*)?", found)) + 1
        end = next((at for at in range(start, len(lines)) if re.match(r"\s*\[", lines[at])), len(lines))
        place = next((at for at in range(start, end) if re.match(rf"\s*{key}\s*=", lines[at])), None)
        lines[start if place is None else place : start if place is None else place + 1] = [line]
        changed = "\n".join(lines) + "\n"
        before, after = tomllib.loads(text), tomllib.loads(changed)
        before[table][key] = value
        if before == after:
            return changed
    except (StopIteration, tomllib.TOMLDecodeError, KeyError, TypeError):
        pass  # whatever is odd about the file, the sentence below says what to do
    raise Misuse(f"The line `{line}` cannot be put into [{table}] of the configuration; write it there yourself.")


def with_address(text: str, seat: int, address: str) -> str:
    """`text` with the address of `seat` in `[disks] addresses`, comments kept. Raises Misuse as `with_value` does."""
    try:
        before = tomllib.loads(text)
        old = before["disks"]["addresses"]
        places = [place.span(1) for place in _ITEM.finditer(text, _LIST.search(text).end()) if place[1]]  # type: ignore[union-attr]
        start, end = places[seat]
        changed = f'{text[:start]}"{address}"{text[end:]}'
        old[seat] = address
        if before == tomllib.loads(changed):
            return changed
    except (tomllib.TOMLDecodeError, KeyError, TypeError, IndexError, AttributeError):
        pass  # as above
    raise Misuse(
        f"The address {address} cannot be put into the configuration for seat {seat}; write it into [disks] yourself."
    )


_LIST: Final = re.compile(r"^\s*addresses\s*=\s*\[", re.MULTILINE)
_SPARES: Final = re.compile(r"^\s*spares\s*=\s*(\[[^\]]*\])", re.MULTILINE)
_ITEM: Final = re.compile(r"""("[^"\n]*"|'[^'\n]*')|#.*""")
"""An address between quotes, or a comment, which may hold anything."""

_TEMPLATE: Final = """\
# Perdure's configuration. Relative paths start at this file's directory.

[array]
# The trusted inputs are three: the key, the array's id and the policy. The id is a hash over k, n, the size, the
# authority's public key, the policy and the first disks; so another policy or another array under this id is refused.
# `create` writes `id` here. Keep a copy of it and of the key elsewhere: they are what you bring to another machine.
key-file = "authority.key"        # 32 bytes in hexadecimal; must be readable by its owner only
policy-file = "policy.json"       # which hardware roots and which disk programs are accepted as evidence
{disks:33} # n: how many disks hold the array
{threshold:33} # k: how many must be there; n - k may be lost; more than half of n
{size:33} # what the array presents; a multiple of 4096 bytes
{sealing:33} # "none": hosts READ EVERYTHING; only for what encrypts above, such as LUKS

[disks]
# Hints by the owner of this machine: where disks may be found. Who answers there proves what it is, or is not used.
# unix:PATH, tcp:HOST:PORT or vsock:CID:PORT; in the order of the seats.
addresses = [
{addresses}]
# zones = ["paris", "oslo", "rome"] # what each one's place is called; no zone gets more seats than the policy allows
# collateral = "collateral"        # a folder of certificates (*.der, *.pem) and Intel's statements (*.json)
{spares}
[serve]
{listen:33} # where NBD is served: unix:PATH or tcp:HOST:PORT; no password, so keep it private
control = "control.sock"          # where `status`, `export` and `down` find the main program
attest = "flush"                  # "every-read": evidence with every read too; slow
{acknowledgements:33} # "chains", if the policy allows it: faster, and weaker (docs/threat-model.md)
{dead_after_ms:33} # a disk silent for this long is voted off; writes wait so long
answer-ms-max = 5000              # how long one answer may take before the connection is tried anew
# when-too-few-disks = "freeze"    # wait for disks that are silent, however long, rather than fail ("fail")
{http:33} # a page to look at, /metrics, /healthz, /readyz; read-only; shows no data and no key

[repair]
# scrub-every = "30d"              # read everything from every disk so often, with evidence, and mend what is wrong
# scrub-rate = "50M"               # at most so many bytes a second, so that clients do not notice
# replace-rate = "100M"            # the same when a spare takes an empty seat

[tell]
log = "human"                     # "json": one object a line
# webhook = "https://example.com/perdure" # every event is posted there as JSON
"""
