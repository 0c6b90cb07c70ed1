"""One coin's story on the array of a perdure.toml: deposit, a blind signature, a transfer with a receipt, another one.

python -m examples.statechain perdure.toml receipt.json
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from examples.statechain import curve, proof
from examples.statechain.ledger import ledger_on
from examples.statechain.owner import Owner
from examples.statechain.signer import Signer
from perdure import api
from perdure.array.commands import Authority
from perdure.errors import PerdureError
from perdure.evidence.policy import Policy
from perdure.keystore.slots import SLOT_BYTES
from perdure.keystore.threads import SyncKeyStore
from perdure.service import wiping
from perdure.service.main import require_id, settings_of
from perdure.service.site import config

COINS = 4
LEDGER_START = COINS * 2 * SLOT_BYTES
MESSAGE = sha256(b"what a transaction's signature hash would be").digest()


@contextmanager
def signer_on(array: api.SyncArray, private_key: bytes) -> Iterator[Signer]:
    """The signer whose key store begins at the array's first byte; its ledger has all that is behind that."""
    keys = SyncKeyStore(array, Authority(private_key), 0, 2 * COINS)
    with ledger_on(array, LEDGER_START, COINS) as ledger:
        yield Signer(keys, ledger, os.urandom)


def story(signer: Signer, policy: Policy, array_id: bytes, between: Callable[[], object]) -> dict[str, object]:
    """A new coin, given by Alice to Bob; the receipt that Bob has for the share that went."""
    number = next(at for at in range(COINS) if not signer.has(at))
    alice, bob = Owner(os.urandom), Owner(os.urandom)
    key = alice.deposit(signer, number)
    print(f"coin {number}: Alice and the signer share the key {key[1:].hex()}")
    print(f"a blind signature by both: {_good(key, alice.sign(signer, MESSAGE))}")
    print(f"the signer's share has the public key {signer.share(number).hex()}")
    between()
    handover = alice.hand_over(signer, bob.address)
    erased = bob.take(signer, handover, lambda value, share: proof.check(value, policy, array_id, share))
    print("Bob has the coin, and a receipt that the signer's old share is erased")
    print(f"a blind signature by Bob and the signer, same key: {_good(key, bob.sign(signer, MESSAGE))}")
    return erased.receipt.to_json()


def _good(key: bytes, signature: bytes) -> str:
    return "valid" if curve.verify(key, MESSAGE, signature) else "INVALID"


def _run(command: str) -> None:
    subprocess.run(shlex.split(command), check=True)


def main() -> int:
    """Run the story. 0, or 2 with one sentence."""
    wiping.apply()
    parser = argparse.ArgumentParser(prog="statechain", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("receipt", type=Path)
    parser.add_argument("--before-transfer", metavar="COMMAND", default="true", help="what the host does then")
    words = parser.parse_args()
    try:
        found = config.load(words.config)
        settings, array_id = settings_of(found), require_id(found)
        with api.open_array(settings, array_id) as array, signer_on(array, settings.private_key) as signer:
            receipt = story(signer, settings.policy, array_id, lambda: _run(words.before_transfer))
    except PerdureError as error:
        print(f"statechain: {error}", file=sys.stderr)
        return 2
    words.receipt.write_text(json.dumps(receipt))
    return 0


if __name__ == "__main__":
    sys.exit(main())
