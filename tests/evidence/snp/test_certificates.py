"""What the host's table gives, what each certificate is taken for, and which chains hold."""

import contextlib
import uuid
import warnings
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import BadChain, MalformedEvidence, MissingCollateral, UntrustedRoot
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.snp import certificates
from perdure.evidence.snp.certificates import Authority, KeyCertificate, certificate_table, chain_of, fitting, read
from perdure.evidence.snp.report import Product, Signer, parse
from tests.evidence.snp import support
from tests.evidence.snp.support import DAY, START, ark, ask, integer, leaf, machine, rsa_key, text

VCEK, VLEK = "63da758d-e664-4564-adc5-f4b93be8accd", "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
ASK, ARK = "4ab7b379-bbac-4fe4-a02f-05aef327c782", "c0b406a4-a803-4952-9743-3fb6014cd0ae"
CRL, OTHER = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea", "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6"
END = bytes(24)


def entry(kind, offset, length):
    return uuid.UUID(kind).bytes_le + offset.to_bytes(4, "little") + length.to_bytes(4, "little")


def table(*contents, padding=b""):
    """The table of these (kind, bytes) one after another."""
    at, head, body = 24 * (len(contents) + 1), b"", b""
    for kind, content in contents:
        head += entry(kind, at + len(body), len(content))
        body += content
    return head + END + body + padding


def unix_ms(time):
    return int(time.timestamp() * 1000)


# The host's table -----------------------------------------------------------------------------------------


def test_a_table_gives_its_certificates():
    blob = table((VLEK, b"vlek"), (ASK, b"ask"), (ARK, b"ark"), (VCEK, b"vcek"))
    assert certificate_table(blob) == (b"vlek", b"ask", b"ark", b"vcek")


def test_no_table_and_an_empty_one_give_none():
    assert certificate_table(b"") == certificate_table(END) == certificate_table(END + bytes(4096)) == ()


def test_kinds_that_are_not_known_are_skipped_wherever_they_point():
    blob = entry(OTHER, 2**32 - 1, 2**32 - 1) + entry(CRL, 0, 0) + entry(VCEK, 96, 4) + END + b"vcek"
    assert certificate_table(blob) == (b"vcek",)


def test_pages_may_be_padded():
    assert certificate_table(table((VCEK, b"vcek"), padding=bytes(4000))) == (b"vcek",)


def test_a_guid_is_read_in_its_mixed_order():
    assert entry(VCEK, 0, 0)[:4] == bytes.fromhex("8d75da63")
    swapped = uuid.UUID(VCEK).bytes + (48).to_bytes(4, "little") + (4).to_bytes(4, "little")
    assert certificate_table(swapped + END + b"vcek") == ()


@pytest.mark.parametrize(
    "blob",
    [
        entry(VCEK, 48, 5) + END + b"vcek",
        entry(VCEK, 49, 4) + END + b"vcek",
        entry(VCEK, 52, 0) + END + b"vcek",
        entry(VCEK, 47, 4) + END + b"vcek",
        entry(VCEK, 0, 4) + END + b"vcek",
        entry(VCEK, 2**32 - 1, 4) + END + b"vcek",
        entry(VCEK, 48, 2**32 - 1) + END + b"vcek",
        entry(VCEK, 48, 4097) + END + bytes(5000),
    ],
)
def test_an_entry_that_points_to_where_no_certificate_can_be_is_refused(blob):
    with pytest.raises(MalformedEvidence, match="points"):
        certificate_table(blob)


def test_a_certificate_of_the_greatest_length_is_taken():
    assert certificate_table(entry(VCEK, 48, 4096) + END + bytes(4096)) == (bytes(4096),)


def test_two_of_one_kind_are_refused():
    with pytest.raises(MalformedEvidence, match="two"):
        certificate_table(table((VCEK, b"one"), (VCEK, b"two")))


