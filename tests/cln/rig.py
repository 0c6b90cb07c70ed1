"""`perdure cln` as the programs that they are, on pipes, in the place of lightningd."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.cln.node import Node, request


def answers(raw: bytes) -> list[dict]:
    *found, rest = raw.split(b"\n\n")
    assert rest == b""
    return [json.loads(one) for one in found]


class Running:
    """`perdure cln plugin` on pipes, in the place of lightningd."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "perdure.cli.main", "cln", "plugin", *words]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.count = 0

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def ask(self, message: bytes) -> dict:
        self.process.stdin.write(message)
        self.process.stdin.flush()
        lines = self.process.stdout.readline(), self.process.stdout.readline()
        assert lines[1] == b"\n"
        return json.loads(lines[0])

    def live(self, node: Node, count: int) -> None:
        for _ in range(count):
            writes = node.next()
            self.count += 1
            reply = self.ask(request(f"cln:db_write#{self.count}", node.version + 1, writes))
            assert reply["result"] == {"result": "continue"}
            node.commit(writes)

    def end(self) -> int:
        self.process.stdin.close()
        return self.process.wait(timeout=60)


def perdure(*words: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "perdure.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr
