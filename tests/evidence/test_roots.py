"""The anchors of this release: they are what their names say, and what their makers publish."""

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from perdure.evidence import anchors, roots
from perdure.evidence.policy import Policy
from perdure.evidence.roots import Platform

from .support import VECTORS, expected, needs_vectors

FINGERPRINTS = {
    "AWS_NITRO_G1": "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",
    "AMD_ARK_MILAN": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "AMD_ASK_MILAN": "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
    "AMD_ASVK_MILAN": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    "AMD_ARK_GENOA": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "AMD_ASK_GENOA": "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
    "AMD_ASVK_GENOA": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    "AMD_ARK_TURIN": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    "AMD_ASK_TURIN": "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
    "AMD_ASVK_TURIN": "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
    "INTEL_SGX_ROOT": "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",
}
DERS = {name: getattr(anchors, name) for name in FINGERPRINTS}
BUILTIN = {
    "aws-nitro-g1": (Platform.NITRO, "AWS_NITRO_G1"),
    "aws-nitrotpm-g1": (Platform.NITROTPM, "AWS_NITRO_G1"),
    "amd-milan": (Platform.SEV_SNP, "AMD_ARK_MILAN"),
    "amd-genoa": (Platform.SEV_SNP, "AMD_ARK_GENOA"),
    "amd-turin": (Platform.SEV_SNP, "AMD_ARK_TURIN"),
    "intel-sgx": (Platform.TDX, "INTEL_SGX_ROOT"),
}


def common_name(certificate):
    return certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value


def test_every_anchor_is_listed_with_its_published_fingerprint():
    assert {name for name, value in vars(anchors).items() if isinstance(value, bytes)} == FINGERPRINTS.keys()
    assert {name: hashlib.sha256(der).hexdigest() for name, der in DERS.items()} == FINGERPRINTS


def test_the_aws_root_has_its_published_fingerprint_and_is_what_it_claims():
    platform, der = roots.BUILTIN_CERTIFICATES[roots.AWS_NITRO_G1]
    assert hashlib.sha256(der).hexdigest() == roots.AWS_NITRO_G1_SHA256
    assert roots.AWS_NITRO_G1_SHA256 == "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.subject.rfc4514_string() == "CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US"
    assert certificate.issuer == certificate.subject
    assert isinstance(certificate.public_key().curve, ec.SECP384R1)
    assert platform is roots.Platform.NITRO


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_amds_root_signed_itself_and_both_issuers_of_its_product(product):
    names = {"ARK": f"ARK-{product}", "ASK": f"SEV-{product}", "ASVK": f"SEV-VLEK-{product}"}
    read = {kind: x509.load_der_x509_certificate(DERS[f"AMD_{kind}_{product.upper()}"]) for kind in names}
    assert {kind: common_name(certificate) for kind, certificate in read.items()} == names
    for certificate in read.values():
        certificate.verify_directly_issued_by(read["ARK"])
        assert isinstance(certificate.public_key(), rsa.RSAPublicKey)
        assert certificate.public_key().key_size == 4096


def test_intels_root_signed_itself():
    certificate = x509.load_der_x509_certificate(DERS["INTEL_SGX_ROOT"])
    certificate.verify_directly_issued_by(certificate)
    assert common_name(certificate) == "Intel SGX Root CA"
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)


def test_the_built_in_roots_are_these_and_no_issuer_is_among_them():
    assert {name: (platform, DERS[key]) for name, (platform, key) in BUILTIN.items()} == roots.BUILTIN_CERTIFICATES


def test_no_tpms_and_no_simulated_root_is_built_in():
    assert {Platform.TPM, Platform.SIMULATED}.isdisjoint(
        platform for platform, _ in roots.BUILTIN_CERTIFICATES.values()
    )


@pytest.mark.parametrize("der", DERS.values(), ids=DERS)
def test_a_built_in_certificate_counts_for_nothing_that_the_policy_does_not_name(der):
    assert Policy((), ()).root_of(der, *Platform) is None


def test_the_list_of_roots_cannot_be_added_to():
    with pytest.raises(TypeError):
        roots.BUILTIN_CERTIFICATES["mine"] = (roots.Platform.NITRO, b"")


@needs_vectors("roots")
def test_the_anchors_are_those_that_other_projects_publish():
    published = {}
    for name in expected("roots"):
        data = (VECTORS / "roots" / name).read_bytes()
        found = (
            x509.load_pem_x509_certificates(data) if name.endswith(".pem") else [x509.load_der_x509_certificate(data)]
        )
        assert len(found) == len(expected("roots")[name])
        published |= {common_name(certificate): certificate for certificate in found}
    ours = {common_name(one): one for one in map(x509.load_der_x509_certificate, DERS.values())}
    assert ours == published
    stated = {record["sha256"] for records in expected("roots").values() for record in records}
    assert stated == set(FINGERPRINTS.values())
