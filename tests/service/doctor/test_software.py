"""What is installed is tried, and what does not work is named."""

import os

import pytest

from perdure.service.doctor import software
from perdure.service.doctor.finding import Level


def test_all_is_well_where_the_tests_run():
    assert [(one.check, one.level.value) for one in software.findings()] == [
        ("python", "ok"),
        ("packages", "ok"),
        ("signatures", "ok"),
        ("erasure code", "ok"),
        ("freed memory", "ok"),
    ]


def test_each_package_is_named_with_its_version():
    found = software.packages().found
    assert all(f"{name} " in found for name in ("awscrt", "cbor2", "coincurve", "cryptography", "dcap-qvl", "pyeclib"))
    assert "pytest" not in found, "that is for tests only"


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A distribution that needs one package that cannot be imported and one that is not there."""
    for name, needs, text in (("outer", ("inner", "absent-one"), ""), ("inner", (), "1 / 0")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {need}" for need in needs)]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        (info / "RECORD").write_text(f"{name}_module/__init__.py,,\n")
        (tmp_path / f"{name}_module").mkdir()
        (tmp_path / f"{name}_module" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("broken")
def test_a_package_that_is_missing_or_broken_is_a_failure():
    found = software.packages("outer")
    assert found.level is Level.FAIL
    assert "inner cannot be imported (ZeroDivisionError" in found.found
    assert "absent-one is not installed" in found.found


def test_an_installation_that_is_no_package_is_said():
    assert software.packages("no-such-distribution").level is Level.WARN


def test_a_c_library_that_does_not_overwrite_is_noticed(monkeypatch):
    monkeypatch.setattr("perdure.service.wiping.environment", lambda found: {**found, "PYTHONMALLOC": "malloc"})
    monkeypatch.setitem(os.environ, "GLIBC_TUNABLES", "")
    found = software.freed_memory()
    assert found.level is Level.WARN
    assert "does not overwrite" in found.found
