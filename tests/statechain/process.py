"""The example's signer as a process of its own, which an owner speaks to by JSON lines; and this end of it.

    python -m tests.statechain.process CONFIG SEED

What the signer draws comes from a seed, so that a test knows what to look for. `hold` keeps the share of a coin in use
until the next line comes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from examples.statechain.__main__ import COINS, LEDGER_START
from examples.statechain.ledger import Ledger, ledger_on
from examples.statechain.signer import Signer, Terms
from perdure import api
from perdure.array.commands import Authority
from perdure.array.receipt import Erased
from perdure.errors import PerdureError
from perdure.keystore.receipt import ErasedKey, KeyReceipt
from perdure.keystore.threads import SyncKeyStore
from perdure.service import wiping
from perdure.service.main import require_id, settings_of
from perdure.service.site import config

ANSWER_S = 30


def drawn(seed: str, number: int) -> bytes:
    """The signer's `number`th random value, from 0."""
    return sha256(f"{seed} {number}".encode()).digest()


class Signing:
    """The signer's end."""

    def __init__(self, keys: SyncKeyStore, ledger: Ledger, seed: str) -> None:
        self._count = 0
        self._seed = seed
        self._keys = keys
        self._signer = Signer(keys, ledger, self._random)

    def _random(self, _: int) -> bytes:
        self._count += 1
        return drawn(self._seed, self._count - 1)

    def answer(self, verb: str, words: list[Any]) -> Any:
        if verb == "hold":
            return self._keys.use(words[0], self._hold)
        found = getattr(self._signer, verb)(*(bytes.fromhex(one) if isinstance(one, str) else one for one in words))
        if isinstance(found, Terms):
            return [found.share.hex(), found.blinding.hex(), found.transport.hex(), found.signatures, found.transfers]
        return found.receipt.to_json() if isinstance(found, ErasedKey) else found.hex()

    @staticmethod
    def _hold(_: bytearray) -> str:
        print('"held"', flush=True)
        sys.stdin.readline()
        return "let go"


def main(config_file: str, seed: str) -> None:
    """Mount, and serve until the input ends."""
    wiping.apply()
    assert wiping.works()
    found = config.load(Path(config_file))
    settings = settings_of(found)
    try:
        with api.open_array(settings, require_id(found)) as array, ledger_on(array, LEDGER_START, COINS) as ledger:
            keys = SyncKeyStore(array, Authority(settings.private_key), 0, 2 * COINS)
            signing = Signing(keys, ledger, seed)
            print('"ready"', flush=True)
            for line in sys.stdin:
                verb, words = json.loads(line)
                print(json.dumps(signing.answer(verb, words)), flush=True)
    except PerdureError as error:
        print(json.dumps(type(error).__name__), flush=True)
        sys.exit(error.exit_code)


class Remote:
    """What an owner needs of a signer, asked of the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self.listen() == "ready"

    @property
    def pid(self) -> int:
        return self._process.pid

    def listen(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the signer has ended"
        return json.loads(line)

    def say(self, verb: str, *words: bytes | int) -> None:
        assert self._process.stdin is not None
        plain = [word.hex() if isinstance(word, bytes) else word for word in words]
        self._process.stdin.write(json.dumps([verb, plain]) + "\n")
        self._process.stdin.flush()

    def ask(self, verb: str, *words: bytes | int) -> Any:
        self.say(verb, *words)
        return self.listen()

    def deposit(self, number: int, owner: bytes) -> bytes:
        return bytes.fromhex(self.ask("deposit", number, owner))

    def begin(self, number: int, signature: bytes) -> bytes:
        return bytes.fromhex(self.ask("begin", number, signature))

    def cosign(self, number: int, blinded: bytes, signature: bytes) -> bytes:
        return bytes.fromhex(self.ask("cosign", number, blinded, signature))

    def share(self, number: int) -> bytes:
        return bytes.fromhex(self.ask("share", number))

    def offer(self, number: int, to: bytes, signature: bytes) -> bytes:
        return bytes.fromhex(self.ask("offer", number, to, signature))

    def terms(self, number: int) -> Terms:
        share, blinding, transport, *counts = self.ask("terms", number)
        return Terms(bytes.fromhex(share), bytes.fromhex(blinding), bytes.fromhex(transport), *counts)

    def take(self, number: int, sealed: bytes, signature: bytes) -> ErasedKey:
        receipt = KeyReceipt.from_json(self.ask("take", number, sealed, signature))
        return ErasedKey(receipt, Erased(receipt.erasure, (), ()))  # whoever gets it judges it himself


@contextmanager
def signer(config_file: Path, seed: str) -> Iterator[Remote]:
    """A signer that serves, and ends with the block."""
    command = [sys.executable, "-m", "tests.statechain.process", str(config_file), seed]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Remote(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(ANSWER_S) == 0
        finally:
            process.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
