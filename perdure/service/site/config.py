"""The one configuration file, `perdure.toml`. Strict: a key that is unknown, missing or of a wrong type is an error.

What is trusted: the key file, the array's id and the policy file. They belong to the developers and the authority;
the id is a hash that covers k, n, the size, the authority's public key, the policy and the first disks. Everything
else in the file is a hint by whoever owns the machine: a wrong one can keep the array closed, never falsify it. Whoever
reaches the NBD socket reads and writes plaintext, so it is a Unix socket or a loopback address, and nothing else.
Relative paths, those in `unix:` addresses too, start at the file's own directory.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from perdure.array.roster import NO_PROGRAM, Program
from perdure.disk import address as disk_address
from perdure.errors import Misuse

NAME: Final = "perdure.toml"
CONFIG_BYTES_MAX: Final = 1 << 20
RATE_MIN: Final = 256 << 10
"""The least rate of repair: it goes on in steps of a mebibyte, and a main program that stops may wait for one."""
SOCKET_PATH_BYTES_MAX: Final = 107
"""What Linux allows for the path of a Unix socket (`sun_path` has 108 bytes, the last one zero)."""
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_E = TypeVar("_E", bound=StrEnum)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")
_PROGRAM: Final = re.compile(r"([1-9][0-9]{0,18}):([0-9a-f]{64})")
_SIZE: Final = re.compile(r"([0-9]{1,19})(?:([KMGT])(?:i?B)?)?")


class Attest(StrEnum):
    """When evidence is asked for beside mounts and first touches: at each flush, or with every read too (slow)."""

    FLUSH = "flush"
    EVERY_READ = "every-read"


class Acknowledgements(StrEnum):
    """What a FLUSH rests on: evidence each time, or chains with evidence now and then (faster, and weaker)."""

    EVIDENCE = "evidence"
    CHAINS = "chains"


class Sealing(StrEnum):
    """Who encrypts what stands on the disks: Perdure, or what runs on the array, such as LUKS."""

    PERDURE = "perdure"
    NONE = "none"


class LogFormat(StrEnum):
    """Lines for people, or one JSON object a line."""

    HUMAN = "human"
    JSON = "json"


class WhenTooFew(StrEnum):
    """What happens when silence would leave fewer than k disks: the array ends, or waits for disks to be back."""

    FAIL = "fail"
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class ArraySection:
    """Which array. `array_id` is None until `create` has made one; k is `threshold`, n is `disks`."""

    array_id: bytes | None
    key_file: Path
    policy_file: Path
    disks: int
    threshold: int
    size_bytes: int
    program: Program = NO_PROGRAM
    """Which signed main program this is, as the loader found it to be."""
    sealing: Sealing = Sealing.PERDURE


@dataclass(frozen=True, slots=True)
class ServeSection:
    """How it is presented; times in milliseconds (see `perdure.api.Settings`)."""

    listen: str
    control: Path
    attest: Attest
    dead_after_ms: int
    answer_ms_max: int
    acknowledgements: Acknowledgements
    http: str | None = None
    """`HOST:PORT` of the page and the metrics; None for none."""
    when_too_few_disks: WhenTooFew = WhenTooFew.FAIL


@dataclass(frozen=True, slots=True)
class RepairSection:
    """What is mended by itself. Rates are bytes of the array a second; None is no limit, or never."""

    scrub_every_s: int | None = None
    scrub_rate: int | None = None
    replace_rate: int | None = None


@dataclass(frozen=True, slots=True)
class TellSection:
    """Who is told: a URL to which each event is posted, and the form of the log."""

    webhook: str | None = None
    log: LogFormat = LogFormat.HUMAN


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration, paths absolute. `addresses` are in the order of the seats when `create` runs."""

    path: Path
    array: ArraySection
    addresses: tuple[str, ...]
    zones: tuple[str, ...]
    """What each address's place is called; empty when nothing is said of that."""
    collateral: Path | None
    """The folder of what verifiers may need beside evidence; None when there is none."""
    serve: ServeSection
    spares: tuple[str, ...] = ()
    """Where blank disks wait that may take an empty seat."""
    repair: RepairSection = RepairSection()
    tell: TellSection = TellSection()

    @property
    def directory(self) -> Path:
        """Where the file is, and with it the artefacts."""
        return self.path.parent


def load(path: Path) -> Config:
    """Read the file; raises Misuse whose one sentence names the file, and the key if one is at fault."""
    path = path.absolute()
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise Misuse(
            f"The configuration {path} cannot be read ({error.strerror}); nothing was changed. Name another with "
            "--config or --directory, or let `perdure up` make one."
        ) from None
    return parse(data, path)


