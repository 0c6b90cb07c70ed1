"""The authority's key from KMS: the measured program gets it, and nobody gets or puts in another."""

import json
from base64 import b64decode, b64encode

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from perdure.array.commands import Authority
from perdure.disk.nsm import document_of
from perdure.errors import Corrupt, Misuse
from perdure.evidence.measurement import Measurement
from perdure.evidence.nitro import verifier
from perdure.evidence.policy import Policy
from perdure.loader.kms import recipient as kms
from perdure.loader.kms.recipient import Recipient
from perdure.simtee.nsm import SimulatedNsm
from perdure.simtee.pki import SimulatedRoot
from tests.evidence.support import MODULE_ID, NOW_MS, PCRS, POLICY, ROOT
from tests.loader.envelopes import Parts, der, padded, streamed
from tests.loader.fake_kms import KEY_ID, FakeKms, answer_of, encrypt, needs_openssl

KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
SECRET = bytes(range(1, 33))
AUTHORITY = Authority(SECRET)
OTHER_PCRS = {**PCRS, 0: b"\x77" * 48}
ANY_PROGRAM = Policy(
    roots=POLICY.roots,
    measurements=tuple(Measurement.enclave("simulated", pcrs[0], pcrs[1], pcrs[2]) for pcrs in (PCRS, OTHER_PCRS)),
)


def enclave(pcrs=PCRS, root=ROOT):
    """How a program in an enclave asks its security module."""
    nsm = SimulatedNsm(root, pcrs, MODULE_ID, lambda: NOW_MS)
    return lambda request: document_of(nsm.respond(request))


@pytest.fixture
def service(tmp_path):
    return FakeKms(tmp_path, ANY_PROGRAM, {"pcr0": PCRS[0]}, NOW_MS)


def fetch(service, blob, *, attest=None, send=None, public_key=AUTHORITY.public_key, key_id=KEY_ID):
    return kms.fetch_authority(public_key, key_id, blob, attest or enclave(), send or service.send)


def message(plaintext=SECRET, make=der, key=KEY, **changes):
    parts = Parts(key.public_key(), padded(plaintext))
    for name, value in changes.items():
        setattr(parts, name, value)
    return parts.message(make)


def open_secret(ciphertext, size_bytes=32):
    return Recipient(KEY).open(ciphertext, size_bytes)


def unopened(work):
    """The text of the one error that there is."""
    with pytest.raises(Corrupt) as raised:
        work()
    assert raised.value.__cause__ is None
    return str(raised.value)


def outcome(work):
    """What `work` returns, or the text of the one error."""
    try:
        return work()
    except Corrupt as error:
        return str(error)


TEXT = unopened(lambda: open_secret(b""))


# The whole way --------------------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("words", [(), ("-stream",)], ids=["DER", "indefinite lengths"])
def test_the_measured_program_gets_the_authority(service, words):
    service.words = words
    found = fetch(service, service.store(SECRET))
    assert found.private_key == SECRET
    ((target, body),) = service.asked
    assert target == "TrentService.Decrypt"
    assert b64encode(SECRET) not in body


@needs_openssl
def test_every_attempt_has_a_key_of_its_own(service):
    blob = service.store(SECRET)
    fetch(service, blob)
    fetch(service, blob)
    documents = [json.loads(body)["Recipient"]["AttestationDocument"] for _, body in service.asked]
    keys = [verifier.verify(b64decode(one), policy=POLICY, at_ms=NOW_MS).public_key for one in documents]
    assert keys[0] != keys[1]
    assert all(load_der_public_key(key).key_size == 2048 for key in keys)


@pytest.mark.parametrize(
    ("attest", "name"),
    [
        (enclave(OTHER_PCRS), "AccessDeniedException"),
        (enclave(root=SimulatedRoot.create()), "ValidationException"),
        (enclave({**PCRS, 0: bytes(48)}), "ValidationException"),
        (lambda request: b"no document", "ValidationException"),
    ],
    ids=["another measurement", "another root", "debug mode", "no document"],
)
def test_another_program_is_refused(service, attest, name):
    with pytest.raises(Misuse, match=f"KMS refuses \\('{name}'\\); nothing was decrypted"):
        fetch(service, service.store(SECRET), attest=attest)


def test_another_key_or_ciphertext_is_refused(service):
    blob = service.store(SECRET)
    with pytest.raises(Misuse, match="IncorrectKeyException"):
        fetch(service, blob, key_id="alias/another")
    with pytest.raises(Misuse, match="InvalidCiphertextException"):
        fetch(service, b"another" + blob)


# What a host can put in the place of KMS's answer ---------------------------------------------------------


