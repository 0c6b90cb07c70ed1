"""What evidence says once it is verified; the same for every platform.

A `VerifiedEvidence` exists only as a verifier's result. It says who runs and what that program put into the
hardware's report data. It does not say that the report data is the answer one waits for: `expect_report_data` does.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from perdure.errors import Misuse, WrongCommitment
from perdure.evidence.roots import Platform

COMMITMENT_BYTES: Final = 64
TPM_REPORT_DATA_BYTES: Final = 32
"""A TPM takes no more qualifying data than its largest digest and two bytes: 34 where that is SHA-256. So on every TPM
the report data is the first 32 bytes of the commitment."""


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """A genuine statement by hardware under a root that the policy names, about a program that it allows.

    `root` is the policy's name for the trust anchor. `measurement` has every register that the evidence shows, by the
    names of `perdure.evidence.measurement`. `report_data` is what the program had signed, None if nothing.
    `module_id` names this launch of this machine, and `host` the machine, both as far as the platform tells; `host` is
    None when it does not. `time_ms` is the hardware's clock when it signed, in Unix milliseconds, None when the
    platform's evidence carries no time. `not_after_ms` is when the certificates it hangs on end.
    `nonce` and `public_key` are what AWS's documents can carry besides; a disk of ours leaves both out.
    """

    platform: Platform
    root: str
    measurement: Mapping[str, bytes]
    report_data: bytes | None
    module_id: str
    host: str | None
    time_ms: int | None
    not_after_ms: int
    nonce: bytes | None = None
    public_key: bytes | None = None


def expect_report_data(verified: VerifiedEvidence, commitment: bytes) -> None:
    """Return if the evidence commits to these 64 bytes (a TPM's: to the first 32); raise WrongCommitment otherwise.

    Takes the same time wherever the bytes differ. Raises Misuse if `commitment` does not have 64 bytes.
    """
    if len(commitment) != COMMITMENT_BYTES:
        raise Misuse(f"A commitment has {COMMITMENT_BYTES} bytes, not {len(commitment)}.")
    expected = commitment[:TPM_REPORT_DATA_BYTES] if verified.platform is Platform.TPM else commitment
    if verified.report_data is None or not hmac.compare_digest(verified.report_data, expected):
        raise WrongCommitment(
            f"The evidence of {verified.module_id} is genuine, but it was made for another question or another answer; "
            "the answer is not used. Somebody between here and the disk replays or alters messages."
        )
