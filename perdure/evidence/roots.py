"""The platforms that evidence can come from, and the trust anchors that this release knows by name.

A root counts only if a policy names it: being listed here grants nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from perdure.evidence import anchors


class Platform(enum.StrEnum):
    """What made the evidence. `SIMULATED` writes Nitro's format under a root of its own and protects nothing."""

    NITRO = "nitro"
    SEV_SNP = "sev-snp"
    TDX = "tdx"
    TPM = "tpm"
    NITROTPM = "nitrotpm"
    SIMULATED = "simulated"


AWS_NITRO_G1 = "aws-nitro-g1"
"""Name of the AWS Nitro Enclaves root G1 (all commercial regions; China and GovCloud have others)."""

AWS_NITRO_G1_SHA256 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
"""SHA-256 of the certificate's DER. The number on AWS's page is that of the ZIP file around it."""

BUILTIN_CERTIFICATES: Mapping[str, tuple[Platform, bytes]] = MappingProxyType(
    {
        AWS_NITRO_G1: (Platform.NITRO, anchors.AWS_NITRO_G1),
        # The same certificate, under another name: whoever trusts enclaves has not yet said that he trusts whole
        # virtual machines, whose documents have the same format, root and chain.
        "aws-nitrotpm-g1": (Platform.NITROTPM, anchors.AWS_NITRO_G1),
        "amd-milan": (Platform.SEV_SNP, anchors.AMD_ARK_MILAN),
        "amd-genoa": (Platform.SEV_SNP, anchors.AMD_ARK_GENOA),
        "amd-turin": (Platform.SEV_SNP, anchors.AMD_ARK_TURIN),
        "intel-sgx": (Platform.TDX, anchors.INTEL_SGX_ROOT),
    }
)
"""Name to platform and certificate DER of every root that a policy may name without carrying it. A TPM has none: who
vouches for its attestation key differs from cloud to cloud, so the policy carries that root."""