def test_a_table_without_end_is_refused():
    others = b"".join(entry(str(uuid.UUID(int=number)), 0, 0) for number in range(1, 18))
    assert certificate_table(others[: 16 * 24] + END) == ()
    for blob in (entry(VCEK, 24, 4), entry(VCEK, 24, 4) + bytes(23), others[: 17 * 24] + END, b"\0" * 23, b"x"):
        with pytest.raises(MalformedEvidence, match="end"):
            certificate_table(blob)


def test_a_table_cut_anywhere_is_refused():
    blob = table((VCEK, b"vcek"), (ASK, b"ask"))
    for length in range(1, len(blob)):
        with pytest.raises(MalformedEvidence):
            certificate_table(blob[:length])


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_certificates_or_malformed_evidence(blob):
    with contextlib.suppress(MalformedEvidence):
        assert len(certificate_table(blob)) <= 4


# What a certificate is taken for --------------------------------------------------------------------------


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("signer", list(Signer))
def test_a_key_certificate_gives_its_fields(product, signer):
    found = read(leaf(product, signer))
    assert isinstance(found, KeyCertificate)
    assert (found.product, found.signer, found.tcb) == (product, signer, support.tcb(product))
    chip_id = support.CHIP_IDS[product].rstrip(b"\0")
    assert (found.hardware_id, found.csp_id) == ((chip_id, None) if signer is Signer.VCEK else (None, support.CSP_ID))
    assert found.key.public_numbers() == support.LEAF_KEY.public_key().public_numbers()


def test_a_product_may_be_named_with_its_stepping():
    found = read(leaf(Product.MILAN, changes={"2": text("Milan-B0")}))
    assert isinstance(found, KeyCertificate)
    assert found.product is Product.MILAN


def test_critical_extensions_of_amds_are_understood_and_harmless_ones_of_others_ignored():
    assert isinstance(read(leaf(Product.MILAN, critical=True)), KeyCertificate)
    harmless = x509.SubjectKeyIdentifier(b"key")
    assert isinstance(read(leaf(Product.MILAN, more=((harmless, False),))), KeyCertificate)


LONG = bytes((0x16, 0x81, 128)) + b"a" * 128
LENGTH_NOT_DER = bytes((0x16, 129)) + b"a" * 129
UNUSABLE = {
    "other product": {"2": text("Venice")},
    "no product": {"2": None},
    "product with another tag": {"2": b"\x0c\x05Milan"},
    "product with a wrong length": {"2": b"\x16\x06Milan"},
    "product with bytes after it": {"2": b"\x16\x05Milan-"},
    "product not ASCII": {"2": b"\x16\x05Mil\xe4n"},
    "empty product": {"2": b""},
    "no structure version": {"1": None},
    "other structure version": {"1": integer(2)},
    "no bootloader": {"3.1": None},
    "no reserved part": {"3.4": None},
    "no microcode": {"3.8": None},
    "FMC before Turin": {"3.9": integer(2)},
    "part that is not known": {"3.10": integer(0)},
    "negative part": {"3.1": b"\x02\x01\x84"},
    "part above 255": {"3.1": b"\x02\x02\x01\x04"},
    "part not in DER": {"3.1": b"\x02\x02\x00\x04"},
    "part with bytes after it": {"3.1": b"\x02\x01\x04\x00"},
    "part with another tag": {"3.1": b"\x0a\x01\x04"},
    "empty part": {"3.1": b""},
    "no hardware id": {"4": None},
    "short hardware id": {"4": bytes(63)},
    "Turin's hardware id": {"4": bytes(8)},
    "both ids": {"5": text(support.CSP_ID)},
    "a cloud's id instead": {"4": None, "5": text(support.CSP_ID)},
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_vcek_that_is_not_of_amds_form_is_of_no_use(what):
    assert read(leaf(Product.MILAN, changes=UNUSABLE[what])) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"5": None},
        {"4": bytes(64)},
        {"5": None, "4": support.CHIP_IDS[Product.MILAN]},
        {"5": b"\x0c\x01c"},
        {"5": LONG},
        {"5": LENGTH_NOT_DER},
        {"5": b"\x16\x80c\0\0"},
    ],
)
def test_a_vlek_that_is_not_of_amds_form_is_of_no_use(changes):
    assert read(leaf(Product.MILAN, Signer.VLEK, changes=changes)) is None


