"""The folder of what verifiers may need: hints that come and go while the main program runs."""

from __future__ import annotations

import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from perdure.errors import Misuse
from perdure.evidence import anchors
from perdure.evidence.collateral import Collateral
from perdure.evidence.snp.report import Product
from perdure.service import collateral
from perdure.service.collateral import CollateralFolder, read_collateral
from tests.evidence.snp import support as snp
from tests.evidence.tdx import support as tdx

MILAN, GENOA, INTEL = anchors.AMD_ARK_MILAN, anchors.AMD_ASK_GENOA, anchors.INTEL_SGX_ROOT
STATEMENT = tdx.Maker().text()


def pem(der):
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def test_certificates_and_statements_are_read_by_their_suffix_in_the_order_of_names(tmp_path):
    (tmp_path / "a.pem").write_bytes(pem(MILAN) + pem(GENOA))
    (tmp_path / "b.der").write_bytes(INTEL)
    (tmp_path / "c.json").write_text(STATEMENT)
    (tmp_path / "README").write_text("for people")
    found = read_collateral(tmp_path)
    assert found.certificates == (MILAN, GENOA, INTEL)
    assert found.tdx == (STATEMENT,)


@pytest.mark.parametrize("name", ["a.der", "a.pem", "a.json"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe nothing of the sort")
    with pytest.raises(Misuse, match=f"{name} (holds no certificates|does not hold Intel)"):
        read_collateral(tmp_path)


def test_a_folder_that_is_not_there_is_named_at_once(tmp_path):
    with pytest.raises(Misuse, match="folder"):
        CollateralFolder(tmp_path / "none")


def test_a_folder_with_too_many_files_is_another_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(collateral, "FILES_MAX", 1)
    (tmp_path / "a.der").write_bytes(MILAN)
    read_collateral(tmp_path)
    (tmp_path / "b.der").write_bytes(GENOA)
    with pytest.raises(Misuse, match="more than 1 files"):
        read_collateral(tmp_path)


def test_a_folder_with_more_certificates_than_verifiers_look_at_is_refused(tmp_path):
    (tmp_path / "a.pem").write_bytes(pem(INTEL) * collateral.CERTIFICATES_MAX)
    assert len(read_collateral(tmp_path).certificates) == collateral.CERTIFICATES_MAX
    (tmp_path / "b.der").write_bytes(INTEL)
    with pytest.raises(Misuse, match="more than 200 certificates"):
        read_collateral(tmp_path)


def test_a_real_processors_certificate_is_read_without_a_warning(tmp_path, recwarn):
    (tmp_path / "vcek.der").write_bytes(snp.leaf(Product.MILAN))
    assert len(read_collateral(tmp_path).certificates) == 1
    assert not recwarn.list


@pytest.fixture
def now(monkeypatch):
    """The clock, in seconds; moved by hand."""
    now = [100.0]
    monkeypatch.setattr(collateral.time, "monotonic", lambda: now[0])
    return now


def test_what_comes_later_is_found_and_what_becomes_unreadable_costs_nothing(tmp_path, now, caplog):
    folder = CollateralFolder(tmp_path)
    assert folder().certificates == ()
    (tmp_path / "a.der").write_bytes(MILAN)
    assert folder().certificates == (), "it is looked at once a second, not for every document"
    now[0] += 1
    assert folder().certificates == (MILAN,)
    (tmp_path / "a.der").write_bytes(b"half a certificate")
    now[0] += 1
    assert folder().certificates == (MILAN,), "what was good stays in use"
    assert "a.der holds no certificates" in caplog.text
    (tmp_path / "a.der").write_bytes(GENOA)
    now[0] += 1
    assert folder().certificates == (GENOA,)
    os.rename(tmp_path, tmp_path.with_name("away"))
    for _ in range(3):
        now[0] += 1
        assert folder().certificates == (GENOA,)
    assert caplog.text.count("cannot be read") == 1, "what lasts is told once"


def test_one_bad_file_does_not_keep_a_renewed_one_from_being_used(tmp_path, now, caplog):
    folder = CollateralFolder(tmp_path)
    (tmp_path / "note.json").write_text("{}")
    (tmp_path / "renewed.json").write_text(STATEMENT)
    (tmp_path / "odd.der").write_bytes(MILAN.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1))
    now[0] += 1
    assert folder() == Collateral((), (STATEMENT,))
    assert caplog.text.count("stays in use") == 2
    for _ in range(3):
        now[0] += 1
        assert folder() == Collateral((), (STATEMENT,))
    assert caplog.text.count("stays in use") == 2, "each change is told once"


def test_too_many_files_later_on_leave_what_there_was(tmp_path, now, monkeypatch, caplog):
    (tmp_path / "a.json").write_text(STATEMENT)
    folder = CollateralFolder(tmp_path)
    monkeypatch.setattr(collateral, "STATEMENTS_MAX", 1)
    (tmp_path / "b.json").write_text(STATEMENT)
    for _ in range(3):
        now[0] += 1
        assert folder() == Collateral((), (STATEMENT,))
    assert caplog.text.count("1 of Intel's statements") == 1, "what lasts is told once"
    with pytest.raises(Misuse, match="leave out what is old"):
        read_collateral(tmp_path)
    (tmp_path / "b.json").unlink()
    now[0] += 1
    assert folder() == Collateral((), (STATEMENT,))


def test_what_is_no_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe.der")
    (tmp_path / "folder.pem").mkdir()
    assert read_collateral(tmp_path) == Collateral()