@needs_openssl
def test_a_secret_of_the_hosts_own_is_refused_though_it_opens(service, tmp_path):
    def send(target, body):
        document = b64decode(json.loads(body)["Recipient"]["AttestationDocument"])
        public_key = cbor2.loads(cbor2.loads(document)[2])["public_key"]
        return answer_of(encrypt(tmp_path, public_key, b"\x05" * 32))

    assert unopened(lambda: fetch(service, b"blob", send=send)) == TEXT


@needs_openssl
def test_an_answer_to_an_earlier_question_is_refused(service):
    blob = service.store(SECRET)
    earlier = []

    def keep(target, body):
        earlier.append(service.send(target, body))
        return earlier[0]

    fetch(service, blob, send=keep)
    assert unopened(lambda: fetch(service, blob, send=keep)) == TEXT
    assert len(earlier) == 2


def test_what_is_no_private_key_is_refused_like_everything_else():
    for private in (bytes(32), b"\xff" * 32):
        answer = answer_of(message(private))
        assert unopened(lambda answer=answer: kms.open_authority(Recipient(KEY), answer, AUTHORITY.public_key)) == TEXT


@pytest.mark.parametrize("make", [der, streamed])
def test_no_altered_byte_leads_to_another_authority_or_another_text(make):
    """Some bytes do not matter: the key identifier is not authenticated. Those that do are all met alike."""
    good = message(make=make)
    found = []
    for at in range(len(good)):
        for bit in (1, 0x80):
            altered = answer_of(good[:at] + bytes((good[at] ^ bit,)) + good[at + 1 :])
            found.append(outcome(lambda one=altered: private_key_in(one)))
    assert set(found) == {TEXT, SECRET}
    assert found.count(SECRET) >= 2 * 32
    assert found.count(TEXT) > 2 * (256 + 16 + 48)


def private_key_in(answer):
    return kms.open_authority(Recipient(KEY), answer, AUTHORITY.public_key).private_key


@needs_openssl
@pytest.mark.parametrize("words", [(), ("-stream",)], ids=["DER", "indefinite lengths"])
def test_a_message_by_openssl_is_refused_at_every_cut(tmp_path, words):
    public_key = Recipient(KEY).public_key
    whole = encrypt(tmp_path, public_key, SECRET, *words)
    assert open_secret(whole) == SECRET
    assert {unopened(lambda at=at: open_secret(whole[:at])) for at in range(len(whole))} == {TEXT}


@needs_openssl
@pytest.mark.parametrize(
    "changes",
    [
        {"cipher": "-aes128"},
        {"cipher": "-des3"},
        {"options": ()},
        {"options": ("rsa_padding_mode:oaep", "rsa_oaep_md:sha1", "rsa_mgf1_md:sha1")},
        {"options": ("rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha1")},
        {"options": ("rsa_padding_mode:oaep", "rsa_oaep_md:sha512", "rsa_mgf1_md:sha512")},
        {"keyid": ()},
    ],
    ids=str,
)
def test_another_algorithm_is_refused_though_openssl_would_open_it(tmp_path, changes):
    public_key = Recipient(KEY).public_key
    assert unopened(lambda: open_secret(encrypt(tmp_path, public_key, SECRET, **changes))) == TEXT


# Recipients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [der, streamed])
@pytest.mark.parametrize("size", [16, 32, 64, 4096])
def test_a_secret_of_the_size_that_was_asked_for_opens(size, make):
    assert open_secret(message(b"s" * size, make, pieces=3), size) == b"s" * size


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 33, 47, 48, 64, 8192])
def test_a_secret_of_another_size_does_not(length):
    assert unopened(lambda: open_secret(message(b"s" * length))) == TEXT


def test_a_padding_that_is_no_whole_block_does_not_open():
    """Else a host could learn the secret byte by byte from which altered messages are taken."""
    for last in (b"s" * 15 + b"\x01", b"s" * 14 + b"\x02\x02", b"\x0f" * 16, b"\x11" * 16, bytes(16)):
        parts = Parts(KEY.public_key(), SECRET + last)
        assert unopened(lambda parts=parts: open_secret(parts.message())) == TEXT
    assert open_secret(Parts(KEY.public_key(), SECRET + b"\x10" * 16).message()) == SECRET


def test_an_answer_to_another_recipient_does_not_open():
    other = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    assert unopened(lambda: open_secret(message(key=other))) == TEXT


@pytest.mark.parametrize(
    "changes",
    [{"iv": bytes(15)}, {"iv": b""}, {"ciphertext": bytes(47)}, {"encrypted_key": b""}, {"encrypted_key": bytes(256)}],
    ids=str,
)
def test_parts_of_impossible_lengths_do_not_open(changes):
    assert unopened(lambda: open_secret(message(**changes))) == TEXT