def test_turin_has_an_fmc_and_a_short_hardware_id():
    for changes in ({"3.9": None}, {"4": bytes(64)}, {"3.4": integer(0)}):
        assert read(leaf(Product.TURIN, changes=changes)) is None


@pytest.mark.parametrize(
    "key", [ec.derive_private_key(5, ec.SECP256R1()), rsa_key("leaf"), ec.derive_private_key(5, ec.SECP521R1())]
)
def test_a_key_that_is_not_on_p384_is_of_no_use(key):
    assert read(leaf(Product.MILAN, key=key.public_key())) is None


def test_a_key_certificate_with_an_authoritys_or_an_unknown_critical_extension_is_of_no_use():
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    no_ca = x509.BasicConstraints(ca=False, path_length=None)
    for extension, critical in ((unknown, True), (support.CA, False), (support.CA, True), (no_ca, True)):
        assert read(leaf(Product.MILAN, more=((extension, critical),))) is None
    assert isinstance(read(leaf(Product.MILAN, more=((unknown, False),))), KeyCertificate)


def test_a_certificate_of_another_name_is_no_key():
    assert read(leaf(Product.MILAN, subject="SEV-OTHER")) is None


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": padding.PKCS1v15()},
        {"algorithm": SHA256(), "scheme": padding.PSS(padding.MGF1(SHA256()), 32)},
        {"algorithm": SHA512(), "scheme": padding.PSS(padding.MGF1(SHA512()), 64)},
    ],
)
def test_only_amds_way_to_sign_certificates_counts(options):
    assert read(leaf(Product.MILAN, **options)) is None
    assert read(ask(Product.MILAN, **options)) is None
    assert read(ark(Product.MILAN, **options)) is None


def test_authorities_are_known_by_their_names():
    for der, name in ((ark(Product.TURIN), "ARK-Turin"), (ask(Product.GENOA, Signer.VLEK), "SEV-VLEK-Genoa")):
        found = read(der)
        assert isinstance(found, Authority)
        assert found.name == name


SIGNS = (support.usage("key_cert_sign"), True)
NOT_AUTHORITIES = {
    "no constraints": {"extensions": (SIGNS,)},
    "no authority": {"extensions": ((x509.BasicConstraints(ca=False, path_length=None), True), SIGNS)},
    "no usage": {"extensions": ((support.CA, True),)},
    "another usage": {"extensions": ((support.CA, True), (support.usage("crl_sign", "digital_signature"), True))},
    "a rule unknown": {
        "extensions": (*support.AUTHORITY, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x"), True))
    },
    "a key that is not RSA": {"public": support.LEAF_KEY.public_key()},
}


@pytest.mark.parametrize("what", NOT_AUTHORITIES)
def test_what_may_not_issue_is_no_authority(what):
    assert read(ask(Product.MILAN, **NOT_AUTHORITIES[what])) is None


def test_a_key_longer_than_amds_is_not_used():
    # Only the modulus's length counts here: nobody has the private key of this one.
    numbers = rsa.RSAPublicNumbers(65537, (1 << 4103) | 1)
    assert read(ask(Product.MILAN, public=numbers.public_key())) is None


def test_a_certificate_with_two_common_names_or_none_is_of_no_use():
    for names in (("SEV-VCEK", "SEV-Milan"), ()):
        attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, one) for one in names]
        builder = x509.CertificateBuilder(support.name("x"), x509.Name(attributes), rsa_key("ask").public_key(), 1)
        builder = builder.not_valid_before(START).not_valid_after(START + DAY)
        made = builder.sign(rsa_key("ask"), SHA384(), rsa_padding=support.PSS)
        assert read(made.public_bytes(serialization.Encoding.DER)) is None


