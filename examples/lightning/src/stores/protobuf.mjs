// As much of protobuf's wire format as VSS needs: varints and length-delimited fields.
// Format: https://protobuf.dev/programming-guides/encoding/

import { concat } from '../bytes.mjs';

const VARINT = 0;
const BYTES = 2;

function varint(value) {
  const out = [];
  let rest = BigInt.asUintN(64, BigInt(value)); // a negative int64 takes ten bytes, as the format has it
  do {
    out.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    rest >>= 7n;
  } while (rest);
  return Uint8Array.from(out);
}

export const integer = (field, value) => concat(varint((field << 3) | VARINT), varint(value));
export const bytes = (field, value) => concat(varint((field << 3) | BYTES), varint(value.length), value);
export const string = (field, value) => bytes(field, Buffer.from(value, 'utf8'));

/** Parse a message into an object from field number to the list of its values: bigint (as int64) or bytes. */
export function parse(message) {
  let at = 0;
  const byte = () => {
    if (at >= message.length) throw new RangeError('a protobuf message ends early');
    return message[at++];
  };
  const readVarint = () => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const next = byte();
      value |= BigInt(next & 0x7f) << shift;
      if (next < 0x80) return BigInt.asIntN(64, value);
    }
    throw new RangeError('a varint of more than ten bytes');
  };
  const readBytes = () => {
    const size = Number(readVarint());
    if (size < 0 || at + size > message.length) throw new RangeError('a protobuf field ends early');
    at += size;
    return message.subarray(at - size, at);
  };
  const fields = {};
  while (at < message.length) {
    const tag = Number(readVarint());
    const type = tag & 7;
    if (type !== VARINT && type !== BYTES) throw new RangeError(`wire type ${type} is not one of VSS`);
    (fields[tag >> 3] ??= []).push(type === VARINT ? readVarint() : readBytes());
  }
  return fields;
}
