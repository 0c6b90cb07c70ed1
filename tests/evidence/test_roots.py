import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from perdure.evidence import roots

from .support import VECTORS, expected, needs_vectors


def test_the_aws_root_has_its_published_fingerprint_and_is_what_it_claims():
    platform, der = roots.BUILTIN_CERTIFICATES[roots.AWS_NITRO_G1]
    assert hashlib.sha256(der).hexdigest() == roots.AWS_NITRO_G1_SHA256
    assert roots.AWS_NITRO_G1_SHA256 == "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.subject.rfc4514_string() == "CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US"
    assert certificate.issuer == certificate.subject
    assert isinstance(certificate.public_key().curve, ec.SECP384R1)
    assert platform is roots.Platform.NITRO


def test_the_list_of_roots_cannot_be_added_to():
    with pytest.raises(TypeError):
        roots.BUILTIN_CERTIFICATES["mine"] = (roots.Platform.NITRO, b"")


@needs_vectors("roots")
def test_the_aws_root_is_the_one_that_other_projects_publish():
    pem = (VECTORS / "roots" / "aws_nitro_enclaves_root_g1.pem").read_bytes()
    published = x509.load_pem_x509_certificate(pem)
    assert published == x509.load_der_x509_certificate(roots.BUILTIN_CERTIFICATES[roots.AWS_NITRO_G1][1])
    assert roots.AWS_NITRO_G1_SHA256 in str(expected("roots"))
