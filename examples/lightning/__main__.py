"""`python -m examples.lightning [--payments N] [--into FOLDER]`: run the demo and write its report and plot."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from examples.lightning.demo import install, report, run
from examples.lightning.demo.command_line import PERDURE
from examples.lightning.demo.places import VssOnArray, VssOnSqlite, perdure_vss

NO_VSS = f"{VssOnSqlite.title} and {VssOnArray.title}: this `perdure` has no `vss serve`."


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.lightning", description=__doc__)
    parser.add_argument("--payments", type=int, default=200, help="on each place, a multiple of 4 (default: 200)")
    parser.add_argument("--into", type=Path, default=Path("build/lightning"), help="default: build/lightning")
    order = parser.parse_args()
    if order.payments < 4 or order.payments % 4:
        parser.error("--payments must be a multiple of 4")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that disks and mounts go with us
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        program = install.install(order.into)
    except install.Missing as error:
        print(f"SKIPPED: {error}", file=sys.stderr)
        return 2
    has_vss = subprocess.run([*PERDURE, "vss", "serve", "--help"], capture_output=True, check=False).returncode == 0
    serve = perdure_vss if has_vss else None
    result = run.run(program, order.payments, serve, has_vss=has_vss, say=lambda line: print(line, file=sys.stderr))
    if not has_vss:
        result.left_out.append(NO_VSS)
    (order.into / "result.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    (order.into / "report.md").write_text(report.text(result))
    report.plot(result, order.into / "latency.svg")
    print(report.text(result), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
