// A toy chain: blocks made by hand, each on the last, with regtest's trivial proof of work. It judges no transaction and
// holds no coins: it only lets a funding confirm, and shows the nodes what was broadcast. It is kept in a file, since it
// is the world's, not a node's: nobody rolls it back.
// Format of blocks: https://developer.bitcoin.org/reference/block_chain.html

import { readFileSync, renameSync, writeFileSync } from 'node:fs';

import { compactSize, concat, hex, sha256d, txid, u32, unhex } from './bytes.mjs';

const BITS = 0x207fffff; // regtest: every second hash will do
const GENESIS_TIME = 1296688602;
const SPACING_S = 600;

/** The root of the Merkle tree of txids, the last of an odd row doubled. */
function merkleRoot(row) {
  if (row.length === 1) return row[0];
  const pairs = [];
  for (let i = 0; i < row.length; i += 2) pairs.push(sha256d(concat(row[i], row[i + 1] ?? row[i])));
  return merkleRoot(pairs);
}

function coinbase(height) {
  const script = concat(Uint8Array.of(4), u32(height)); // BIP 34: the height makes its id unlike any other
  return concat(
    u32(2),
    Uint8Array.of(1),
    new Uint8Array(32),
    u32(0xffffffff),
    compactSize(script.length),
    script,
    u32(0xffffffff),
    Uint8Array.of(1),
    new Uint8Array(8),
    Uint8Array.of(1, 0x51),
    u32(0),
  );
}

function header(previous, transactions, height) {
  const root = merkleRoot(transactions.map(txid));
  for (let nonce = 0; ; nonce++) {
    const bytes = concat(u32(2), previous, root, u32(GENESIS_TIME + height * SPACING_S), u32(BITS), u32(nonce));
    if (sha256d(bytes)[31] < 0x80) return bytes;
  }
}

export class Chain {
  /** @param {Uint8Array} genesisHash the hash of block 0, which the nodes know themselves. */
  constructor(file, genesisHash) {
    this.file = file;
    this.genesisHash = genesisHash;
    this.blocks = [];
    try {
      this.blocks = JSON.parse(readFileSync(file, 'utf8')).map(unhex);
    } catch (error) {
      if (error.code !== 'ENOENT') throw error;
    }
  }

  get height() {
    return this.blocks.length;
  }

  get tipHash() {
    return this.height ? sha256d(this.blocks.at(-1).slice(0, 80)) : this.genesisHash;
  }

  /** The block at a height from 1. */
  block(height) {
    return this.blocks[height - 1];
  }

  /** Add a block with these transactions. */
  mine(transactions = []) {
    const all = [coinbase(this.height + 1), ...transactions];
    const top = header(this.tipHash, all, this.height + 1);
    this.blocks.push(concat(top, compactSize(all.length), ...all));
    writeFileSync(`${this.file}.new`, JSON.stringify(this.blocks.map(hex)));
    renameSync(`${this.file}.new`, this.file);
  }
}
