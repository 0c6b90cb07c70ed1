// An independent look at what was broadcast: does this transaction punish that revoked commitment? Nothing of LDK is
// used. Scripts and witnesses: https://github.com/lightning/bolts/blob/master/03-transactions.md#to_local-output
// What is signed: https://github.com/bitcoin/bips/blob/master/bip-0143.mediawiki

import { createPublicKey, verify } from 'node:crypto';

import { concat, hex, parseTransaction, sha256, sha256d, shown, txid, u32, u64, unhex, withSize } from './bytes.mjs';
import { writeOutpoint, writeOutput } from './bytes.mjs';

const SIGHASH_ALL = 1;
const SPKI_OF_SECP256K1 = unhex('3036301006072a8648ce3d020106052b8104000a032200'); // RFC 5480; a compressed point follows
const REVOCABLE = /^63 21 (?<revocation>[0-9a-f]{66}) 67 (?<delay>(?:[0-9a-f]{2}){1,4}) b2 75 21 [0-9a-f]{66} 68 ac$/;

/** The revocation key of a to_local script: OP_IF <key> OP_ELSE <delay> OP_CSV OP_DROP <key> OP_ENDIF OP_CHECKSIG. */
function revocationKey(script) {
  const text = hex(script);
  const delaySize = text.length / 2 - 74; // all else has a fixed length
  const parts = [2, 2, 66, 2, 2 * delaySize, 2, 2, 2, 66, 2, 2];
  let at = 0;
  const spaced = parts.map((size) => text.slice(at, (at += size))).join(' ');
  return REVOCABLE.exec(spaced)?.groups.revocation ?? null;
}

/** What the signature of one input signs, but for the last of two hashes (BIP 143, SIGHASH_ALL). */
function signedBytes(transaction, index, script, value) {
  const { version, inputs, outputs, locktime } = transaction;
  return concat(
    u32(version),
    sha256d(concat(...inputs.map(writeOutpoint))),
    sha256d(concat(...inputs.map((input) => u32(input.sequence)))),
    writeOutpoint(inputs[index]),
    withSize(script),
    u64(value),
    u32(inputs[index].sequence),
    sha256d(concat(...outputs.map(writeOutput))),
    u32(locktime),
    u32(SIGHASH_ALL),
  );
}

function isSignedBy(key, transaction, index, script, value) {
  const signature = transaction.inputs[index].witness[0];
  if (signature.at(-1) !== SIGHASH_ALL) return false;
  const spki = createPublicKey({ key: Buffer.concat([SPKI_OF_SECP256K1, unhex(key)]), format: 'der', type: 'spki' });
  return verify('sha256', sha256(signedBytes(transaction, index, script, value)), spki, signature.slice(0, -1));
}

/**
 * Judge two transactions in bytes. The answer has `takes_satoshis`, what the penalty takes from the output that the
 * commitment's owner would have got, and null where the second is no penalty for the first.
 */
export function judge(commitmentBytes, penaltyBytes) {
  const commitment = parseTransaction(commitmentBytes);
  const penalty = parseTransaction(penaltyBytes);
  const id = txid(commitmentBytes);
  for (const [index, input] of penalty.inputs.entries()) {
    const spent = hex(input.txid) === hex(id) ? commitment.outputs[input.index] : undefined;
    const [, branch, script] = input.witness;
    if (!spent || !script || hex(branch) !== '01') continue; // 01 takes OP_IF's first branch, that of the revocation key
    const key = revocationKey(script);
    if (key === null || hex(spent.script) !== `0020${hex(sha256(script))}`) continue;
    if (!isSignedBy(key, penalty, index, script, spent.value)) continue;
    const paid = penalty.outputs.reduce((sum, output) => sum + output.value, 0n);
    return {
      commitment_txid: shown(id),
      penalty_txid: shown(txid(penaltyBytes)),
      takes_satoshis: Number(spent.value),
      pays_satoshis: Number(paid),
      revocation_key: key,
    };
  }
  return null;
}
