"""Paths with one thing wrong each. A path is made of plain steps, so that each test reads as what it changes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import NameOID

from perdure.errors import BadChain
from perdure.evidence.nitro import chain
from tests.evidence.support import ROOT, leaf

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CURVE = ec.SECP384R1()


def usage(**used: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: used.get(name, False) for name in names})


@dataclass
class Step:
    name: str
    constraints: x509.BasicConstraints | None
    usage: x509.KeyUsage | None
    issuer_name: str | None = None
    constraints_critical: bool = True
    usage_critical: bool = True
    start: datetime = START
    end: datetime = START + 10 * DAY
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(default_factory=lambda: ec.generate_private_key(CURVE))
    extra: list[tuple[x509.ExtensionType, bool]] = field(default_factory=list)
    signer: ec.EllipticCurvePrivateKey | None = None


def authority(name: str, path_length: int | None) -> Step:
    return Step(name, x509.BasicConstraints(ca=True, path_length=path_length), usage(key_cert_sign=True, crl_sign=True))


def steps() -> list[Step]:
    end_entity = x509.BasicConstraints(ca=False, path_length=None)
    last = Step("leaf", end_entity, usage(digital_signature=True), usage_critical=False)
    return [authority("root", None), authority("regional", 2), authority("zonal", 1), authority("instance", 0), last]


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issue(path: list[Step]) -> list[bytes]:
    issued = []
    for above, step in zip([path[0], *path], path, strict=False):
        builder = (
            x509.CertificateBuilder().subject_name(name(step.name)).issuer_name(name(step.issuer_name or above.name))
        )
        builder = builder.public_key(step.key.public_key()).serial_number(len(issued) + 1)
        builder = builder.not_valid_before(step.start).not_valid_after(step.end)
        if step.constraints is not None:
            builder = builder.add_extension(step.constraints, step.constraints_critical)
        if step.usage is not None:
            builder = builder.add_extension(step.usage, step.usage_critical)
        for extension, critical in step.extra:
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(step.signer or above.key, SHA384())
        issued.append(certificate.public_bytes(serialization.Encoding.DER))
    return issued


def with_step(index: int, **changes: object) -> list[bytes]:
    path = steps()
    path[index] = replace(path[index], **changes)
    return issue(path)


def test_a_path_of_the_right_form_gives_the_leafs_key_and_the_common_window():
    path = steps()
    path[2].start, path[3].end = START + DAY, START + 3 * DAY
    verified = chain.verify_path(issue(path))
    r, s = decode_dss_signature(path[-1].key.sign(b"signed", ec.ECDSA(SHA384())))
    verified.key.verify(r, s, b"signed")
    with pytest.raises(InvalidSignature):
        verified.key.verify(r, s, b"Signed")
    assert verified.not_before_ms == (START + DAY).timestamp() * 1000
    assert verified.not_after_ms == (START + 3 * DAY).timestamp() * 1000
    assert verified.leaf_not_before_ms == START.timestamp() * 1000
    assert verified.leaf_not_after_ms == (START + 10 * DAY).timestamp() * 1000


def test_a_path_whose_certificates_share_one_moment_holds_at_that_moment():
    path = steps()
    path[2].start = path[3].end = START + DAY
    verified = chain.verify_path(issue(path))
    assert verified.not_before_ms == verified.not_after_ms == (START + DAY).timestamp() * 1000
    path[2].start += timedelta(seconds=1)
    with pytest.raises(BadChain, match="at no time valid all at once"):
        chain.verify_path(issue(path))


NOT_CA = x509.BasicConstraints(ca=False, path_length=None)
CA = x509.BasicConstraints(ca=True, path_length=None)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
WRONG = {
    "an intermediate is no authority": (2, {"constraints": NOT_CA}),
    "an intermediate has no constraints": (2, {"constraints": None}),
    "an intermediate's constraints are not critical": (2, {"constraints_critical": False}),
    "an intermediate has no usage": (2, {"usage": None}),
    "an intermediate may not sign certificates": (2, {"usage": usage(digital_signature=True, crl_sign=True)}),
    "an intermediate's usage is not critical": (2, {"usage_critical": False}),
    "a path length is exceeded below the root": (1, {"constraints": x509.BasicConstraints(ca=True, path_length=1)}),
    "a path length is exceeded above the instance": (2, {"constraints": x509.BasicConstraints(ca=True, path_length=0)}),
    "the leaf is an authority": (4, {"constraints": CA}),
    "the leaf has no constraints": (4, {"constraints": None}),
    "the leaf's constraints are not critical": (4, {"constraints_critical": False}),
    "the leaf has no usage": (4, {"usage": None}),
    "the leaf may not sign": (4, {"usage": usage(key_agreement=True)}),
    "the leaf may sign certificates": (4, {"usage": usage(digital_signature=True, key_cert_sign=True)}),
    "an intermediate has an unknown critical extension": (1, {"extra": [(UNKNOWN, True)]}),
    "the leaf has an unknown critical extension": (4, {"extra": [(UNKNOWN, True)]}),
    "an intermediate is signed by another key": (2, {"signer": ec.generate_private_key(CURVE)}),
    "the leaf is signed by another key": (4, {"signer": ec.generate_private_key(CURVE)}),
    "the leaf is signed by itself": (4, {"signer": ec.generate_private_key(CURVE), "issuer_name": "leaf"}),
    "the leaf names another issuer": (4, {"issuer_name": "zonal"}),
    "an intermediate names another issuer": (2, {"issuer_name": "root"}),
    "an intermediate was over before the leaf began": (3, {"end": START + DAY, "start": START - DAY}),
    "the leaf's key is of another curve": (4, {"key": ec.generate_private_key(ec.SECP256R1())}),
    "the leaf's key is RSA": (4, {"key": rsa.generate_private_key(65537, 2048)}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refuses_a_path_in_which(wrong):
    index, changes = WRONG[wrong]
    path = steps()
    path[index] = replace(path[index], **changes)
    if "was over" in wrong:
        path[4].start = START + 2 * DAY
    with pytest.raises(BadChain):
        chain.verify_path(issue(path))


def test_the_message_does_not_repeat_what_a_certificate_says():
    with pytest.raises(BadChain, match="signature does not match") as caught:
        chain.verify_path(with_step(4, name="\x1b[2J" + "x" * 40, signer=ec.generate_private_key(CURVE)))
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_an_unknown_extension_that_is_not_critical_is_tolerated():
    assert chain.verify_path(with_step(4, extra=[(UNKNOWN, False)]))


def test_refuses_a_path_with_a_certificate_dropped_added_or_moved():
    good, other = issue(steps()), issue(steps())
    for bad in (
        good[:3] + good[4:],
        good[:1] + good[2:],
        [*good[:4], good[3], *good[4:]],
        [good[0], *good],
        [*good[:4], other[3], good[4]],
        [good[0], good[2], good[1], good[3], good[4]],
        [*good[:4], other[4]],
        [other[0], *good[1:]],
        [good[0], good[0]],
        [good[0]],
        [*good[:4], b""],
        [*good[:4], b"not a certificate"],
        [*good[:4], good[4][:-1]],
        [*good[:4], good[4] + b"\0"],
    ):
        with pytest.raises(BadChain):
            chain.verify_path(bad)
    assert chain.verify_path(good)


def test_the_cache_verifies_a_path_once_and_gives_the_same_answer(monkeypatch):
    calls = []
    real = chain.verify_path
    monkeypatch.setattr(chain, "verify_path", lambda path: calls.append(path) or real(path))
    cache, path = chain.ChainCache(), issue(steps())
    assert cache.verify(path) is cache.verify(path)
    assert len(calls) == len(cache) == 1


def test_the_cache_keeps_no_bad_path_and_no_good_path_opens_it_for_another():
    cache, good = chain.ChainCache(), issue(steps())
    cache.verify(good)
    for bad in (good[:3] + good[4:], [ROOT.der, *good[1:]], [*good[:4], leaf().certificate]):
        for _ in range(2):
            with pytest.raises(BadChain):
                cache.verify(bad)
    assert len(cache) == 1


def test_the_cache_forgets_the_path_used_longest_ago(monkeypatch):
    monkeypatch.setattr(chain.ChainCache, "SIZE_MAX", 2)
    cache = chain.ChainCache()
    a, b, c = issue(steps()), issue(steps()), issue(steps())
    kept = cache.verify(a)
    dropped = cache.verify(b)
    assert cache.verify(a) is kept
    cache.verify(c)
    assert len(cache) == 2
    assert cache.verify(a) is kept
    assert cache.verify(b) is not dropped


def test_the_cache_can_be_shared_between_threads():
    cache, paths, failures = chain.ChainCache(), [issue(steps()) for _ in range(3)], []

    def work() -> None:
        try:
            for path in paths * 20:
                cache.verify(path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(cache) == 3