def test_a_content_key_of_another_length_does_not_open():
    short = KEY.public_key().encrypt(bytes(16), kms._OAEP)
    assert unopened(lambda: open_secret(message(encrypted_key=short))) == TEXT


def test_a_message_longer_than_kms_makes_is_not_looked_at():
    good = message(b"s" * 4096)
    assert len(good) < kms.CIPHERTEXT_BYTES_MAX
    assert unopened(lambda: open_secret(message(b"s" * 8192), 8192)) == TEXT


def test_a_key_opens_one_answer_even_if_that_fails():
    for first in (message(), b"no message"):
        recipient = Recipient(KEY)
        assert outcome(lambda one=first, key=recipient: key.open(one, 32)) in (SECRET, TEXT)
        with pytest.raises(Misuse, match="has opened an answer already"):
            recipient.open(message(), 32)


@pytest.mark.parametrize("size", [0, -16, 1, 31, 33])
def test_a_size_that_would_leave_a_part_of_a_block_for_padding_is_misuse(size):
    recipient = Recipient(KEY)
    with pytest.raises(Misuse, match="a multiple of 16"):
        recipient.open(message(), size)
    assert recipient.open(message(), 32) == SECRET


@given(st.binary(max_size=600))
def test_any_bytes_are_met_by_the_one_error(data):
    assert unopened(lambda: open_secret(data)) == TEXT


# Requests and answers -------------------------------------------------------------------------------------


def test_the_documents_public_key_is_the_recipients():
    recipient = Recipient(KEY)
    request = kms.attestation_request(recipient.public_key)
    assert cbor2.loads(request) == {
        "Attestation": {"user_data": None, "nonce": None, "public_key": recipient.public_key}
    }
    verified = verifier.verify(enclave()(request), policy=POLICY, at_ms=NOW_MS)
    assert (verified.public_key, verified.report_data, verified.nonce) == (recipient.public_key, None, None)


def test_a_request_has_the_fields_of_kms_decrypt():
    assert json.loads(kms.decrypt_request(b"document", b"blob", "alias/authority")) == {
        "CiphertextBlob": b64encode(b"blob").decode(),
        "KeyId": "alias/authority",
        "Recipient": {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": b64encode(b"document").decode(),
        },
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((b"", b"blob", "id"), "attestation document for KMS is 0 long"),
        ((bytes(262_145), b"blob", "id"), "attestation document for KMS is 262145 long"),
        ((b"document", b"", "id"), "ciphertext for KMS is 0 long"),
        ((b"document", bytes(6145), "id"), "ciphertext for KMS is 6145 long"),
        ((b"document", b"blob", ""), "key id for KMS is 0 long"),
        ((b"document", b"blob", "i" * 2049), "key id for KMS is 2049 long"),
    ],
)
def test_what_kms_would_not_take_is_not_asked(arguments, said):
    with pytest.raises(Misuse, match=said):
        kms.decrypt_request(*arguments)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"Plaintext": "c2VjcmV0"}',
        b'{"CiphertextForRecipient": null}',
        b'{"CiphertextForRecipient": 5}',
        b'{"CiphertextForRecipient": ["MA=="]}',
        b'{"CiphertextForRecipient": "no base64"}',
        b'{"CiphertextForRecipient": "\\ud800"}',
        b'{"__type": 5}',
        b"[" * 60_000,
        b"9" * 60_000,
        answer_of(message()).ljust(kms.ANSWER_BYTES_MAX + 1),
    ],
    ids=lambda answer: answer[:40].decode("latin-1"),
)
def test_an_answer_of_another_form_is_met_by_the_one_error(answer):
    assert unopened(lambda: kms.ciphertext_for_recipient(answer)) == TEXT


def test_a_refusal_is_shown_without_what_could_deceive_a_terminal():
    answer = json.dumps({"__type": "\x1b[2J\u202e" + "x" * 500, "message": "?"}).encode()
    with pytest.raises(Misuse) as raised:
        kms.ciphertext_for_recipient(answer)
    assert str(raised.value).isascii()
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 300


JSON = st.recursive(
    st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4
)
FIELDS = st.dictionaries(st.sampled_from(("CiphertextForRecipient", "Plaintext", "KeyId")), JSON)


@given(st.binary(max_size=80) | (JSON | FIELDS).map(lambda value: json.dumps(value).encode()))
def test_any_answer_leads_to_bytes_or_to_the_one_error(answer):
    found = outcome(lambda: kms.ciphertext_for_recipient(answer))
    assert isinstance(found, bytes) or found == TEXT
