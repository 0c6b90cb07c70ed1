"""The loader's image: the program in one register, the developers in another; same inputs, same bytes."""

from __future__ import annotations

import json

from perdure.image import cpio, eif, loader
from perdure.manifest.developers import Developers


def developers(key: str) -> Developers:
    listed = [{"key": key, "kind": "bip340", "name": "a"}]
    return Developers.from_json(json.dumps({"developers": listed, "format": 1, "threshold": 1}).encode())


ONE = developers("a" * 64)
OTHER = developers("f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9")


def test_the_developers_alone_move_the_second_register() -> None:
    first, second = (eif.measure(eif.parse(loader.build_simulated(listed))) for listed in (ONE, OTHER))
    assert first.pcr1 == second.pcr1
    assert first.pcr2 != second.pcr2
    assert first.pcr0 != second.pcr0
    assert loader.build_simulated(ONE) == loader.build_simulated(ONE)


def test_the_second_ramdisk_is_the_list_and_nothing_else() -> None:
    program, listed = eif.parse(loader.build_simulated(ONE)).ramdisks
    assert cpio.unpack(listed) == {loader.DEVELOPERS_FILE: ONE.to_json()}
    assert cpio.unpack(program) == loader.program_files()


def test_the_program_has_no_tests_no_service_and_no_command_line() -> None:
    rooms = {name.split("/")[1] for name in loader.program_files() if name.count("/") > 1}
    assert rooms == {"array", "disk", "evidence", "loader", "manifest", "shell"}
    assert all(name.endswith(".py") for name in loader.program_files())
