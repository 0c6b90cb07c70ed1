import hashlib
import multiprocessing
import stat

import pytest
from cryptography import x509

from perdure.errors import Misuse
from perdure.evidence.nitro import chain
from perdure.simtee import pki
from perdure.simtee.pki import LeafChain, SimulatedRoot

MODULE_ID = "i-0123456789abcdef0-enc018bcfe568000000"
START_MS = 1_700_000_000_000
HOUR_MS = 3600 * 1000


def seeded(seed):
    count = iter(range(10**9))
    return lambda length: hashlib.shake_256(f"{seed}/{next(count)}".encode()).digest(length)


ROOT = SimulatedRoot.create(seeded("root"))


def path(leaf):
    return (*leaf.cabundle, leaf.certificate)


def fingerprint_of(directory):
    return hashlib.sha256(SimulatedRoot.load_or_create(directory).der).hexdigest()


def test_a_root_is_made_once_and_loaded_afterwards(tmp_path):
    made = SimulatedRoot.load_or_create(tmp_path / "a" / "root")
    loaded = SimulatedRoot.load_or_create(tmp_path / "a" / "root")
    assert loaded.der == made.der
    assert loaded.key.private_numbers() == made.key.private_numbers()
    assert SimulatedRoot.load_or_create(tmp_path / "b").der != made.der


def test_only_the_owner_can_read_the_key(tmp_path):
    SimulatedRoot.load_or_create(tmp_path / "root")
    assert stat.S_IMODE((tmp_path / "root" / pki.KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o700


def test_processes_that_start_at_once_agree_on_one_root(tmp_path):
    with multiprocessing.get_context("fork").Pool(6) as pool:
        found = pool.map(fingerprint_of, [tmp_path / "root"] * 12, chunksize=1)
    assert len(set(found)) == 1
    assert sorted(entry.name for entry in (tmp_path / "root").iterdir()) == [pki.CERTIFICATE_FILE, pki.KEY_FILE]


def test_a_creation_that_was_interrupted_is_done_again(tmp_path):
    (tmp_path / pki.KEY_FILE).write_bytes(b"half a k")
    (tmp_path / f"{pki.KEY_FILE}.new").write_bytes(b"half")
    assert SimulatedRoot.load_or_create(tmp_path).der == SimulatedRoot.load_or_create(tmp_path).der


@pytest.mark.parametrize("damage", ["cut key", "no key", "cut certificate", "foreign certificate"])
def test_a_damaged_root_is_refused_and_not_replaced(tmp_path, damage):
    SimulatedRoot.load_or_create(tmp_path)
    key, certificate = tmp_path / pki.KEY_FILE, tmp_path / pki.CERTIFICATE_FILE
    if damage == "no key":
        key.unlink()
    elif damage == "foreign certificate":
        certificate.write_bytes(ROOT.der)
    else:
        file = key if damage == "cut key" else certificate
        file.write_bytes(file.read_bytes()[:-30])
    before = certificate.read_bytes()
    with pytest.raises(Misuse, match="does not hold a simulated root"):
        SimulatedRoot.load_or_create(tmp_path)
    assert certificate.read_bytes() == before


def test_the_same_draws_give_the_same_certificates():
    one, other = (LeafChain(SimulatedRoot.create(seeded("r")), MODULE_ID, seeded("c")) for _ in range(2))
    assert path(one.at(START_MS)) == path(other.at(START_MS))
    assert path(LeafChain(ROOT, MODULE_ID).at(START_MS)) != path(LeafChain(ROOT, MODULE_ID).at(START_MS))


def test_a_leaf_is_used_for_hours_and_renewed_before_it_ends():
    leaves = LeafChain(ROOT, MODULE_ID, seeded("c"))
    first = leaves.at(START_MS)
    assert leaves.at(START_MS + 2 * HOUR_MS) == first
    second = leaves.at(START_MS + 3 * HOUR_MS - 60_000)
    assert second.certificate != first.certificate
    assert second.cabundle == first.cabundle


def test_every_chain_of_a_month_verifies_and_is_valid_for_some_minutes_more():
    leaves = LeafChain(ROOT, MODULE_ID, seeded("c"))
    verified, seen = chain.ChainCache(), set()
    for now_ms in range(START_MS, START_MS + 30 * 24 * HOUR_MS, 9 * HOUR_MS // 2):
        certificates = path(leaves.at(now_ms))
        seen.add(certificates)
        window = verified.verify(certificates)
        assert window.not_before_ms <= now_ms <= window.not_after_ms - 9 * 60_000
        assert (window.not_before_ms, window.not_after_ms) == (window.leaf_not_before_ms, window.leaf_not_after_ms)
    assert len({certificates[1] for certificates in seen}) == 3  # regional
    assert len({certificates[2] for certificates in seen}) > 5  # zonal
    assert len({certificates[3] for certificates in seen}) > 25  # instance


def test_time_that_goes_back_gets_a_chain_that_is_valid_then():
    leaves = LeafChain(ROOT, MODULE_ID, seeded("c"))
    leaves.at(START_MS)
    window = chain.verify_path(path(leaves.at(START_MS - 24 * HOUR_MS)))
    assert window.not_before_ms <= START_MS - 24 * HOUR_MS <= window.not_after_ms


def test_certificates_have_awss_extensions():
    *authorities, last = (x509.load_der_x509_certificate(der) for der in path(LeafChain(ROOT, MODULE_ID).at(START_MS)))
    constraints = [c.extensions.get_extension_for_class(x509.BasicConstraints) for c in (*authorities, last)]
    assert [(item.value.ca, item.value.path_length, item.critical) for item in constraints] == [
        (True, None, True),
        (True, 2, True),
        (True, 1, True),
        (True, 0, True),
        (False, None, True),
    ]
    assert not last.extensions.get_extension_for_class(x509.KeyUsage).critical
    assert len(last.extensions) == 2
    assert authorities[0].subject.rfc4514_string() == "CN=perdure.simulated-tee,OU=simulated,O=Perdure,C=ZZ"