def test_oversized_and_broken_hints_are_of_no_use():
    good = leaf(Product.MILAN)
    pem = x509.load_der_x509_certificate(ask(Product.MILAN)).public_bytes(serialization.Encoding.PEM)
    for hint in (b"", b"\x30", pem, good + b"\0", good[:-1], good.ljust(5000, b"\0"), b"\x30\x80" * 2000, bytes(10**6)):
        assert read(hint) is None


def test_a_signature_counts_whole():
    """With the number of its bits that do not count changed, it would be another certificate that says the same."""
    for number in range(64):
        good = leaf(Product.MILAN, end=START + DAY + timedelta(seconds=number))
        if good[-1] & 1 == 0:  # so that the number is allowed to be 1
            assert isinstance(read(good), KeyCertificate)
            at = len(good) - 257
            assert read(good[:at] + b"\x01" + good[at + 1 :]) is None
            return
    pytest.fail("no signature of 64 ends with the bit 0")


@pytest.mark.filterwarnings("ignore:Attribute's length")  # of what this test makes, not of what it reads
def test_odd_names_are_read_in_silence():
    attributes = [
        x509.NameAttribute(x509.NameOID.COMMON_NAME, "ARK-Milan"),
        x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "Nowhere", _validate=False),
    ]
    odd = x509.Name(attributes)
    builder = x509.CertificateBuilder(odd, odd, rsa_key("ark").public_key(), 1, START, START + DAY)
    for extension, critical in support.AUTHORITY:
        builder = builder.add_extension(extension, critical)
    made = builder.sign(rsa_key("ark"), SHA384(), rsa_padding=support.PSS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert isinstance(read(made.public_bytes(serialization.Encoding.DER)), Authority)
    assert not caught


def test_a_certificate_longer_than_any_of_amds_is_not_even_parsed():
    for length, usable in ((2000, True), (4096, False)):
        filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(length))
        found = read(leaf(Product.MILAN, more=((filler, False),)))
        assert isinstance(found, KeyCertificate) is usable
        assert usable or found is None


