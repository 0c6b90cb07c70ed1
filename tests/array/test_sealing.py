"""Sealing: what was sealed opens in its own place only, nothing altered opens at all, and less than k tells nothing."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable
from itertools import count

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.array.erasure import Code
from perdure.array.geometry import SECTOR_BYTES, TAG_BYTES
from perdure.array.sealing import NEVER_WRITTEN, Keys, seal
from perdure.array.sealing import unseal as unseal_buffer
from perdure.errors import Corrupt

PRIVATE_KEY = b"\x11" * 32
ARRAY_ID = b"\xa1" * 32
KEYS = Keys.derive(PRIVATE_KEY, ARRAY_ID)
SECTOR = bytes(range(256)) * 16


def counted_random(seed: int = 0) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def seal_one(
    sector: bytes = SECTOR, index: int = 7, generation: int = 3, keys: Keys = KEYS, seed: int = 0
) -> tuple[bytes, bytes]:
    """Ciphertext and tag."""
    rows, tags = seal(keys, [index], [sector], generation, SECTOR_BYTES, counted_random(seed))
    return rows[0].tobytes(), tags


def unseal(keys: Keys, index: int, tag: bytes, ciphertext: bytes) -> bytes:
    """The plaintext."""
    return bytes(unseal_buffer(keys, index, tag, memoryview(ciphertext)))


def refuses(keys: Keys, index: int, tag: bytes, ciphertext: bytes) -> None:
    with pytest.raises(Corrupt, match=f"^sector {index} does not authenticate; nothing was returned in its place$"):
        unseal(keys, index, tag, ciphertext)


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


# Round trips ----------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=5),
    st.integers(0, (1 << 64) - 1),
    st.integers(SECTOR_BYTES, SECTOR_BYTES + 128),
    st.integers(0),
)
def test_what_was_sealed_opens_again(
    array_id: bytes, indices: list[int], generation: int, width: int, seed: int
) -> None:
    keys = Keys.derive(PRIVATE_KEY, array_id)
    sectors = [random.Random(seed + at).randbytes(SECTOR_BYTES) for at in range(len(indices))]
    rows, tags = seal(keys, indices, sectors, generation, width, counted_random(seed))
    assert rows.shape == (len(indices), width)
    assert not rows[:, SECTOR_BYTES:].any()
    assert len(tags) == TAG_BYTES * len(indices)
    for at, index in enumerate(indices):
        tag = tags[at * TAG_BYTES : (at + 1) * TAG_BYTES]
        assert unseal(keys, index, tag, rows[at, :SECTOR_BYTES].tobytes()) == sectors[at]
        assert tag[56:] == generation.to_bytes(8, "big")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sectors_may_be_any_kind_of_bytes(kind: type) -> None:
    rows, tags = seal(KEYS, [7], [kind(SECTOR)], 3, SECTOR_BYTES, counted_random())
    assert (rows[0].tobytes(), tags) == seal_one()


def test_nothing_to_seal_has_no_rows_and_no_tags() -> None:
    rows, tags = seal(KEYS, [], [], 1, 4224, counted_random())
    assert rows.shape == (0, 4224)
    assert tags == b""


def test_sealing_leaves_the_callers_sector_alone() -> None:
    sector = bytearray(SECTOR)
    seal(KEYS, [7], [sector], 3, SECTOR_BYTES, counted_random())
    assert sector == SECTOR


def test_a_tag_of_zeros_reads_as_zeros_whatever_the_fragments_say() -> None:
    assert len(NEVER_WRITTEN) == TAG_BYTES
    for ciphertext in (bytes(SECTOR_BYTES), seal_one()[0], b"\xff" * SECTOR_BYTES):
        assert unseal(KEYS, 7, NEVER_WRITTEN, ciphertext) == bytes(SECTOR_BYTES)


def test_a_sealed_sector_of_zeros_is_not_the_tag_of_zeros() -> None:
    ciphertext, tag = seal_one(bytes(SECTOR_BYTES))
    assert tag != NEVER_WRITTEN
    assert ciphertext != bytes(SECTOR_BYTES)
    assert unseal(KEYS, 7, tag, ciphertext) == bytes(SECTOR_BYTES)


@pytest.mark.parametrize("size", [0, 1, SECTOR_BYTES - 1, SECTOR_BYTES + 1, 2 * SECTOR_BYTES])
def test_a_sector_of_another_size_is_refused_not_sealed_with_a_tail_of_noise(size: int) -> None:
    with pytest.raises(ValueError, match=r"^a sector has 4,096 bytes$"):
        seal(KEYS, [7], [bytes(size)], 3, SECTOR_BYTES + 128, counted_random())


def test_a_row_too_narrow_for_a_sector_is_refused() -> None:
    with pytest.raises(ValueError):
        seal(KEYS, [7], [SECTOR], 3, SECTOR_BYTES - 1, counted_random())


def test_as_many_sectors_as_indices_are_required() -> None:
    for indices, sectors in [([1, 2], [SECTOR]), ([1], [SECTOR, SECTOR])]:
        with pytest.raises(ValueError):
            seal(KEYS, indices, sectors, 3, SECTOR_BYTES, counted_random())


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError):
        seal(KEYS, [1, 2], [SECTOR, SECTOR], 3, SECTOR_BYTES, lambda size: bytes(size - 1))


# Damage and misplacement ----------------------------------------------------------------------------------


def test_any_flipped_bit_of_a_tag_is_refused() -> None:
    ciphertext, tag = seal_one()
    for bit in range(8 * TAG_BYTES):
        refuses(KEYS, 7, flipped(tag, bit), ciphertext)


def test_a_flipped_bit_in_any_byte_of_the_ciphertext_is_refused() -> None:
    ciphertext, tag = seal_one()
    for at in range(SECTOR_BYTES):
        refuses(KEYS, 7, tag, flipped(ciphertext, 8 * at + at % 8))


def test_a_flipped_bit_of_the_index_is_refused() -> None:
    ciphertext, tag = seal_one()
    for bit in range(64):
        refuses(KEYS, 7 ^ 1 << bit, tag, ciphertext)


def test_a_flipped_bit_of_the_array_id_is_refused() -> None:
    ciphertext, tag = seal_one()
    for bit in range(256):
        other = Keys(flipped(ARRAY_ID, bit), KEYS.wrap, KEYS.mac, KEYS.journal)
        refuses(other, 7, tag, ciphertext)
    refuses(Keys.derive(PRIVATE_KEY, b"\xa2" * 32), 7, tag, ciphertext)


def test_another_private_key_opens_nothing() -> None:
    ciphertext, tag = seal_one()
    refuses(Keys.derive(b"\x12" * 32, ARRAY_ID), 7, tag, ciphertext)


def test_a_tag_with_the_generation_of_another_version_is_refused() -> None:
    ciphertext, tag = seal_one(generation=3)
    refuses(KEYS, 7, tag[:56] + (4).to_bytes(8, "big"), ciphertext)


def test_an_older_ciphertext_does_not_fit_a_newer_tag_even_for_the_same_content() -> None:
    old, new = seal_one(generation=3, seed=1), seal_one(generation=4, seed=2)
    refuses(KEYS, 7, new[1], old[0])
    refuses(KEYS, 7, old[1], new[0])


@pytest.mark.parametrize("cut", [0, 1, 4095])
def test_a_ciphertext_of_another_length_is_refused(cut: int) -> None:
    ciphertext, tag = seal_one()
    refuses(KEYS, 7, tag, ciphertext[:cut])
    refuses(KEYS, 7, tag, ciphertext + bytes(cut + 1))


@pytest.mark.parametrize("length", [0, 1, 32, 56, 63])
def test_a_tag_cut_short_is_refused(length: int) -> None:
    ciphertext, tag = seal_one()
    refuses(KEYS, 7, tag[:length], ciphertext)


@given(st.binary(min_size=TAG_BYTES, max_size=TAG_BYTES))
def test_no_tag_made_up_opens_anything(tag: bytes) -> None:
    if tag != NEVER_WRITTEN:
        refuses(KEYS, 7, tag, SECTOR)


# What it hides --------------------------------------------------------------------------------------------


def unwrapped_key(keys: Keys, index: int, tag: bytes, ciphertext: bytes) -> bytes:
    """r, as whoever holds all keys would compute it from `ciphertext`: worked out here from the documented formula."""
    message = keys.array_id + index.to_bytes(8, "big") + tag[56:] + hashlib.sha256(ciphertext).digest()
    return bytes(a ^ b for a, b in zip(tag[:32], hmac.digest(keys.wrap, message, "sha256"), strict=True))


def bits_apart(left: bytes, right: bytes) -> int:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).bit_count()


def test_the_same_sector_sealed_twice_has_nothing_in_common() -> None:
    (one, one_tag), (other, other_tag) = seal_one(seed=1), seal_one(seed=2)
    assert abs(bits_apart(one, other) - 4 * SECTOR_BYTES) < 600  # half of 32,768 bits; 600 is 6.6 deviations
    assert abs(bits_apart(one_tag[:56], other_tag[:56]) - 4 * 56) < 70
    assert one_tag[56:] == other_tag[56:]


def test_every_sector_of_a_batch_has_a_key_of_its_own() -> None:
    rows, tags = seal(KEYS, list(range(8)), [bytes(SECTOR_BYTES)] * 8, 1, SECTOR_BYTES, counted_random())
    assert len({row.tobytes() for row in rows}) == 8
    assert len({unwrapped_key(KEYS, at, tags[64 * at : 64 * at + 64], rows[at].tobytes()) for at in range(8)}) == 8


def test_each_key_is_32_bytes_that_were_drawn_for_it() -> None:
    drawn: list[int] = []

    def draw(size: int) -> bytes:
        drawn.append(size)
        return bytes(range(96))

    rows, tags = seal(KEYS, [4, 5, 6], [SECTOR] * 3, 1, SECTOR_BYTES, draw)
    assert drawn == [96]
    for at in range(3):
        tag = tags[64 * at : 64 * at + 64]
        assert unwrapped_key(KEYS, 4 + at, tag, rows[at].tobytes()) == bytes(range(32 * at, 32 * at + 32))


def test_one_unseen_byte_changes_the_key_completely() -> None:
    """What a holder of every key, all the ciphertext but one byte, and the tag has: 256 keys that share nothing."""
    ciphertext, tag = seal_one()
    right = unwrapped_key(KEYS, 7, tag, ciphertext)
    keys = [unwrapped_key(KEYS, 7, tag, ciphertext[:-1] + bytes([last])) for last in range(256)]
    assert keys[ciphertext[-1]] == right
    wrong = [key for key in keys if key != right]
    assert len(set(wrong)) == 255
    assert all(bits_apart(key, right) > 70 for key in wrong)  # of 256: 128 expected, 8 a deviation


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5), (4, 4)])
def test_k_minus_1_fragments_and_all_keys_open_nothing(k: int, n: int) -> None:
    """Whatever is put in the place of the missing fragment, no key comes out that opens even the part that is seen."""
    width = -(-SECTOR_BYTES // (k * 64)) * 64
    rows, tags = seal(KEYS, [7], [SECTOR], 3, width * k, counted_random())
    columns = Code(k, n).encode(rows[0].tobytes())
    right = unwrapped_key(KEYS, 7, tags, rows[0, :SECTOR_BYTES].tobytes())
    seen = {seat: columns[seat] for seat in range(n - k + 1, n)}
    for guess in (bytes(width), b"\xff" * width, random.Random(1).randbytes(width)):
        whole = b"".join(Code(k, n).decode({0: guess, **seen}))[:SECTOR_BYTES]
        assert bits_apart(unwrapped_key(KEYS, 7, tags, whole), right) > 70
        refuses(KEYS, 7, tags, whole)


def test_a_tag_commits_to_one_content_under_whatever_key() -> None:
    """Each of 32 owners makes a tag from the same draws; it opens for its owner and for no other."""
    owners = [Keys.derive(bytes([key]) * 32, ARRAY_ID) for key in range(1, 33)]
    for owner in owners:
        ciphertext, tag = seal_one(keys=owner)
        for keys in owners:
            if keys is owner:
                assert unseal(keys, 7, tag, ciphertext) == SECTOR
            else:
                refuses(keys, 7, tag, ciphertext)


def test_both_halves_of_a_tag_and_the_content_are_bound_to_each_other() -> None:
    (one, one_tag), (other, other_tag) = seal_one(seed=1), seal_one(seed=2)
    for ciphertext in (one, other):
        refuses(KEYS, 7, one_tag[:32] + other_tag[32:], ciphertext)
        refuses(KEYS, 7, other_tag[:32] + one_tag[32:], ciphertext)


def test_keys_do_not_show_themselves() -> None:
    for secret in (KEYS.wrap, KEYS.mac, KEYS.journal):
        assert secret.hex() not in repr(KEYS)
        assert repr(secret) not in repr(KEYS)


# The format -----------------------------------------------------------------------------------------------


def hkdf_by_hand(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869."""
    prk = hmac.digest(salt, secret, "sha256")
    output, last = b"", b""
    for number in count(1):
        if len(output) >= length:
            return output[:length]
        last = hmac.digest(prk, last + info + bytes([number]), "sha256")
        output += last
    raise AssertionError


