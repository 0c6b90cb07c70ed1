"""Trust anchors that this release knows by name, and the platforms that evidence can come from.

The certificates are public facts, embedded so that no file or network decides whom to trust. A root counts only
if a policy names it: being listed here grants nothing.
"""

from __future__ import annotations

import enum
from base64 import b64decode
from collections.abc import Mapping
from types import MappingProxyType


class Platform(enum.StrEnum):
    """What made the evidence. `SIMULATED` writes Nitro's format under a root of its own and protects nothing."""

    NITRO = "nitro"
    SIMULATED = "simulated"


AWS_NITRO_G1 = "aws-nitro-g1"
"""Name of the AWS Nitro Enclaves root G1 (all commercial regions; China and GovCloud have others)."""

AWS_NITRO_G1_SHA256 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
"""SHA-256 of the certificate's DER. The number on AWS's page is that of the ZIP file around it."""

# CN=aws.nitro-enclaves, C=US, O=Amazon, OU=AWS; P-384; 2019-10-28 to 2049-10-28; 533 bytes.
_AWS_NITRO_G1_DER = b64decode(
    "MIICETCCAZagAwIBAgIRAPkxdWgbkK/hHUbMtOTn+FYwCgYIKoZIzj0EAwMwSTEL"
    "MAkGA1UEBhMCVVMxDzANBgNVBAoMBkFtYXpvbjEMMAoGA1UECwwDQVdTMRswGQYD"
    "VQQDDBJhd3Mubml0cm8tZW5jbGF2ZXMwHhcNMTkxMDI4MTMyODA1WhcNNDkxMDI4"
    "MTQyODA1WjBJMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGQW1hem9uMQwwCgYDVQQL"
    "DANBV1MxGzAZBgNVBAMMEmF3cy5uaXRyby1lbmNsYXZlczB2MBAGByqGSM49AgEG"
    "BSuBBAAiA2IABPwCVOumCMHzaHDimtqQvkY4MpJzbolL//Zy2YlES1BR5TSksfbb"
    "48C8WBoyt7F2Bw7eEtaaP+ohG2bnUs990d0JX28TcPQXCEPZ3BABIeTPYwEoCWZE"
    "h8l5YoQwTcU/9KNCMEAwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUkCW1DdkF"
    "R+eWw5b6cp3PmanfS5YwDgYDVR0PAQH/BAQDAgGGMAoGCCqGSM49BAMDA2kAMGYC"
    "MQCjfy+Rocm9Xue4YnwWmNJVA44fA0P5W2OpYow9OYCVRaEevL8uO1XYru5xtMPW"
    "rfMCMQCi85sWBbJwKKXdS6BptQFuZbT73o/gBh1qUxl/nNr12UO8Yfwr6wPLb+6N"
    "IwLz3/Y="
)

BUILTIN_CERTIFICATES: Mapping[str, tuple[Platform, bytes]] = MappingProxyType(
    {AWS_NITRO_G1: (Platform.NITRO, _AWS_NITRO_G1_DER)}
)
"""Name to platform and certificate DER of every root that a policy may name without carrying it."""
