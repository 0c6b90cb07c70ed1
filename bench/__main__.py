"""The command line; see the package's own words.

A developer's comparison in half a minute: `python -m bench --only durable-write-1 --targets perdure,GlusterFS
--rounds 3 --seconds 2`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bench import processes
from bench.plan import Plan, carry_out
from bench.report import page, terminal

BUILD = processes.ROOT / "build"
FULL, QUICK, PART = BUILD / "bench.json", BUILD / "bench-quick.json", BUILD / "bench-part.json"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="what goals are about, once: under two minutes")
    parser.add_argument("--render", action="store_true", help="measure nothing; make the page from build/bench.json")
    parser.add_argument("--list", action="store_true", help="name every piece of work and every target")
    parser.add_argument("--only", metavar="WORK", type=_names, default=(), help="such as read or durable-write-1,mount")
    parser.add_argument("--targets", metavar="NAMES", type=_names, default=(), help="such as perdure,GlusterFS,etcd")
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 1")
    parser.add_argument("--seconds", type=float, help="of each measurement; default 4, with --quick 1")
    parser.add_argument("--output", type=Path, help="where the JSON goes, if not into build/")
    return parser.parse_args(words)


def _names(text: str) -> tuple[str, ...]:
    """Parts of a list with commas; a comma before a blank belongs to a name."""
    return tuple(part.replace("\\0", ", ") for part in text.replace(", ", "\\0").split(",") if part)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, judge, write, show."""
    options = parse(words)
    if options.render:
        if not FULL.exists():
            print(f"there is no {FULL}; python -m bench makes it", file=sys.stderr)
            return 2
        print(f"written: {page.write(json.loads(FULL.read_text()), processes.ROOT / 'docs')}")
        return 0
    plan = Plan.of(options)
    if options.list:
        print("\n".join(plan.names()))
        return 0
    processes.adopt_orphans()
    signal.signal(signal.SIGTERM, _interrupt)
    start = time.monotonic()
    try:
        document = carry_out(plan)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    finally:
        left = processes.end_the_rest()
        if left:
            print(f"these had to be ended one by one: {', '.join(left)}", file=sys.stderr)
    document["duration_s"] = round(time.monotonic() - start)
    print("\n".join(terminal.lines(document)))
    return _write(document, options)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _write(document: dict[str, object], options: argparse.Namespace) -> int:
    is_part = bool(options.only or options.targets)
    path = options.output or (PART if is_part else QUICK if options.quick else FULL)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"\nwritten: {path}")
    if path == FULL:
        print(f"written: {page.write(document, processes.ROOT / 'docs')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
