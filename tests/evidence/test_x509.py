"""What is demanded of the extensions in a path, one by one, and which maker's certificates must have them critical."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from perdure.errors import BadChain
from perdure.evidence.tdx import chain as tdx
from perdure.evidence.x509 import is_no_ca, issuer_policy, leaf_policy, signs_data

NOW = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ROOT_KEY, LEAF_KEY = (ec.derive_private_key(secret, ec.SECP256R1()) for secret in (7, 8))
CRITICAL, AGNOSTIC = Criticality.CRITICAL, Criticality.AGNOSTIC


def usage(*used):
    every = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
    return x509.KeyUsage(**{one: one in used for one in f"{every} crl_sign encipher_only decipher_only".split()})


CA, NO_CA = (x509.BasicConstraints(ca=ca, path_length=None) for ca in (True, False))
CERTIFIES, SIGNS = usage("key_cert_sign", "crl_sign"), usage("digital_signature", "content_commitment")


def certificate(subject, key, *extensions):
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (subject, "root")]
    builder = x509.CertificateBuilder(*names[::-1], key.public_key(), 5, NOW - DAY, NOW + DAY)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(ROOT_KEY, SHA256())


def root(constraints=(CA, True), its_usage=(CERTIFIES, True)):
    return certificate("root", ROOT_KEY, *filter(None, (constraints, its_usage)))


def leaf(constraints=(NO_CA, True), its_usage=(SIGNS, True)):
    return certificate("Intel SGX TCB Signing", LEAF_KEY, *filter(None, (constraints, its_usage)))


def verify(its_root, its_leaf, issuers=CRITICAL, key_usage=CRITICAL):
    policies = {"ca_policy": issuer_policy(issuers), "ee_policy": leaf_policy(key_usage=key_usage)}
    builder = PolicyBuilder().store(Store([its_root])).time(NOW).extension_policies(**policies)
    assert builder.build_client_verifier().verify(its_leaf, []).chain == [its_leaf, its_root]


def test_a_path_with_both_extensions_critical_is_good_however_critical_they_must_be():
    for issuers in (CRITICAL, AGNOSTIC):
        for key_usage in (CRITICAL, AGNOSTIC):
            verify(root(), leaf(), issuers, key_usage)


@pytest.mark.parametrize("change", [{"constraints": (CA, False)}, {"its_usage": (CERTIFIES, False)}])
def test_an_issuers_extensions_must_be_critical_where_its_maker_has_them_so(change):
    verify(root(**change), leaf(), AGNOSTIC)
    with pytest.raises(VerificationError, match="critical"):
        verify(root(**change), leaf(), CRITICAL)


@pytest.mark.parametrize("change", [{"constraints": None}, {"its_usage": None}])
def test_nobody_goes_without_either_extension(change):
    with pytest.raises(VerificationError, match="required extension"):
        verify(root(**change), leaf(), AGNOSTIC, AGNOSTIC)
    with pytest.raises(VerificationError, match="required extension"):
        verify(root(), leaf(**change), AGNOSTIC, AGNOSTIC)


def test_an_issuers_key_must_be_for_signing_certificates():
    for used in ((), ("digital_signature",), ("crl_sign",)):
        with pytest.raises(VerificationError, match="an issuer's key is not for signing certificates"):
            verify(root(its_usage=(usage(*used), True)), leaf())


def test_a_leaf_is_no_authority_and_says_so_critically():
    with pytest.raises(VerificationError, match="the leaf is a certificate authority"):
        verify(root(), leaf(constraints=(CA, True)))
    with pytest.raises(VerificationError, match="critical"):
        verify(root(), leaf(constraints=(NO_CA, False)), AGNOSTIC, AGNOSTIC)


def test_a_leafs_key_signs_documents_and_no_certificates():
    verify(root(), leaf(its_usage=(usage("digital_signature"), True)))
    for used in ((), ("content_commitment",), ("digital_signature", "key_cert_sign"), ("key_cert_sign",)):
        with pytest.raises(VerificationError, match="the leaf's key is not for signing documents alone"):
            verify(root(), leaf(its_usage=(usage(*used), True)))


def test_a_leafs_usage_must_be_critical_where_its_maker_has_it_so():
    plain = leaf(its_usage=(SIGNS, False))
    verify(root(), plain, key_usage=AGNOSTIC)
    with pytest.raises(VerificationError, match="critical"):
        verify(root(), plain)


def test_intels_leaves_have_it_so():
    good, plain = (leaf(its_usage=(SIGNS, critical)).public_bytes(Encoding.DER) for critical in (True, False))
    top = root().public_bytes(Encoding.DER)
    assert tdx.verify_path((top, good), tdx.SIGNERS).leaf == x509.load_der_x509_certificate(good)
    with pytest.raises(BadChain, match="critical"):
        tdx.verify_path((top, plain), tdx.SIGNERS)


def test_what_may_be_missing_is_looked_at_where_it_is():
    policy = ExtensionPolicy.permit_all()
    policy = policy.may_be_present(x509.BasicConstraints, AGNOSTIC, is_no_ca("an authority's"))
    policy = policy.may_be_present(x509.KeyUsage, AGNOSTIC, signs_data("for something else"))
    policies = {"ca_policy": issuer_policy(CRITICAL), "ee_policy": policy}
    builder = PolicyBuilder().store(Store([root()])).time(NOW).extension_policies(**policies)
    verifier = builder.build_client_verifier()
    for good in (leaf(None, None), leaf((NO_CA, False), None), leaf(None, (SIGNS, False))):
        assert verifier.verify(good, []).chain[0] == good
    with pytest.raises(VerificationError, match="an authority's"):
        verifier.verify(leaf((CA, False), None), [])
    with pytest.raises(VerificationError, match="for something else"):
        verifier.verify(leaf(None, (CERTIFIES, False)), [])
