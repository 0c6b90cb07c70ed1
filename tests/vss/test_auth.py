"""Who may ask: tokens and signatures, as the public server's own tests have it, and what they must not let through."""

from __future__ import annotations

import base64
import hashlib
import json
import time

import coincurve
import pytest
from coincurve.ecdsa import cdata_to_der, deserialize_compact, serialize_compact
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.errors import Misuse, NotAuthorised
from perdure.vss import auth
from tests.vss.client import Refused
from tests.vss.served import file_place, serving

ALICE, BOB = (rsa.generate_private_key(65537, 2048) for _ in range(2))
NOW = 1_800_000_000
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def pem(key: rsa.RSAPrivateKey, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, form)


def encoded(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(claims: object, *, key: rsa.RSAPrivateKey = ALICE, header: object = None) -> str:
    signed = f"{encoded(header or {'alg': 'RS256', 'typ': 'JWT'})}.{encoded(claims)}"
    return f"Bearer {signed}.{encoded(key.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"


def user(value: str | None, now: int = NOW) -> str:
    return auth.Jwt(pem(ALICE))({} if value is None else {"authorization": value}, now)


@pytest.mark.parametrize("form", [PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1])
def test_the_subject_of_a_token_is_the_user(form: PublicFormat) -> None:
    value = token({"sub": "alice", "exp": NOW, "iat": 1, "nbf": NOW + 1})
    assert auth.Jwt(pem(ALICE, form))({"authorization": value}, NOW) == "alice"


@pytest.mark.parametrize("expiry", [NOW, NOW - 60, NOW + 30_556_889_864_403_199, (1 << 64) - 1])
def test_a_token_holds_until_a_minute_after_its_end(expiry: int) -> None:
    assert user(token({"sub": "alice", "exp": expiry})) == "alice"


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "alice", "exp": NOW - 61},
        {"sub": "alice", "exp": 0},
        {"sub": "alice"},
        {"sub": "alice", "exp": None},
        {"sub": "alice", "exp": str(NOW)},
        {"sub": "alice", "exp": True},
        {"sub": "alice", "exp": float("inf")},
        {"sub": "alice", "exp": 1 << 64},
        {"sub": "alice", "exp": NOW, "aud": "others"},
        {"exp": NOW},
        {"sub": "", "exp": NOW},
        {"sub": 7, "exp": NOW},
        {"sub": "a\0b", "exp": NOW},
        {"sub": "a\ud800", "exp": NOW},
        {"sub": "a" * 121, "exp": NOW},
        [],
        b"\xff",
        b"[" * 2000,
    ],
)
def test_claims_that_do_not_do_are_refused(claims: object) -> None:
    with pytest.raises(NotAuthorised):
        user(token(claims))


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "rs256"}, {"typ": "JWT"}, ["RS256"], b"RS256"]
)
def test_no_other_algorithm_is_taken(header: object) -> None:
    with pytest.raises(NotAuthorised):
        user(token({"sub": "alice", "exp": NOW}, header=header))


def test_another_key_or_an_altered_token_is_refused() -> None:
    good = token({"sub": "alice", "exp": NOW})
    head, _, signature = good.split(".")
    for bad in (
        token({"sub": "alice", "exp": NOW}, key=BOB),
        f"{head}.{encoded({'sub': 'bob', 'exp': NOW})}.{signature}",
        f"{head}..{signature}",
        good + "=",
        good + ".",
        good.removeprefix("Bearer "),
        good.replace("Bearer", "bearer"),
        good[:-4] + "AAAA",
        "Bearer " + "a" * 10_000,
        "",
        None,
    ):
        with pytest.raises(NotAuthorised):
            user(bad)


@given(st.text(max_size=300))
@example("Bearer ..")
@example("Bearer é.é.é")
def test_any_header_is_refused_and_never_a_defect(value: str) -> None:
    for ask in (user, lambda text: auth.signature({"authorization": text}, NOW)):
        with pytest.raises(NotAuthorised):
            ask(value)


