"""What evidence says once it is verified; the same for every platform.

A `VerifiedEvidence` exists only as a verifier's result. It says who runs and what that program put into the
hardware's report data. It does not say that the report data is the answer one waits for: `expect_report_data` does.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from perdure.errors import Misuse, WrongCommitment
from perdure.evidence.roots import Platform

COMMITMENT_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class EnclavePcrs:
    """Nitro's measurement, 48 bytes each. `pcr4` names the parent instance, `pcr8` the image's signer."""

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr4: bytes | None
    pcr8: bytes | None


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """A genuine statement by hardware under a root that the policy names, about a program that it allows.

    `root` is the policy's name for the trust anchor. `module_id` names the host instance and the launch. `time_ms`
    is the hardware's clock when it signed, in Unix milliseconds; `leaf_not_after_ms` is when its key certificate ends.
    """

    platform: Platform
    root: str
    measurement: EnclavePcrs
    report_data: bytes | None
    module_id: str
    time_ms: int
    leaf_not_after_ms: int


def expect_report_data(verified: VerifiedEvidence, commitment: bytes) -> None:
    """Return if the evidence commits to exactly these 64 bytes; raise WrongCommitment otherwise.

    Takes the same time wherever the bytes differ. Raises Misuse if `commitment` does not have 64 bytes.
    """
    if len(commitment) != COMMITMENT_BYTES:
        raise Misuse(f"A commitment has {COMMITMENT_BYTES} bytes, not {len(commitment)}.")
    if verified.report_data is None or not hmac.compare_digest(verified.report_data, commitment):
        raise WrongCommitment(
            f"The evidence of {verified.module_id} is genuine, but it was made for another question or another answer; "
            "the answer is not used. Somebody between here and the disk replays or alters messages."
        )
