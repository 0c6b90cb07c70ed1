"""Mutation testing of the disk program and the evidence verifier: change one thing, see whether a test fails.

    python tests/mutation/run.py [FILE ...]     # make mutants

Each mutant runs in a copy of the tree, in a process forked from one that has everything but the package loaded, against
the tests of its module, the quickest first. One that no test notices must be in `survivors.md` beside this file, under
a reason why it is harmless; else this fails. Mutants are told apart by their source text, not by line numbers. Not
mutated: docstrings, annotations, decorators, `__all__`, and what errors and usage say.

Why not a tool from PyPI: mutmut leaves module constants alone (here: formats and limits) and adds to the import
closure that a test holds; cosmic-ray starts a new interpreter for each mutant, which takes hours.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Everything that the package and its tests load, but not the package: a fork has it already.
import coincurve  # noqa: F401
import cryptography.x509.verification  # noqa: F401
import hypothesis
import numpy as np  # noqa: F401
import pytest

ROOT = Path(__file__).parent.parent.parent
SURVIVORS = Path(__file__).with_name("survivors.md")
SECONDS_MAX = 300
DISK = "tests/disk/test_"
EVIDENCE = "tests/evidence/test_"
NITRO = "tests/evidence/nitro/test_"
WHOLE = f"{NITRO}verifier.py"
SNP, TDX, TPM = "tests/evidence/snp", "tests/evidence/tdx", "tests/evidence/tpm"
TESTS = {
    "perdure/disk/core.py": [f"{DISK}core.py", f"{DISK}chain.py", f"{DISK}serve.py"],
    "perdure/disk/chain.py": [f"{DISK}chain.py"],
    "perdure/disk/wire.py": [f"{DISK}wire.py", f"{DISK}core.py", "tests/spec/test_vectors.py"],
    "perdure/disk/serve.py": [f"{DISK}serve.py", f"{DISK}main.py", "tests/spec/test_vectors.py"],
    "perdure/disk/address.py": [f"{DISK}address.py", f"{DISK}main.py"],
    "perdure/disk/nsm.py": [f"{DISK}nsm.py", f"{DISK}main.py"],
    "perdure/disk/tsm.py": [f"{DISK}tsm.py"],
    "perdure/disk/tpm.py": [f"{DISK}tpm.py"],
    "perdure/disk/init.py": [f"{DISK}init.py"],
    "perdure/disk/main.py": [f"{DISK}main.py", f"{DISK}trusted_base.py"],
    "perdure/evidence/nitro/chain.py": [f"{NITRO}chain.py", WHOLE],
    "perdure/evidence/nitro/verifier.py": [WHOLE],
    "perdure/evidence/nitro/document.py": [f"{NITRO}document.py", WHOLE],
    "perdure/evidence/nitro/cose.py": [f"{NITRO}cose.py", WHOLE],
    "perdure/evidence/nitro/cbor.py": [f"{NITRO}cbor.py", WHOLE],
    "perdure/evidence/policy.py": [f"{EVIDENCE}policy.py", f"{EVIDENCE}roots.py", WHOLE],
    "perdure/evidence/roots.py": [f"{EVIDENCE}roots.py", f"{EVIDENCE}policy.py", WHOLE],
    "perdure/evidence/verified.py": [WHOLE, f"{EVIDENCE}verifier.py"],
    "perdure/evidence/verifier.py": [f"{EVIDENCE}verifier.py"],
    "perdure/evidence/envelope.py": [f"{EVIDENCE}envelope.py"],
    "perdure/evidence/limits.py": [f"{EVIDENCE}limits.py", f"{EVIDENCE}policy.py"],
    "perdure/evidence/measurement.py": [f"{EVIDENCE}measurement.py", f"{EVIDENCE}policy.py"],
    "perdure/evidence/snp/report.py": [SNP],
    "perdure/evidence/snp/certificates.py": [SNP],
    "perdure/evidence/snp/verifier.py": [SNP],
    "perdure/evidence/tdx/quote.py": [TDX],
    "perdure/evidence/tdx/chain.py": [TDX],
    "perdure/evidence/tdx/collateral.py": [TDX],
    "perdure/evidence/tdx/verifier.py": [TDX],
    "perdure/evidence/tpm/quote.py": [TPM],
    "perdure/evidence/tpm/certificates.py": [TPM],
    "perdure/evidence/tpm/verifier.py": [TPM],
}
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
NAMES = {"max": "min", "min": "max", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    """One change: `key` names it by source text, `source` is the whole file after it."""

    key: str
    line: int
    source: str


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a file."""
    seen: dict[str, int] = {}
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    data = source.encode()
    for node, scope in _walk(ast.parse(source), ""):
        for changed in _changes(node):
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            old, new = data[begin:end].decode(), changed if isinstance(changed, str) else ast.unparse(changed)
            text = f"({new})" if isinstance(node, ast.expr) and not isinstance(node, ast.Slice) else new
            line = source.splitlines()[node.lineno - 1].strip()
            key = " ".join(f"{path} {scope}: {line} :: {old} -> {new}".replace("`", "'").split())
            seen[key] = seen.get(key, 0) + 1
            yield Mutant(
                key + f" #{seen[key]}" * (seen[key] > 1),
                node.lineno,
                (data[:begin] + text.encode() + data[end:]).decode(),
            )


