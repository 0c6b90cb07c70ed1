"""Every error that Perdure raises on purpose, in families by whose fault it is and what to do.

What a user sees is the message: what happened, what is still safe, what to do next. What a program sees is
the class; what a shell sees is `exit_code`: 1 degraded, 2 unusable, 3 evidence of rollback or cloning.

This module imports nothing of ours, so every room may import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PerdureError(Exception):
    """Base of all; `exit_code` is what the command line returns when the error reaches it."""

    exit_code = 2


class Misuse(PerdureError):
    """The caller asked for something that cannot be done: a bad argument, a bad file, a wrong order."""


class Refused(PerdureError):
    """A disk refused a command; `reason` is the number from its closed list (docs/spec.md, section 3)."""

    def __init__(self, message: str, reason: int) -> None:
        super().__init__(message)
        self.reason = reason


class Conflict(PerdureError):
    """Somebody else has changed it in between: `found` is the version that it has, and nothing was changed."""

    def __init__(self, message: str, found: int = 0) -> None:
        super().__init__(message)
        self.found = found


class Disconnected(PerdureError):
    """The transport to a disk broke; whether the last command was carried out is not known."""


class Unavailable(PerdureError):
    """Too few disks answer. Nothing is lost that was acknowledged, and nothing older is served."""


class DiskLost(Unavailable):
    """One disk is given up: it stayed silent too long, or it came back as another instance."""


class Blank(DiskLost):
    """A disk was restarted: it is another instance, and remembers nothing."""


class TakenOffline(DiskLost):
    """An operator took the disk out of use. It may come back with what it holds."""


class Corrupt(PerdureError):
    """Bytes that must authenticate do not. Nothing wrong is returned in their place."""


class Unproved(PerdureError):
    """All that was shown is true, but it does not add up to what was asked for."""


class NotAuthorised(PerdureError):
    """Not enough of the developers have signed."""


# Evidence -------------------------------------------------------------------------------------------------


class BadEvidence(PerdureError):
    """A hardware attestation does not prove what it must."""


class MalformedEvidence(BadEvidence):
    """The document does not have the one shape that its platform's format allows."""


class UntrustedRoot(BadEvidence):
    """The chain does not start at a root that the policy names."""


class BadChain(BadEvidence):
    """A certificate of the chain does not verify: signature, names, constraints or usage."""


class ExpiredEvidence(BadEvidence):
    """The document or a certificate of its chain is not valid at the time asked about."""


class BadSignature(BadEvidence):
    """The document's own signature does not verify under its leaf key."""


class DebugMode(BadEvidence):
    """The enclave runs in debug mode: its memory can be read by the host."""


class WrongMeasurement(BadEvidence):
    """Another program, or one built for another authority, than the policy allows."""


class OutdatedTcb(BadEvidence):
    """The platform's firmware or microcode is older, or in a worse state, than the policy demands."""


class ForbiddenLaunch(BadEvidence):
    """The guest was launched in a way that the policy forbids: migration, a privilege level, a shared core."""


class MissingCollateral(BadEvidence):
    """Certificates or statements of the hardware's maker that are needed to judge the evidence are not at hand."""


class WrongCommitment(BadEvidence):
    """Good evidence for something else than what was asked: an old answer replayed, or an altered one."""

    exit_code = 3


# Forks ----------------------------------------------------------------------------------------------------


class Fork(PerdureError):
    """Evidence that time was turned back or that there are two of what there must be one of."""

    exit_code = 3


class Fenced(Fork):
    """Another main program mounted the array after us; nothing of ours is acknowledged any more."""


class OldProgram(Fork):
    """A newer release of the main program has mounted the array: this one was put back in its place."""


class Rollback(Fork):
    """A disk proves that it lacks what was acknowledged in its name: acknowledgements were forged."""


class LeakedSecret(Rollback):
    """The same although links of its acknowledgement chain came: somebody else knows the chain's secret."""


class Clone(Fork):
    """A disk presents itself in the place of another instance."""


def too_few(what: str, reasons: list[tuple[str, PerdureError]]) -> PerdureError:
    """The error for too few disks; `reasons` says of each that is missing where it was and what is wrong with it.

    Where evidence against one of them shows a fork, that is what the user must see.
    """
    kind = Fork if any(why.exit_code == Fork.exit_code for _, why in reasons) else Unavailable
    return kind(" ".join([what, *(f"[{where}] {why}" for where, why in reasons)]))


# In JSON --------------------------------------------------------------------------------------------------


def error_to_json(error: PerdureError) -> dict[str, Any]:
    """How an error is written in JSON everywhere: class, sentence, exit code."""
    return {"class": type(error).__name__, "message": str(error), "exit_code": error.exit_code}


def error_from_json(value: Mapping[str, Any]) -> PerdureError:
    """The error that the other side had, of the same class where this release knows it."""
    kind, message = globals().get(str(value.get("class"))), str(value.get("message"))
    if not isinstance(kind, type) or not issubclass(kind, PerdureError) or issubclass(kind, Refused):
        kind = PerdureError
    error: PerdureError = kind(message)
    error.exit_code = int(value.get("exit_code", error.exit_code))
    return error
