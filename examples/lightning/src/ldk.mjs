// LDK, loaded once: its WebAssembly is brought in before anything of it is used.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

import * as ldk from 'lightningdevkit';

const folder = dirname(createRequire(import.meta.url).resolve('lightningdevkit'));
await ldk.initializeWasmFromBinary(readFileSync(join(folder, 'liblightningjs.wasm')));

/** The value of an LDK result. Throws an Error that says what was attempted, and LDK's reason. */
export function must(result, attempted) {
  if (result.is_ok()) return result.res;
  const reason = result.err?.err ?? result.err?.constructor?.name ?? result.err;
  throw new Error(`LDK refused to ${attempted}: ${reason}`);
}

export { ldk };
