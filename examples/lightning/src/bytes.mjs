// Bytes as Bitcoin writes them: hexadecimal, little-endian integers, double SHA-256, transactions.
// Format: https://github.com/bitcoin/bips/blob/master/bip-0144.mediawiki

import { createHash } from 'node:crypto';

export const hex = (bytes) => Buffer.from(bytes).toString('hex');
export const unhex = (text) => new Uint8Array(Buffer.from(text, 'hex'));
export const concat = (...parts) => new Uint8Array(Buffer.concat(parts));
export const sha256 = (bytes) => new Uint8Array(createHash('sha256').update(bytes).digest());
export const sha256d = (bytes) => sha256(sha256(bytes));
/** A txid or block hash as people write it: bytes in reverse. */
export const shown = (hash) => hex(hash.slice().reverse());

export const u32 = (value) => {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value);
  return out;
};

export const u64 = (value) => {
  const out = Buffer.alloc(8);
  out.writeBigUInt64LE(BigInt(value));
  return out;
};

/** A CompactSize of up to 65,535. */
export const compactSize = (value) => {
  if (value < 0xfd) return Uint8Array.of(value);
  if (value <= 0xffff) return Uint8Array.of(0xfd, value & 0xff, value >> 8);
  throw new RangeError(`${value} is too large for this demo's transactions`);
};

export const withSize = (bytes) => concat(compactSize(bytes.length), bytes);

class Reader {
  constructor(bytes) {
    this.bytes = Buffer.from(bytes);
    this.at = 0;
  }
  take(count) {
    if (this.at + count > this.bytes.length) throw new RangeError('a transaction ends early');
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }
  u32() {
    return this.take(4).readUInt32LE();
  }
  size() {
    const first = this.take(1)[0];
    if (first < 0xfd) return first;
    if (first === 0xfd) return this.take(2).readUInt16LE();
    throw new RangeError('a count is too large for this demo');
  }
  list(read) {
    return Array.from({ length: this.size() }, () => read());
  }
  sized() {
    return new Uint8Array(this.take(this.size()));
  }
}

/** Parse a transaction, with or without witnesses. `inputs` have txid, index, sequence, witness; `outputs` value, script. */
export function parseTransaction(bytes) {
  const reader = new Reader(bytes);
  const version = reader.u32();
  const hasWitness = reader.bytes[reader.at] === 0;
  if (hasWitness && reader.take(2)[1] !== 1) throw new RangeError('the flag of a transaction with witnesses is 1');
  const inputs = reader.list(() => ({
    txid: new Uint8Array(reader.take(32)),
    index: reader.u32(),
    scriptSig: reader.sized(),
    sequence: reader.u32(),
    witness: [],
  }));
  const outputs = reader.list(() => ({ value: reader.take(8).readBigUInt64LE(), script: reader.sized() }));
  if (hasWitness) for (const input of inputs) input.witness = reader.list(() => reader.sized());
  const locktime = reader.u32();
  if (reader.at !== reader.bytes.length) throw new RangeError('bytes follow a transaction');
  return { version, inputs, outputs, locktime };
}

export const writeOutput = (output) => concat(u64(output.value), withSize(output.script));
export const writeOutpoint = (input) => concat(input.txid, u32(input.index));

/** A transaction's bytes without its witnesses, which are what its id is the hash of. */
export function stripped({ version, inputs, outputs, locktime }) {
  const ins = inputs.map((i) => concat(writeOutpoint(i), withSize(i.scriptSig), u32(i.sequence)));
  return concat(
    u32(version),
    compactSize(ins.length),
    ...ins,
    compactSize(outputs.length),
    ...outputs.map(writeOutput),
    u32(locktime),
  );
}

export const txid = (bytes) => sha256d(stripped(parseTransaction(bytes)));
