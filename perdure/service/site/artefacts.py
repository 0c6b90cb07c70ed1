"""The files beside the configuration: the private key, the policy, and `array.json`, a record for people and tools.

Trusts the key and the policy as the user's own. `array.json` is a record of what `create` made; `up` finds the id there
when the configuration has lost it. Where a host could change it, bring the id from elsewhere. Every file is written
whole or not at all, and nothing here prints a key.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from perdure.array.commands import Authority
from perdure.array.genesis import Genesis
from perdure.errors import Misuse
from perdure.evidence.policy import Policy

ARRAY_FILE: Final = "array.json"
MAIN_LOCK_FILE: Final = "main.lock"
MAIN_PROCESS_FILE: Final = "main.pid"
MAIN_LOG_FILE: Final = "main.log"
UNKEPT_FILE: Final = "unkept-events.json"
VERSION: Final = 1
FILE_BYTES_MAX: Final = 1 << 20
_SECRET_BYTES_MAX: Final = 256


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a whole file, or leave the old one, even if the machine stops now. Raises Misuse if it cannot."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise Misuse(
            f"The file {path} cannot be written ({error.strerror}); the old one, if any, is as it was."
        ) from None


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_bounded(path: Path, what: str, *, bytes_max: int = FILE_BYTES_MAX) -> bytes:
    """The file's bytes; Misuse when it cannot be read or has more than `bytes_max`."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise Misuse(f"The {what} {path} cannot be read ({error.strerror}); nothing was changed.") from None
    if len(data) > bytes_max:
        raise Misuse(f"The {what} {path} has more than {bytes_max} bytes: it is another file; nothing was changed.")
    return data


# The key --------------------------------------------------------------------------------------------------


def new_key(path: Path) -> Authority:
    """Draw an authority key and write it to a file that must not exist. Raises Misuse; never overwrites."""
    authority = _draw_authority()
    write_key(path, authority)
    return authority


def write_key(path: Path, authority: Authority) -> None:
    """Write an authority's private key, for its owner only, to a file that must not exist. Raises Misuse."""
    write_secret(path, authority.private_key.hex().encode() + b"\n")


def write_secret(path: Path, data: bytes) -> None:
    """Write `data`, for its owner only, to a file that must not exist. Raises Misuse; never overwrites."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)
    except FileExistsError:
        raise Misuse(
            f"The file {path} exists and was left as it is: a lost key is a lost array. Choose another name, or move "
            "that file away first."
        ) from None
    except OSError as error:
        raise Misuse(f"The key file {path} cannot be written ({error.strerror}); there is no new key.") from None


def _draw_authority() -> Authority:
    while True:
        try:
            return Authority(os.urandom(32))
        except Misuse:  # not a secp256k1 scalar, once in 2^128 draws
            continue


def read_key(path: Path) -> Authority:
    """The authority whose key the file holds: 64 hexadecimal digits, readable by the owner only. Raises Misuse."""
    data = _read_secret(path, "Without the key the array cannot be opened: bring the file back from your copy.")
    match = re.fullmatch(rb"([0-9a-fA-F]{64})\s*", data)
    if match is None:
        raise Misuse(
            f"The key file {path} does not hold 32 bytes as 64 hexadecimal digits; nothing was started. Use the file "
            "that `perdure key new` made."
        )
    return Authority(bytes.fromhex(match[1].decode()))


def read_seed(path: Path) -> bytes:
    """The secret of another program in the file, readable by the owner only. Raises Misuse.

    What is text (UTF-8) has to be hexadecimal digits; any other bytes are the secret itself. So words, a digit too few
    or a byte order mark are refused, and never taken for a secret that nobody finds again. The price: one binary secret
    of 16 bytes in some thousand happens to be text, and has to be given as digits.
    """
    data = _read_secret(path, "Name the file with the secret to derive from.")
    try:
        data.decode()
    except UnicodeDecodeError:
        return data
    match = re.fullmatch(rb"((?:[0-9a-fA-F]{2})+)\s*", data)
    if match is None:
        raise Misuse(
            f"The file {path} holds text that is not an even number of hexadecimal digits; nothing was derived. Give "
            "the seed itself, not its words, an extended key or a password; as digits if it came as bytes."
        )
    return bytes.fromhex(match[1].decode())


def _read_secret(path: Path, lost: str) -> bytes:
    """The start of a file that only its owner can touch; `lost` is what to say when there is none. Raises Misuse."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_SECRET_BYTES_MAX)
    except OSError as error:
        raise Misuse(f"The key file {path} cannot be read ({error.strerror}); nothing was started. {lost}") from None
    if mode & _foreign_bits(path):
        raise Misuse(
            f"The key file {path} can be read by others than its owner (mode {mode:04o}); nothing was started. Run "
            f"`chmod 600 {path}`, and make a new key and array if somebody may have read it."
        )
    return data


def _foreign_bits(path: Path) -> int:
    """The bits of a key file's mode by which others than its owner could touch it.

    systemd gives a credential to its service by an access list, whose mask shows as the group's read bit although no
    group has it (`write_credential` in systemd's src/core/exec-credential.c).
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return 0o037 if credentials and path.parent == Path(credentials) else 0o077


def read_policy(path: Path) -> Policy:
    """The policy in the file. Raises Misuse that names the file and the key at fault."""
    data = read_bounded(path, "policy file")
    try:
        return Policy.from_json(data)
    except Misuse as error:
        raise Misuse(
            f"In {path}: {error} Nothing was changed; bring back the file the array was created with."
        ) from None


def read_certificate(path: Path) -> bytes:
    """The DER of the certificate (DER or PEM) in the file. Raises Misuse."""
    data = read_bounded(path, "certificate")
    try:
        is_pem = data.lstrip().startswith(b"-----BEGIN")
        certificate = x509.load_pem_x509_certificate(data) if is_pem else x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion):
        raise Misuse(f"{path} is not an X.509 certificate, neither DER nor PEM; nothing was changed.") from None
    return certificate.public_bytes(Encoding.DER)


# The record -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArrayRecord:
    """What `create` made. `instances` are hexadecimal, in the order of the seats; `policy_file` is a name, no path."""

    array_id: str
    k: int
    n: int
    size_bytes: int
    instances: tuple[str, ...]
    policy_file: str
    version: int = VERSION

    @classmethod
    def of(cls, genesis: Genesis, policy_file: Path) -> ArrayRecord:
        """The record of a new array."""
        shape = genesis.geometry
        instances = tuple(instance.hex() for instance in genesis.instances)
        return cls(genesis.array_id.hex(), shape.k, shape.n, shape.size_bytes, instances, policy_file.name)

    def write(self, directory: Path) -> None:
        """Write `array.json`."""
        write_atomic(directory / ARRAY_FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())


def read_record(directory: Path) -> ArrayRecord | None:
    """The record in `array.json`, None if there is no such file. Raises Misuse."""
    path = directory / ARRAY_FILE
    if not path.exists():
        return None
    try:
        return _record(json.loads(read_bounded(path, "record")))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Misuse(
            f"The record {path} is damaged; the array itself is not. Move the file away: the id in the configuration "
            "is what counts."
        ) from None


def _record(value: Any) -> ArrayRecord:  # noqa: ANN401  (JSON)
    instances = tuple(str(instance) for instance in value["instances"])
    record = ArrayRecord(**{**value, "instances": instances})
    numbers = (record.k, record.n, record.size_bytes)
    if record.version != VERSION or not re.fullmatch("[0-9a-f]{64}", record.array_id):
        raise ValueError("another version, or no id")
    if any(type(number) is not int for number in numbers):
        raise TypeError("numbers are whole")
    return record