@given(st.binary(max_size=64), st.integers(0, 2000), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_whatever_the_bytes_a_hint_is_something_or_nothing(junk, at, flip):
    good = leaf_for_mutation()
    mutant = bytearray(good)
    mutant[at % len(good)] ^= flip
    for der in (junk, bytes(mutant), good[:at] + junk + good[at:]):
        assert read(der) is None or isinstance(read(der), KeyCertificate | Authority)


def leaf_for_mutation():
    return machine().hints[0]


# The serial number 0 --------------------------------------------------------------------------------------


def test_the_parser_still_reads_certificates_with_serial_number_0_and_still_warns():
    """When this fails, a new `cryptography` refuses AMD's certificates, or warns in other words: see `_read`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        certificate = x509.load_der_x509_certificate(leaf(Product.MILAN))
        assert certificate.serial_number == 0
    assert {one.category for one in caught} == {CryptographyDeprecationWarning}
    assert all(str(one.message).startswith(support.SERIAL_WARNING) for one in caught)


def test_serial_number_0_is_read_in_silence_and_others_are_still_warned():
    der = leaf(Product.MILAN)
    with warnings.catch_warnings():
        for action in ("error", "always"):
            warnings.simplefilter(action)
            certificates._read.cache_clear()
            assert isinstance(read(der), KeyCertificate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certificates._read.cache_clear()
        read(der)
        with pytest.raises(CryptographyDeprecationWarning):
            x509.load_der_x509_certificate(der)


def test_what_was_read_is_kept_within_bounds():
    certificates._read.cache_clear()
    for number in range(600):
        read(number.to_bytes(4, "big"))
    assert certificates._read.cache_info().currsize == 256


# Which certificate fits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("signer", list(Signer))
def test_the_fitting_one_is_found_in_any_heap(product, signer):
    good = machine(product, signer)
    strangers = [leaf(other, kind) for other in Product for kind in Signer if (other, kind) != (product, signer)]
    strangers += [leaf(product, signer, parts={**support.PARTS, 3: 23}), b"junk", ark(product)]
    heap = (*strangers, good.hints[0], *strangers, good.hints[0])
    found = fitting(heap, parse(good.report))
    assert found == [read(good.hints[0])]
    with pytest.raises(MissingCollateral, match=signer.name):
        fitting(strangers, parse(good.report))


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("signer", list(Signer))
def test_each_part_of_the_tcb_is_certified(product, signer):
    good = parse(machine(product, signer).report)
    for part in support.ORDERS[product]:
        for number in (support.PARTS.get(part, 0) - 1, support.PARTS.get(part, 0) + 1):
            if number >= 0:
                other = leaf(product, signer, parts={**support.PARTS, part: number})
                with pytest.raises(MissingCollateral):
                    fitting([other], good)


def test_a_vcek_is_of_one_chip():
    for product in Product:
        whole = support.CHIP_IDS[product]
        for chip_id in (bytes(64), whole[:-1] + b"\x01", b"\x80" + whole[1:], whole[:8] + b"\x01" + whole[9:]):
            with pytest.raises(MissingCollateral):
                fitting([leaf(product)], parse(support.report(product, chip_id=chip_id)))


def test_a_vlek_is_of_no_chip():
    for chip_id in (b"", support.CHIP_IDS[Product.MILAN]):
        assert fitting(
            [leaf(Product.MILAN, Signer.VLEK)], parse(support.report(Product.MILAN, Signer.VLEK, chip_id=chip_id))
        )


def test_cpuid_must_name_the_certificates_product_where_the_report_has_one():
    chip = support.CHIP_IDS[Product.GENOA]
    genoa = leaf(Product.GENOA)
    tcb = support.tcb(Product.GENOA)
    for version in (3, 4, 5):
        with pytest.raises(MissingCollateral):
            fitting([genoa], parse(support.report(Product.MILAN, version=version, chip_id=chip, reported_tcb=tcb)))
    assert fitting([genoa], parse(support.report(Product.MILAN, version=2, chip_id=chip, reported_tcb=tcb)))


# Chains ---------------------------------------------------------------------------------------------------


def a_policy(*roots, platform=Platform.SEV_SNP):
    limits = support.limits() if platform is Platform.SEV_SNP else None
    return Policy(tuple(TrustedRoot(f"root-{index}", platform, root, limits) for index, root in enumerate(roots)), ())


def key_of(der):
    found = read(der)
    assert isinstance(found, KeyCertificate)
    return found


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("signer", list(Signer))
def test_a_chain_names_its_root_and_when_it_holds(product, signer):
    good = machine(product, signer)
    chain = chain_of(key_of(good.hints[0]), good.hints, a_policy(support.ark(Product.MILAN, "other"), good.root))
    assert chain.root.name == "root-1"
    assert chain.leaf.signer is signer
    assert (chain.not_before_ms, chain.not_after_ms) == (unix_ms(START), unix_ms(START + 10 * DAY))


@pytest.mark.parametrize("short", [0, 1, 2])
def test_a_chain_holds_only_while_all_three_do(short):
    windows = [{"start": START - DAY, "end": START + 20 * DAY} for _ in range(3)]
    windows[short] = {"start": START + timedelta(hours=1), "end": START + timedelta(hours=2)}
    root, issuer = ark(Product.MILAN, **windows[0]), ask(Product.MILAN, **windows[1])
    chain = chain_of(key_of(leaf(Product.MILAN, **windows[2])), [issuer], a_policy(root))
    assert chain.not_before_ms == unix_ms(START) + 3_600_000
    assert chain.not_after_ms == unix_ms(START) + 7_200_000


def test_without_the_issuer_collateral_is_missing():
    good = machine()
    for hints in ((), (good.root,), (good.hints[0],), (ask(Product.MILAN, Signer.VLEK),), (ask(Product.GENOA),)):
        with pytest.raises(MissingCollateral, match="SEV-Milan"):
            chain_of(key_of(good.hints[0]), hints, a_policy(good.root))


def test_a_chain_to_another_root_of_the_same_name_is_untrusted():
    good = machine()
    for policy in (a_policy(ark(Product.MILAN, "other")), a_policy(), a_policy(ark(Product.GENOA))):
        with pytest.raises(UntrustedRoot):
            chain_of(key_of(good.hints[0]), good.hints, policy)


def test_a_root_of_the_policy_for_another_platform_does_not_count():
    good = machine()
    with pytest.raises(UntrustedRoot):
        chain_of(key_of(good.hints[0]), good.hints, a_policy(good.root, platform=Platform.TPM))


def test_a_root_that_is_only_a_hint_does_not_count():
    foreign = (
        leaf(Product.MILAN, by="other"),
        ask(Product.MILAN, key="other", by="other"),
        ark(Product.MILAN, "other"),
    )
    with pytest.raises(UntrustedRoot):
        chain_of(key_of(foreign[0]), foreign, a_policy(machine().root))


def test_an_issuer_that_the_root_did_not_sign_is_untrusted():
    good = machine()
    forged = ask(Product.MILAN, by="other")
    broken = good.hints[1][:-1] + bytes([good.hints[1][-1] ^ 1])
    for issuer in (forged, broken):
        with pytest.raises(UntrustedRoot):
            chain_of(key_of(good.hints[0]), (issuer,), a_policy(good.root))


def test_a_key_that_its_issuer_did_not_sign_is_a_bad_chain():
    good = machine()
    broken = good.hints[0][:-1] + bytes([good.hints[0][-1] ^ 1])
    for der in (leaf(Product.MILAN, by="other"), broken):
        with pytest.raises(BadChain):
            chain_of(key_of(der), good.hints, a_policy(good.root))


def test_an_issuer_of_processors_vouches_for_no_cloud_and_none_for_another_product():
    """The same key signed; what it is for is in its name."""
    good = machine()
    for der in (leaf(Product.MILAN, Signer.VLEK), leaf(Product.GENOA)):
        with pytest.raises((MissingCollateral, UntrustedRoot)):
            chain_of(key_of(der), good.hints, a_policy(good.root))
    misnamed = leaf(Product.MILAN, changes={**support.arcs(Product.GENOA, Signer.VCEK)})
    with pytest.raises((MissingCollateral, UntrustedRoot)):
        chain_of(key_of(misnamed), good.hints, a_policy(good.root))
    with pytest.raises(BadChain):
        genoa = (ask(Product.GENOA), ark(Product.GENOA))
        chain_of(key_of(misnamed), (*good.hints, *genoa), a_policy(good.root, genoa[1]))


def test_the_root_signs_no_key_itself():
    """A path of two certificates is none of AMD's."""
    good = machine()
    direct = leaf(Product.MILAN, by="ark")
    with pytest.raises(BadChain):
        chain_of(key_of(direct), good.hints, a_policy(good.root))


def test_bad_hints_hide_no_good_ones():
    good = machine()
    bad = (
        ask(Product.MILAN, by="other"),
        ask(Product.MILAN, key="other"),
        ask(Product.MILAN, key="other", by="other"),
        b"x",
    )
    for hints in ((*bad, *good.hints), (*good.hints, *bad)):
        assert chain_of(key_of(good.hints[0]), hints, a_policy(good.root)).root.name == "root-0"