def parse(data: bytes, path: Path) -> Config:
    """The same for bytes that were read from `path`."""
    if len(data) > CONFIG_BYTES_MAX:
        raise Misuse(f"{path} has more than {CONFIG_BYTES_MAX} bytes: it is no configuration. Nothing was changed.")
    try:
        document = tomllib.loads(data.decode())
        return _config(document, path)
    except UnicodeDecodeError:
        raise Misuse(f"In {path}: it is not UTF-8 text. Nothing was changed; correct the file.") from None
    except tomllib.TOMLDecodeError as error:
        raise Misuse(f"In {path}: it is not TOML: {error}. Nothing was changed; correct the file.") from None
    except Misuse as error:
        raise Misuse(f"In {path}: {error}. Nothing was changed; correct the file.") from None


def parse_size(text: str) -> int:
    """Bytes from `4096`, `256M`, `1GiB`; K, M, G and T are powers of 1,024. Raises Misuse."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Misuse(f"{text!r:.80} is not a size; write a number of bytes, or one with K, M, G or T as in 256M")
    return int(match[1]) * _UNITS[match[2] or ""]


def _config(document: Mapping[str, Any], path: Path) -> Config:
    readers = dict.fromkeys(("array", "disks", "serve", "repair", "tell"), _table)
    tables = _read(document, "", readers, optional={"repair", "tell"})
    base = path.parent
    array = _read(
        tables["array"],
        "array",
        {
            "id": _id,
            "key-file": _text,
            "policy-file": _text,
            "disks": _count,
            "threshold": _count,
            "size": _size,
            "program": _program,
            "sealing": _sealing,
        },
        optional={"id", "program", "sealing"},
    )
    disks = _read(
        tables["disks"],
        "disks",
        {"addresses": _addresses, "zones": _zones, "collateral": _text, "spares": _spares},
        optional={"zones", "collateral", "spares"},
    )
    zones = disks.get("zones", [])
    if zones and len(zones) != len(disks["addresses"]):
        raise Misuse("'disks.zones' must have one name for each of 'disks.addresses'")
    spares = tuple(absolute_address(address, base) for address in disks.get("spares", []))
    if set(disks.get("spares", [])) & set(disks["addresses"]):
        raise Misuse("'disks.spares' names an address of 'disks.addresses'; a spare is at one of its own")
    repair = _read(
        tables.get("repair", {}),
        "repair",
        {"scrub-every": _duration, "scrub-rate": _rate, "replace-rate": _rate},
        optional={"scrub-every", "scrub-rate", "replace-rate"},
    )
    tell = _read(tables.get("tell", {}), "tell", {"webhook": _url, "log": _log_format}, optional={"webhook", "log"})
    serve = _read(
        tables["serve"],
        "serve",
        {
            "listen": _listen,
            "control": _text,
            "attest": _attest,
            "acknowledgements": _acknowledgements,
            "dead-after-ms": _count,
            "answer-ms-max": _count,
            "http": host_and_port,
            "when-too-few-disks": _when_too_few,
        },
        optional={"acknowledgements", "http", "when-too-few-disks"},
    )
    return Config(
        path=path,
        array=ArraySection(
            array.get("id"),
            base / array["key-file"],
            base / array["policy-file"],
            array["disks"],
            array["threshold"],
            array["size"],
            array.get("program", NO_PROGRAM),
            array.get("sealing", Sealing.PERDURE),
        ),
        addresses=tuple(absolute_address(address, base) for address in disks["addresses"]),
        zones=tuple(zones),
        collateral=base / disks["collateral"] if "collateral" in disks else None,
        serve=ServeSection(
            absolute_address(serve["listen"], base),
            base / serve["control"],
            serve["attest"],
            serve["dead-after-ms"],
            serve["answer-ms-max"],
            serve.get("acknowledgements", Acknowledgements.EVIDENCE),
            serve.get("http"),
            serve.get("when-too-few-disks", WhenTooFew.FAIL),
        ),
        spares=spares,
        repair=RepairSection(repair.get("scrub-every"), repair.get("scrub-rate"), repair.get("replace-rate")),
        tell=TellSection(tell.get("webhook"), tell.get("log", LogFormat.HUMAN)),
    )


def absolute_address(address: str, base: Path) -> str:
    """`address` with the path of a Unix socket made absolute. Raises Misuse when Linux could not take the path."""
    kind, _, path = address.partition(":")
    if kind != "unix":
        return address
    absolute = base / path
    if len(bytes(absolute)) > SOCKET_PATH_BYTES_MAX:
        raise Misuse(
            f"The socket path {absolute} is longer than the {SOCKET_PATH_BYTES_MAX} bytes that Linux allows; use a "
            "directory with a shorter name"
        )
    return f"unix:{absolute}"


# Reading one key ------------------------------------------------------------------------------------------


def _read(
    table: Mapping[str, Any],
    name: str,
    readers: Mapping[str, Callable[[object], Any]],
    optional: frozenset[str] | set[str] = frozenset(),
) -> dict[str, Any]:
    """The values of a table, each through its reader. Unknown before missing: a misspelt key is both."""
    for key in table:
        if key not in readers:
            near = difflib.get_close_matches(key, readers, n=1, cutoff=0.5)
            known = f"did you mean '{near[0]}'?" if near else f"the keys there are {', '.join(readers)}"
            raise Misuse(f"{_where(name, key)} is not a key that Perdure knows ({known})")
    for key in readers:
        if key not in table and key not in optional:
            raise Misuse(f"{_where(name, key)} is missing")
    values = {}
    for key, value in table.items():
        try:
            values[key] = readers[key](value)
        except Misuse as error:
            raise Misuse(f"{_where(name, key)} {error}") from None
    return values


def _where(name: str, key: str) -> str:
    return f"'{name}.{key}'" if name else f"the table [{key}]"


def _table(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Misuse("must be a table")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Misuse("must be text that is not empty")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise Misuse("must be a whole number above 0")
    return value


def _size(value: object) -> int:
    if type(value) is int and 0 < value < 1 << 63:
        return value
    if not isinstance(value, str):
        raise Misuse('must be a size: a number of bytes, or text such as "256M"')
    try:
        return parse_size(value)
    except Misuse as error:
        raise Misuse(f"must be a size, but {error}") from None


def _id(value: object) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise Misuse("must be the array's id as `create` printed it: 64 hexadecimal digits, lower case")
    return bytes.fromhex(value)


def _program(value: object) -> Program:
    match = _PROGRAM.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) >= 1 << 63:
        raise Misuse("must be the version and the digest of a manifest, as VERSION:DIGEST; a loader writes it")
    return Program(int(match[1]), bytes.fromhex(match[2]))


def _sealing(value: object) -> Sealing:
    return _one_of(Sealing, value)


def _attest(value: object) -> Attest:
    return _one_of(Attest, value)


def _acknowledgements(value: object) -> Acknowledgements:
    return _one_of(Acknowledgements, value)


def _when_too_few(value: object) -> WhenTooFew:
    return _one_of(WhenTooFew, value)


def _one_of(kinds: type[_E], value: object) -> _E:
    if value not in tuple(kinds):
        raise Misuse(f"must be one of {', '.join(repr(str(kind)) for kind in kinds)}")
    return kinds(str(value))


def _listen(value: object) -> str:
    kind, _, place = _text(value).partition(":")
    if kind not in ("unix", "tcp") or not place:
        raise Misuse("must be an address to serve at: unix:PATH or tcp:HOST:PORT")
    if kind == "tcp" and not _is_loopback(place):
        raise Misuse(
            "must be a loopback address: NBD has no password and no encryption, so whoever reaches it reads and writes "
            "plaintext; forward a Unix socket over a channel of your own instead"
        )
    return str(value)


def _is_loopback(place: str) -> bool:
    host = place.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _duration(value: object) -> int:
    """Seconds."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise Misuse('must be a time such as "30d", "12h", "45m" or "90s"')
    return int(match[1]) * _SECONDS[match[2]]


