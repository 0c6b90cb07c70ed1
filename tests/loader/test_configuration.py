"""What a main program finds in its private directory: a configuration in which a host chose nothing but addresses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perdure.array.geometry import Geometry
from perdure.errors import Misuse
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.loader.child import Hints, configuration
from perdure.loader.sealed import Secret
from perdure.manifest.manifest import Manifest, Overrides, Program, ProgramKind
from perdure.service.main import settings_of
from perdure.service.site import config
from perdure.service.site.config import Acknowledgements, Attest, WhenTooFew

POLICY = Policy((TrustedRoot.builtin("aws-nitro-g1"),), (), acknowledgement_chains=True)
SECRET = Secret(b"k" * 32, b"a" * 32, POLICY)
MANIFEST = Manifest("node", 7, Program(ProgramKind.TREE, b"t" * 32), ("{program}/x",), b"a" * 32, 2, 3, POLICY)
SHAPE = Geometry.for_size(2, 3, 4 << 20)
HINTS = Hints(("tcp:10.0.0.7:7001", "vsock:16:7001", "unix:/disk.sock"), "unix:/nbd.sock", 61_184)


def written(directory: Path, manifest: Manifest = MANIFEST, hints: Hints = HINTS) -> config.Config:
    for name, contents in configuration(SECRET, manifest, SHAPE, hints).items():
        (directory / name).write_bytes(contents)
        (directory / name).chmod(0o400)
    return config.load(directory / "perdure.toml")


def test_it_is_the_array_the_key_and_the_program_that_were_signed_or_sealed(tmp_path: Path) -> None:
    found = written(tmp_path)
    array = found.array
    assert (array.array_id, array.threshold, array.disks, array.size_bytes) == (b"a" * 32, 2, 3, 4 << 20)
    assert array.program == (7, MANIFEST.digest())
    assert found.addresses == HINTS.addresses
    assert found.serve.listen == "unix:/nbd.sock"
    settings = settings_of(found)
    assert settings.private_key == SECRET.private_key
    assert settings.policy == POLICY
    assert settings.program == (7, MANIFEST.digest())
    assert (tmp_path / "array.id").read_text().strip() == (b"a" * 32).hex()


def test_what_the_manifest_fixes_is_so_and_all_else_as_usual(tmp_path: Path) -> None:
    serve = written(tmp_path).serve
    usual = (Acknowledgements.EVIDENCE, Attest.FLUSH, WhenTooFew.FAIL)
    assert (serve.acknowledgements, serve.attest, serve.when_too_few_disks) == usual
    for path in tmp_path.iterdir():
        path.unlink()
    serve = written(tmp_path, replace(MANIFEST, overrides=Overrides("chains", "every-read", "freeze"))).serve
    fixed = (Acknowledgements.CHAINS, Attest.EVERY_READ, WhenTooFew.FREEZE)
    assert (serve.acknowledgements, serve.attest, serve.when_too_few_disks) == fixed


@pytest.mark.parametrize("text", ['unix:/x"', "unix:/x\\", "unix:/x\n[array]", "unix:/x\x7f"])
def test_a_host_can_say_nothing_but_addresses(tmp_path: Path, text: str) -> None:
    for hints in (replace(HINTS, addresses=(text,)), replace(HINTS, serve=text)):
        with pytest.raises(Misuse, match="printable text without quotes"):
            configuration(SECRET, MANIFEST, SHAPE, hints)
