import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from perdure.evidence import anchors
from perdure.evidence.roots import BUILTIN_CERTIFICATES, Platform
from perdure.evidence.snp.certificates import Authority, read
from tests.evidence.support import VECTORS, expected, needs_vectors

FINGERPRINTS = {
    "ARK_MILAN": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "ASK_MILAN": "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
    "ASVK_MILAN": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    "ARK_GENOA": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "ASK_GENOA": "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
    "ASVK_GENOA": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    "ARK_TURIN": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    "ASK_TURIN": "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
    "ASVK_TURIN": "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
}
"""SHA-256 of the DER that AMD's key server gives out."""
NAMES = {"ARK": "ARK-{}", "ASK": "SEV-{}", "ASVK": "SEV-VLEK-{}"}


def anchor(which):
    return getattr(anchors, f"AMD_{which}")


@pytest.mark.parametrize("which", FINGERPRINTS)
def test_an_anchor_of_amds_has_its_published_fingerprint_and_is_what_it_is_called(which):
    assert hashlib.sha256(anchor(which)).hexdigest() == FINGERPRINTS[which]
    kind, _, product = which.partition("_")
    found = read(anchor(which))
    assert isinstance(found, Authority)
    assert found.name == NAMES[kind].format(product.capitalize())
    key = found.certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 4096
    found.certificate.verify_directly_issued_by(x509.load_der_x509_certificate(anchor(f"ARK_{product}")))


@pytest.mark.parametrize("product", ["milan", "genoa", "turin"])
def test_the_roots_that_a_policy_may_name_are_amds(product):
    assert BUILTIN_CERTIFICATES[f"amd-{product}"] == (Platform.SEV_SNP, anchor(f"ARK_{product.upper()}"))


@needs_vectors("roots")
@pytest.mark.parametrize("product", ["milan", "genoa", "turin"])
@pytest.mark.parametrize(("of", "issuer"), [("vcek", "ASK"), ("vlek", "ASVK")])
def test_the_anchors_are_those_that_other_projects_publish(product, of, issuer):
    name = f"amd_ask_ark_{product}_{of}.pem"
    ours = [anchor(f"{issuer}_{product.upper()}"), anchor(f"ARK_{product.upper()}")]
    assert [record["sha256"] for record in expected("roots")[name]] == [hashlib.sha256(der).hexdigest() for der in ours]
    published = x509.load_pem_x509_certificates((VECTORS / "roots" / name).read_bytes())
    assert published == [x509.load_der_x509_certificate(der) for der in ours]