def _rate(value: object) -> int:
    rate = _size(value)
    if rate < RATE_MIN:
        raise Misuse(f"must be at least {RATE_MIN >> 10}K bytes a second")
    return rate


def _url(value: object) -> str:
    """A URL that can be posted to. A name and password in it would never be sent, and end up in logs."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or not text.isascii() or not text.isprintable() or " " in text:
        raise Misuse("must be a URL that begins with http:// or https:// and names a host that can be")
    if "@" in parts.netloc:
        raise Misuse("must have no name and password in it: they would not be sent; put a secret into the path")
    return text


def _log_format(value: object) -> LogFormat:
    return _one_of(LogFormat, value)


def host_and_port(value: object) -> str:
    """`HOST:PORT` as it is. Raises Misuse."""
    host, colon, port = _text(value).rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Misuse("must be HOST:PORT, as in 127.0.0.1:9464")
    return str(value)


def _spares(value: object) -> list[str]:
    return _addresses(value) if value != [] else []


def _zones(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(zone, str) and zone for zone in value):
        raise Misuse("must be a list of names")
    return value


def _addresses(value: object) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise Misuse("must be a list of addresses that is not empty")
    for item in value:
        try:
            disk_address.parse(item)
        except ValueError as error:
            raise Misuse(f"has {error}") from None
    if len(set(value)) != len(value):
        raise Misuse("names an address twice")
    return value
