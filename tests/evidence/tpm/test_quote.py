"""A quote's format, to the byte: each field at its least and its largest, and everything else refused."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import BadSignature, MalformedEvidence
from perdure.evidence.tpm.quote import Attestation, Scheme, Signature, parse_attest, parse_signature
from tests.evidence.tpm.support import (
    EXTRA_DATA,
    HASHES,
    PCRS,
    VALUES,
    attest,
    ec_key,
    number,
    rsa_key,
    selection,
    sign,
    sized,
)

RSA = rsa_key()
ECC = ec_key("quote")


def rsa_public(bits):
    """A number of that many bits as a modulus: enough where only its size is looked at."""
    return rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) + 1).public_key()


# The signed statement -------------------------------------------------------------------------------------


def test_a_statement_gives_its_fields():
    assert parse_attest(attest()) == Attestation(EXTRA_DATA, 7, 3, tuple(range(24)), hashlib.sha256(VALUES).digest())


def test_a_statement_cut_short_anywhere_or_with_a_byte_more_is_refused():
    statement = attest()
    for length in range(len(statement)):
        with pytest.raises(MalformedEvidence, match="not a quote" if length < 4 else "cut short"):
            parse_attest(statement[:length]) if length >= 4 else parse_attest(statement[:length].ljust(4, b"\0"))
        with pytest.raises(MalformedEvidence):
            parse_attest(statement[:length])
    for more in (b"\0", statement):
        with pytest.raises(MalformedEvidence, match=f"{len(more)} bytes after its end"):
            parse_attest(statement + more)


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": bytes(4)},
        {"magic": b"\xffTCF"},
        {"magic": b"GCT\xff"},
        *({"type": number(0x8014 + kind, 2)} for kind in range(10) if kind != 4),
        {"type": b"\x18\x80"},
        {"type": b"\0\x18"},
    ],
)
def test_what_a_tpm_did_not_make_or_made_of_something_else_is_no_quote(changes):
    with pytest.raises(MalformedEvidence, match="not a quote"):
        parse_attest(attest(**changes))


@pytest.mark.parametrize(
    ("field", "shown", "length_max"),
    [("qualified_signer", "qualifiedSigner", 66), ("extra_data", "extraData", 66), ("pcr_digest", "pcrDigest", 64)],
)
def test_a_sized_field_may_be_empty_or_have_its_largest_size(field, shown, length_max):
    for length in (0, length_max):
        taken = parse_attest(attest(**{field: sized(b"x" * length)}))
        if field != "qualified_signer":
            assert getattr(taken, field) == b"x" * length
    for length in (length_max + 1, 0xFFFF):
        with pytest.raises(MalformedEvidence, match=f"field {shown} "):
            parse_attest(attest(**{field: sized(b"x" * length)}))


def test_counters_are_unsigned_and_the_clocks_flag_is_yes_or_no():
    taken = parse_attest(attest(reset_count=b"\xff" * 4, restart_count=b"\x80\0\0\0", clock=b"\xff" * 8, safe=b"\0"))
    assert (taken.reset_count, taken.restart_count) == (2**32 - 1, 2**31)
    for safe in range(2, 256):
        with pytest.raises(MalformedEvidence, match="field safe "):
            parse_attest(attest(safe=bytes([safe])))


@pytest.mark.parametrize(
    "changes",
    [
        {"selection": selection(range(24), bank=0x0004)},
        {"selection": selection(range(24), bank=0x000C)},
        {"selection": selection(range(24), bank=0x0B00)},
        {"count": number(0, 4), "selection": b""},
        {"count": number(2, 4), "selection": selection(range(24)) * 2},
        {"count": number(2, 4), "selection": selection(range(24), bank=0x0004) + selection(range(24))},
        {"count": number(2**32 - 1, 4)},
    ],
)
def test_only_the_bank_of_sha_256_may_be_quoted_and_only_once(changes):
    with pytest.raises(MalformedEvidence, match="SHA-256 bank"):
        parse_attest(attest(**changes))


@pytest.mark.parametrize("length", [0, 1, 2, 4, 8])
def test_a_selection_has_three_bytes(length):
    with pytest.raises(MalformedEvidence, match="field sizeofSelect "):
        parse_attest(attest(selection=selection([], length=length)))


@given(st.sets(st.integers(0, 23)))
def test_any_set_of_pcrs_may_be_quoted_and_each_gets_its_own_value(indexes):
    taken = parse_attest(attest(selection=selection(indexes)))
    assert taken.selected == tuple(sorted(indexes))
    values = b"".join(PCRS[index] for index in sorted(indexes))
    assert taken.registers(values) == {f"pcr{index}": PCRS[index] for index in indexes}


@pytest.mark.parametrize("values", [b"", VALUES[:-1], VALUES[:-32], VALUES + b"\0", VALUES + bytes(32)])
def test_there_are_as_many_values_as_quoted_pcrs(values):
    with pytest.raises(MalformedEvidence, match=f"24 PCRs of 32 bytes, but came with {len(values)} bytes"):
        parse_attest(attest()).registers(values)


# The signature --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_id", HASHES)
def test_a_signature_gives_its_parts(hash_id):
    for key, scheme, count in ((ECC, 0x18, 2), (RSA, 0x14, 1), (RSA, 0x16, 1)):
        taken = parse_signature(sign(b"data", key, hash_id=hash_id, scheme=scheme))
        assert taken.scheme == scheme
        assert taken.hash == HASHES[hash_id]
        assert [len(value) for value in taken.values] == ([32, 32] if count == 2 else [256])
        assert taken.digest(b"data") == hashlib.new(HASHES[hash_id].name, b"data").digest()


def test_a_signature_cut_short_anywhere_or_with_a_byte_more_is_refused():
    for signature in (sign(b"data", ECC), sign(b"data", RSA)):
        for length in range(len(signature)):
            with pytest.raises(MalformedEvidence):
                parse_signature(signature[:length])
        with pytest.raises(MalformedEvidence, match="1 bytes after"):
            parse_signature(signature + b"\0")


@pytest.mark.parametrize("scheme", [0x0000, 0x0005, 0x0010, 0x0015, 0x0017, 0x0019, 0x001A, 0x001B, 0x001C, 0x1800])
def test_every_other_scheme_is_refused(scheme):
    with pytest.raises(MalformedEvidence, match=f"scheme {scheme:#06x}"):
        parse_signature(number(scheme, 2) + sign(b"data", ECC)[2:])


@pytest.mark.parametrize("hash_id", [0x0000, 0x0004, 0x000A, 0x000E, 0x0010, 0x0012, 0x0027, 0x0B00])
def test_every_other_hash_is_refused(hash_id):
    signature = sign(b"data", ECC)
    with pytest.raises(MalformedEvidence, match=f"hash {hash_id:#06x}"):
        parse_signature(signature[:2] + number(hash_id, 2) + signature[4:])


def test_a_signatures_numbers_are_bounded():
    assert parse_signature(bytes.fromhex("0018000b") + sized(b"r" * 48) + sized(b"s" * 48)).values[1] == b"s" * 48
    assert parse_signature(bytes.fromhex("0014000b") + sized(b"x" * 512)).values == (b"x" * 512,)
    for values, shown in (
        ("0018000b" + (sized(b"r" * 49) + sized(b"s" * 48)).hex(), "signatureR"),
        ("0018000b" + (sized(b"r" * 48) + sized(b"s" * 49)).hex(), "signatureS"),
        ("0014000b" + sized(b"x" * 513).hex(), "sig"),
        ("0016000b" + sized(b"x" * 513).hex(), "sig"),
    ):
        with pytest.raises(MalformedEvidence, match=f"field {shown} "):
            parse_signature(bytes.fromhex(values))


@pytest.mark.parametrize(
    ("key", "values", "suits"),
    [
        (ec_key("a"), (32, 32), True),
        (ec_key("a"), (31, 1), True),
        (ec_key("a"), (33, 32), False),
        (ec_key("a"), (32, 33), False),
        (ec_key("a", ec.SECP384R1()), (48, 48), True),
        (ec_key("a", ec.SECP521R1()), (48, 48), False),
        (ec_key("a", ec.SECP256K1()), (32, 32), False),
        (ec_key("a", ec.SECP224R1()), (28, 28), False),
        (ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)), (32, 32), False),
        (RSA, (32, 32), False),
    ],
)
def test_an_ecdsa_signature_suits_a_key_of_p_256_or_p_384_that_is_as_long(key, values, suits):
    signature = Signature(Scheme.ECDSA, hashes.SHA256(), tuple(b"x" * length for length in values))
    assert signature.suits(key.public_key()) is suits


@pytest.mark.parametrize("scheme", [Scheme.RSASSA, Scheme.RSAPSS])
def test_an_rsa_signature_suits_a_key_of_its_length_from_2048_to_4096_bits(scheme):
    for bits, suits in ((1024, False), (2047, False), (2048, True), (3072, True), (4096, True), (4097, False)):
        for length, fits in (((bits + 7) // 8, True), ((bits + 7) // 8 - 1, False), ((bits + 7) // 8 + 1, False)):
            signature = Signature(scheme, hashes.SHA256(), (b"x" * length,))
            assert signature.suits(rsa_public(bits)) is (suits and fits)
        assert not signature.suits(ECC.public_key())


def test_a_signature_suits_no_key_of_another_kind_even_if_it_is_as_long():
    for scheme, values in ((Scheme.ECDSA, (b"x" * 256, b"x" * 256)), (Scheme.RSASSA, (b"x" * 32,))):
        for key in (RSA, ECC):
            assert not Signature(scheme, hashes.SHA256(), values).suits(key.public_key())


@pytest.mark.parametrize("hash_id", HASHES)
@pytest.mark.parametrize(
    ("key", "scheme"), [(ECC, 0x18), (ec_key("b", ec.SECP384R1()), 0x18), (RSA, 0x14), (RSA, 0x16)]
)
def test_a_signature_holds_for_its_own_bytes_key_and_scheme_alone(key, scheme, hash_id):
    raw = sign(b"data", key, hash_id=hash_id, scheme=scheme)
    parse_signature(raw).verify(key.public_key(), b"data")
    other_hash = 0x000B if hash_id != 0x000B else 0x000C
    other_key = rsa_key() if isinstance(key, rsa.RSAPrivateKey) else ec_key("other", key.curve)
    for signature, public, data in (
        (raw, key.public_key(), b"date"),
        (raw, other_key.public_key(), b"data"),
        (raw[:2] + number(other_hash, 2) + raw[4:], key.public_key(), b"data"),
        (raw[:-1] + bytes([raw[-1] ^ 1]), key.public_key(), b"data"),
        (raw[:4] + b"".join(sized(bytes(len(one))) for one in parse_signature(raw).values), key.public_key(), b"data"),
        *([] if scheme == 0x18 else [(number(0x14 + 0x16 - scheme, 2) + raw[2:], key.public_key(), b"data")]),
    ):
        with pytest.raises(BadSignature, match="another TPM"):
            parse_signature(signature).verify(public, data)


@pytest.mark.parametrize("salt", [0, 20, 32, padding.PSS.MAX_LENGTH])
def test_the_salt_of_pss_may_be_of_any_length(salt):
    value = RSA.sign(b"data", padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
    parse_signature(bytes.fromhex("0016000b") + sized(value)).verify(RSA.public_key(), b"data")


def test_an_ecdsa_number_may_lack_its_leading_zeros():
    for count in range(10_000):
        data = b"%d" % count
        values = decode_dss_signature(ECC.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
        if values[0] >> 248 == 0:
            break
    for length in (31, 32):
        raw = bytes.fromhex("0018000b") + sized(number(values[0], length)) + sized(number(values[1], 32))
        parse_signature(raw).verify(ECC.public_key(), data)


@given(st.binary(max_size=300))
def test_random_bytes_are_a_value_or_malformed(data):
    for parse in (parse_attest, parse_signature):
        for start in (b"", attest()[:6], bytes.fromhex("0018000b"), bytes.fromhex("0014000b")):
            try:
                taken = parse(start + data)
            except MalformedEvidence:
                continue
            assert isinstance(taken, Attestation | Signature)