def ctr_by_hand(key: bytes, plaintext: bytes) -> bytes:
    """AES-256 in counter mode, the first block's number being 2, from the block cipher alone."""
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    stream = encryptor.update(b"".join(at.to_bytes(16, "big") for at in range(2, 2 + len(plaintext) // 16)))
    return bytes(a ^ b for a, b in zip(plaintext, stream, strict=True))


def test_the_keys_are_hkdf_of_the_private_key_and_the_array_id() -> None:
    material = hkdf_by_hand(PRIVATE_KEY, ARRAY_ID, b"perdure/sealing/2", 96)
    assert Keys(ARRAY_ID, material[:32], material[32:64], material[64:]) == KEYS
    assert len({KEYS.wrap, KEYS.mac, KEYS.journal}) == 3


def test_tag_and_ciphertext_are_what_the_specification_says_worked_out_by_other_means() -> None:
    r = bytes(range(32))
    rows, tag = seal(KEYS, [7], [SECTOR], 3, 4224, lambda size: r[:size])
    c = ctr_by_hand(r, SECTOR)
    h = hashlib.sha256(c).digest()
    place = ARRAY_ID + (7).to_bytes(8, "big") + (3).to_bytes(8, "big")
    wrap = bytes(a ^ b for a, b in zip(r, hmac.new(KEYS.wrap, place + h, hashlib.sha256).digest(), strict=True))
    mac = hmac.new(KEYS.mac, place + wrap + h, hashlib.sha256).digest()[:24]
    assert rows[0].tobytes() == c + bytes(128)
    assert tag == wrap + mac + (3).to_bytes(8, "big")


def test_the_format_never_changes_unnoticed() -> None:
    """Values made with the openssl command and Python's hmac alone."""
    rows, tag = seal(KEYS, [7], [SECTOR], 3, 4096, lambda size: bytes(range(size)))
    assert tag[:32].hex() == "5f9c958cd4f92da93a635cf5cb1ab0e238836576d9ed25129ec3a9051d75c912"
    assert tag[32:].hex() == "587a008c44bc88fb8631b4a808926f7e932f17012473961b0000000000000003"
    assert (
        hashlib.sha256(rows.tobytes()).hexdigest() == "18a9e0cf72946aec568370d1e36423c46ecf9be9ec325f70e38e462d34dc30ba"
    )


def test_what_an_earlier_release_sealed_is_refused_and_not_read_as_noise() -> None:
    """It began its counter at 0. Its keys had another name, so that its tags do not hold under ours."""
    material = hkdf_by_hand(PRIVATE_KEY, ARRAY_ID, b"perdure/sealing/1", 96)
    ciphertext, tag = seal_one(keys=Keys(ARRAY_ID, material[:32], material[32:64], material[64:]))
    refuses(KEYS, 7, tag, ciphertext)
