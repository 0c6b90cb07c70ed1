"""The whole examination, in the order in which things depend on each other."""

from __future__ import annotations

import time
from pathlib import Path

from perdure.evidence.collateral import NONE
from perdure.service import collateral as folder
from perdure.service.doctor import disks, look, site, software
from perdure.service.doctor.disks import Trust
from perdure.service.doctor.finding import Finding, Level, ok
from perdure.service.site import background
from perdure.service.site.config import Config


def examine(path: Path, *, must_exist: bool) -> list[Finding]:
    """Everything: software, this machine, and the array of the configuration at `path`, which need not be there."""
    found, about = None, [ok("configuration", f"There is none at {path}; `perdure up` makes one")]
    if must_exist or path.exists():
        first, found = site.configuration(path)
        about = [first]
    if found is not None:
        about += _array(found)
    addresses = () if found is None else found.addresses
    size_bytes = None if found is None else found.array.size_bytes
    main = None if found is None else background.running(found)
    return [*software.findings(), *look.this_machine(addresses, size_bytes, None if main is None else main.pid), *about]


def _array(found: Config) -> list[Finding]:
    key, authority = site.key(found)
    policy, read = site.policy(found)
    hints = site.hints(found, time.time_ns() // 1_000_000)
    has_hints = found.collateral is not None and hints.level is not Level.FAIL
    collateral = folder.read_collateral(found.collateral) if has_hints and found.collateral is not None else NONE
    trust = None if authority is None or read is None else Trust(authority, read, collateral)
    return [
        site.array_id(found),
        site.directory(found),
        key,
        policy,
        hints,
        *disks.findings(found, trust),
        site.main_program(found),
        site.page(found),
        *site.sockets(found),
    ]