@pytest.mark.parametrize("bad", [b"", b"-----BEGIN PUBLIC KEY-----", pem(rsa.generate_private_key(65537, 1024))])
def test_a_key_that_does_not_do_starts_nothing(bad: bytes) -> None:
    with pytest.raises(Misuse, match="nothing was started"):
        auth.Jwt(bad)


# Signatures -----------------------------------------------------------------------------------------------

SECRET = coincurve.PrivateKey(bytes([42]) * 32)


def signed(now: int | str, *, secret: coincurve.PrivateKey = SECRET, constant: bytes = auth.SIGNING_CONSTANT) -> str:
    public = secret.public_key.format()
    digest = hashlib.sha256(constant + public + str(now).encode()).digest()
    compact = secret.sign_recoverable(digest, hasher=None)[:64]
    return f"{public.hex()}{compact.hex()}{now}"


def signer(value: str) -> str:
    return auth.signature({"authorization": value}, NOW)


@pytest.mark.parametrize("now", [NOW, NOW - 86_400, NOW + 86_400])
def test_a_key_that_signed_the_time_is_the_user(now: int) -> None:
    assert signer(signed(now)) == SECRET.public_key.format().hex()


def test_a_signature_for_something_else_is_refused() -> None:
    good = signed(NOW)
    other = coincurve.PrivateKey(bytes([43]) * 32).public_key.format().hex()
    r, s = good[66:130], int(good[130:194], 16)
    for bad in (
        signed(NOW + 86_401),
        signed(NOW - 86_401),
        signed(NOW, constant=b"." * 64),
        good[:194] + str(NOW + 1),
        other + good[66:],
        good[:76] + "00000" + good[81:],
        good[:66] + r + f"{ORDER - s:064x}" + good[194:],  # the other s that verifies: libsecp256k1 refuses it
        good[:66] + "0" * 128 + good[194:],
        good[:194],
        good[:194] + "1" * 40,
        good[:194] + f" {NOW}",
        "04" + good[2:],
    ):
        with pytest.raises(NotAuthorised):
            signer(bad)


def test_the_higher_s_is_what_libsecp256k1_refuses() -> None:
    """So that the one case above which is about a library's rule is about a true one."""
    compact = SECRET.sign_recoverable(bytes(32), hasher=None)[:64]
    high = compact[:32] + (ORDER - int.from_bytes(compact[32:])).to_bytes(32)
    low = cdata_to_der(deserialize_compact(compact))
    assert SECRET.public_key.verify(low, bytes(32), hasher=None)
    assert not SECRET.public_key.verify(cdata_to_der(deserialize_compact(high)), bytes(32), hasher=None)
    assert serialize_compact(deserialize_compact(compact)) == compact


# A server -------------------------------------------------------------------------------------------------


def test_a_server_keeps_users_apart_and_serves_nobody_without_a_token(tmp_path) -> None:
    (tmp_path / "jwt.pem").write_bytes(pem(ALICE))
    now = int(time.time())
    with serving(file_place(tmp_path), auth=("--jwt-key", str(tmp_path / "jwt.pem"))) as served:
        alice = served.client("s", token({"sub": "alice", "exp": now}))
        bob = served.client("s", token({"sub": "bob", "exp": now}))
        alice.put([("k", b"of alice", 0)], global_version=0)
        assert bob.list_all()[0].items == []
        bob.put([("k", b"of bob", 0)])
        assert alice.get("k") == (b"of alice", 1)
        assert bob.get("global_version")[1] == 0
        for bad in (None, token({"sub": "alice", "exp": now - 90}), token({"sub": "alice", "exp": now}, key=BOB)):
            with pytest.raises(Refused, match="AUTH"):
                served.client("s", bad).put([("k", b"", -1)])


def test_a_server_takes_signatures(tmp_path) -> None:
    now = int(time.time())
    with serving(file_place(tmp_path), auth=("--signatures",)) as served:
        one, two = (served.client("s", signed(now, secret=coincurve.PrivateKey(bytes([at]) * 32))) for at in (1, 2))
        one.put([("k", b"of one", 0)])
        with pytest.raises(Refused, match="NO_SUCH_KEY"):
            two.get("k")
        with pytest.raises(Refused, match="AUTH"):
            served.client("s").get("k")