def _walk(node: ast.AST, scope: str) -> Iterator[tuple[ast.AST, str]]:
    """All nodes that may change, with the name of what they stand in."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = f"{scope}.{node.name}".strip(".")
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params", "exc", "msg"):
            continue
        for child in value if isinstance(value, list) else [value]:
            is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            is_export_list = isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__"
            is_usage = isinstance(child, ast.keyword) and child.arg in ("prog", "description", "metavar")
            is_text = is_docstring or is_export_list or is_usage or isinstance(child, ast.JoinedStr)
            if isinstance(child, ast.AST) and not is_text:
                yield child, scope
                if not (isinstance(child, ast.Call) and ast.unparse(child.func) == "sys.exit"):
                    yield from _walk(child, scope)


def _changes(node: ast.AST) -> Iterator[ast.AST | str]:
    def changed(**fields: object) -> ast.AST:
        twin = copy.copy(node)
        for name, value in fields.items():
            setattr(twin, name, value)
        return twin

    match node:
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                yield changed(ops=[*ops[:at], SWAPS[type(op)](), *ops[at + 1 :]])
        case ast.BoolOp(op=op, values=values):
            yield changed(op=SWAPS[type(op)]())
            for at in range(len(values)):
                rest = [*values[:at], *values[at + 1 :]]
                yield changed(values=rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(op=op) if type(op) in SWAPS:
            yield changed(op=SWAPS[type(op)]())
        case ast.AugAssign(op=op):
            yield changed(op=SWAPS[type(op)]())
            yield "pass"
        case ast.Constant(value=bool() as value):
            yield changed(value=not value)
        case ast.Constant(value=int() as value):
            yield changed(value=value + 1)
            yield changed(value=value - 1)
        case ast.Constant(value=str() as value):
            yield changed(value=value + "x")
        case ast.Constant(value=bytes() as value):
            yield changed(value=bytes([value[0] ^ 1]) + value[1:] if value else b"x")
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            yield changed(func=ast.Name(NAMES[name]))
        case ast.Slice(lower=lower, upper=upper):
            if lower is not None:
                yield changed(lower=None)
            if upper is not None:
                yield changed(upper=None)
        case ast.IfExp(body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.Raise() | ast.Expr(value=ast.Call()) | ast.Continue() | ast.Break():
            yield "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield "pass"
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "return None"


class Watch:
    """In the child: the quickest tests first, before them those that caught a neighbour; tells the parent of each."""

    def __init__(self, first: list[str], seconds: dict[str, float], tell: int) -> None:
        self.first, self.seconds, self.tell = first, seconds, tell

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: (item.nodeid not in self.first, self.seconds.get(item.nodeid, 0.0)))

    def pytest_runtest_setup(self, item: Any) -> None:
        """A mutant that never ends is a mutant that is caught: these signals kill the process."""
        usual = self.seconds.get(item.nodeid, 10.0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 + 2 * usual)
        signal.setitimer(signal.ITIMER_REAL, 5 + 10 * usual)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed or report.when == "call":
            os.write(self.tell, f"{report.nodeid}\t{report.duration}\t{report.outcome}\n".encode())


class Runner:
    """Runs the tests of one module again and again, each file of them each time in a fresh process."""

    def __init__(self, path: str, folder: Path) -> None:
        self.path, self.folder = path, folder
        self.seconds: dict[str, float] = {}
        self.killers: dict[str, list[str]] = {}
        """By the scope of a mutant: what caught its neighbours."""

    def passes(self, scope: str = "") -> bool:
        """Whether all tests pass, in about the time that they took without a mutant."""
        return all(self._passes(tests, scope) for tests in TESTS[self.path])

    def _passes(self, tests: str, scope: str) -> bool:
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            os.close(told)
            self._be_pytest(tests, Watch(self.killers.get(scope, []), self.seconds, tell))
        os.close(tell)
        give_up = time.monotonic() + SECONDS_MAX
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < give_up:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if not ended[0]:
            os.waitpid(child, 0)
        with open(told, encoding="utf-8") as lines:
            for name, seconds, result in (line.rstrip().split("\t") for line in lines):
                self.seconds.setdefault(name, float(seconds))
                if result == "failed" and name not in self.killers.setdefault(scope, []):
                    self.killers[scope].append(name)
        return bool(ended[0]) and ended[1] == 0

    def _be_pytest(self, tests: str, watch: Watch) -> None:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))
        code = 3
        with contextlib.suppress(BaseException):
            options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout=0", "--tb=no"]
            code = int(pytest.main([*options, tests], plugins=[watch]))
        os._exit(code)

    def survives(self, mutant: Mutant) -> bool:
        """Whether no test notices."""
        place = self.folder / self.path
        original = place.read_text()
        try:
            place.write_text(mutant.source)
            os.utime(place, (time.time() + 1000, time.time() + 1000))  # never that of cached bytecode
            return self.passes(mutant.key.partition(":")[0])
        finally:
            place.write_text(original)


def main() -> int:
    """Run them; the exit code says whether all survivors are known."""
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")
    os.environ.pop("PERDURE_VECTORS", None)
    known = {line[3:-1] for line in SURVIVORS.read_text().splitlines() if line.startswith("- `")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("perdure", "tests", "docs", "pyproject.toml", "LICENSE", "README.md"):
            copy_of = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy_of(ROOT / part, folder / part)
        unknown = [key for path in sys.argv[1:] or TESTS for key in survivors(Runner(path, folder), known) - known]
    return 1 if unknown else 0


def survivors(runner: Runner, known: set[str]) -> set[str]:
    """The keys of the mutants of one file that survive; says which of them are new, and which `known` ones are gone."""
    sys.dont_write_bytecode = False
    assert runner.passes(), f"the tests of {runner.path} fail without any mutant"
    sys.dont_write_bytecode = True
    found, every = set(), list(mutants(runner.path, (runner.folder / runner.path).read_text()))
    for mutant in every:
        if runner.survives(mutant):
            found.add(mutant.key)
            if mutant.key not in known:
                print(f"survived, line {mutant.line}: {mutant.key}", flush=True)
    for key in sorted(known - found):
        if key.startswith(f"{runner.path} "):
            print(f"no longer survives, take it off the list: {key}")
    print(f"{runner.path}: {len(every)} mutants, {len(every) - len(found)} killed, {len(found)} survived", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
