"""What the figures were measured on, and with which versions. A tool that is not here has no version."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from bench.model import Skip
from bench.peers.postgres import binary
from bench.processes import ROOT, tool

_VERSION = re.compile(r"\d+(\.\d+)+")
PROGRAMS: dict[str, tuple[str, ...]] = {
    "fio": ("fio", "--version"),
    "GlusterFS": ("glusterfs", "--version"),
    "etcd": ("etcd", "--version"),
    "nbdkit": ("nbdkit", "--version"),
    "SQLite": ("sqlite3", "--version"),
}


def describe() -> dict[str, Any]:
    """The machine, the commit and the versions, as they are put into the JSON document."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tcp_congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "load_at_start": os.getloadavg()[0],
        "commit": _commit(),
        "versions": {name: found for name, words in _programs().items() if (found := _version(*words))},
    }


def _programs() -> dict[str, tuple[str, ...]]:
    try:
        return {**PROGRAMS, "PostgreSQL": (str(binary("postgres")), "--version")}
    except Skip:
        return PROGRAMS


def _cpu() -> str:
    names = re.findall(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return names[0] if names else platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _version(*words: str) -> str:
    try:
        done = subprocess.run([tool(words[0]), *words[1:]], capture_output=True, text=True, timeout=20, check=False)
    except (Skip, OSError, subprocess.TimeoutExpired):
        return ""
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else ""


def _commit() -> str:
    """The commit, with a plus sign when files differ from it; empty outside a checkout."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD").strip()
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no").strip() else "")
    except (Skip, OSError, subprocess.SubprocessError):
        return ""


def _git(*words: str) -> str:
    command = [tool("git"), "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
