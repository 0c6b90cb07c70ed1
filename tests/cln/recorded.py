"""What real lightningds said to plugins, as those who ran them published it. No lightningd was run here.

Quoted to the letter, each with its source; an empty line that ends a message is not shown there, and was added.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

UTXO: Final = (
    "INSERT INTO utxoset ( txid, outnum, blockheight, spendheight, txindex, scriptpubkey, satoshis) "
    "VALUES(x'8695bd92b9d1230708afd3ab32a4e8a81c036d1f8b80b85da706f3377e0f5bc6', 1, 591848, NULL, 4, "
    "x'0020701a8d401c84fb13e6baf169d59684e17abd9fa216c8cc5b9fc63d622ff8c58d', 1129870000);"
)
"""v0.7.2rc2 on mainnet, 2019-08-26, after a reorganisation: a backup had the row already, and the node crashed
(https://github.com/ElementsProject/lightning/issues/3007)."""
UTXO_BLOCK: Final = 591848

WARNING: Final = (
    b'{"jsonrpc":"2.0","method":"warning","params":{"warning":{"level":"warn","time":"1575625655.448086481",'
    b'"source":"lightningd","log":"invoice: insufficient incoming capacity for 1msat"}}}\n\n'
)
INVOICE: Final = (
    b'{"jsonrpc":"2.0","id":8,"method":"db_write","params":{"writes":["'
    b"INSERT INTO invoices            ( payment_hash, payment_key, state            , msatoshi, label, expiry_time"
    b"            , pay_index, msatoshi_received            , paid_timestamp, bolt11, description, features)     "
    b"VALUES ( x'6370509236f75d04794370f155cf82d2757030207238a7d75f0c44db64f78cb6', "
    b"x'1803847e0ba0fb4a4d9ee4d6d4eddfe7839c75419bf2d1eb1928ddaa7bbdd813', 0            , 1, 'c', 1576194368"
    b"            , NULL, NULL            , NULL, 'lnbcrt10p1pw7n9kqpp5vdc9py3k7awsg72rwrc4tnuz6f6hqvpqwgu2046lp3zdke"
    b"8h3jmqdqzvyxqyjw5qcqp2sp5ut3mefvuxt07dmyhwampv32vyv3h4jtwqxcw34aj6th8qh0u9hvs9qypqsq2ym6zs8nucrgdj4v60n49lmj2fl"
    b"c4q0fwcnul7hzxu89k6cdfjwnvdpf22r8clu79peergpu9s0jq4kkdh74etuv9ugdaqqjtgjkuwcp47whw6', 'a', x'8200');"
    b'"]}}\n\n'
)
"""On regtest, 2019-12 (https://github.com/lightningd/clightningjs/issues/2): the whole request of one write, of before
`data_version` was reported (v0.8.1), and the notification that came in one read with the next such request. That read
was reported to have its second message at byte 186, which is where the two line feeds put it."""

RECENT_ID: Final = "cln:db_write#20075"
"""v23.05.2 (https://github.com/lightningd/plugins/issues/473)."""

UNREADABLE: Final = "174WHERE"
"""What lightningd before v0.9.2 made of `?WHERE` and a number, and no SQLite reads
(https://github.com/ElementsProject/lightning/pull/4090, https://github.com/lightningd/plugins/issues/158)."""

HISTORY: Final = os.environ.get("PERDURE_CLN_HISTORY")
"""Where the file of the next line is on this machine: it is no part of this repository."""
HISTORY_SOURCE: Final = "https://github.com/lightningd/plugins/blob/master/backup/tests/pre-4090-backup.dbak"
HISTORY_SHA256: Final = "12b2e9e68e50b76cd0fa00dd1c4467e5e84fe369b925fb2ba7737eada36c4bd1"
HISTORY_COUNT: Final = 46
"""All that one v0.9.1 wrote on regtest, from an empty database to the end of a channel, as a backup plugin kept it."""
_HEADER_BYTES: Final = 512
_ENTRY: Final = struct.Struct("!IIb")
_TRANSACTION: Final = 1


def history(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Each `data_version` with its statements: length, version and kind, then statements with a NUL between them.

    The format is that of `backup/filebackend.py` of lightningd/plugins; the length is that of the statements alone.
    """
    raw = file.read_bytes()
    assert hashlib.sha256(raw).hexdigest() == HISTORY_SHA256, f"{file} is not {HISTORY_SOURCE}"
    at = _HEADER_BYTES
    while at < len(raw):
        length, version, kind = _ENTRY.unpack_from(raw, at)
        at += _ENTRY.size
        assert kind == _TRANSACTION
        yield version, raw[at : at + length].decode().split("\0")
        at += length
