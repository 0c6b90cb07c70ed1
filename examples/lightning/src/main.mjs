// Alice and Bob in one process, led over standard input: a line of JSON in, a line of JSON out.
//
//   node main.mjs WORLD STORE     STORE is files:DIRECTORY or vss:URL, and is Alice's; Bob's and the chain are in WORLD.
//
//   {"do":"open"}  {"do":"pay","count":100}  {"do":"state"}  {"do":"reconnect"}  {"do":"force-close"}  {"do":"surrender"}
//   {"do":"conspire","world":WORLD}   WORLD is one in which Bob knows better

import './quiet.mjs';

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { Chain } from './chain.mjs';
import { openChannel, pay } from './channel.mjs';
import { Node, genesisHash } from './node.mjs';
import { Pair } from './pair.mjs';
import { Files } from './stores/files.mjs';
import { Vss } from './stores/vss.mjs';
import { balance, conspire, forceClose, reconnect, surrender } from './trials.mjs';

const ALICE_PAYS_MSAT = 3_000_000n;
const BOB_PAYS_MSAT = 1_000_000n;

function storeAt(where) {
  const [kind, place] = [where.slice(0, where.indexOf(':')), where.slice(where.indexOf(':') + 1)];
  if (kind === 'files') return new Files(place);
  if (kind === 'vss') return new Vss(place);
  throw new Error(`a store is files:DIRECTORY or vss:URL, not ${where}`);
}

async function build(world, where) {
  mkdirSync(world, { recursive: true });
  const chain = new Chain(join(world, 'chain.json'), genesisHash());
  const alice = await Node.start('Alice', storeAt(where), chain);
  const bob = await Node.start('Bob', new Files(join(world, 'bob')), chain);
  return { pair: new Pair(alice, bob), chain };
}

const stateOf = ({ pair, chain }) => ({ balance: balance(pair.alice), bob: balance(pair.bob), height: chain.height });

async function open(scene) {
  await scene.pair.connect();
  await openChannel(scene.pair, scene.chain);
  return stateOf(scene);
}

/** Pay in turns, Alice 3,000 satoshis and Bob 1,000; the milliseconds that each payment took. */
async function payMany(scene, count) {
  const { alice, bob } = scene.pair;
  await scene.pair.connect();
  const before = { ...alice.persistence.figures };
  const latencies = [];
  for (let i = 0; i < count; i++) {
    const started = performance.now();
    if (i % 2 === 0) await pay(scene.pair, alice, bob, ALICE_PAYS_MSAT);
    else await pay(scene.pair, bob, alice, BOB_PAYS_MSAT);
    latencies.push(performance.now() - started);
  }
  const { writes, bytes } = alice.persistence.figures;
  return { latencies_ms: latencies, writes: writes - before.writes, bytes: bytes - before.bytes, ...stateOf(scene) };
}

const VERBS = {
  open,
  pay: (scene, order) => payMany(scene, order.count),
  state: stateOf,
  reconnect,
  conspire: (scene, order) => conspire({ ...scene, Node }, { bob: new Files(join(order.world, 'bob')) }),
  'force-close': forceClose,
  surrender,
};

const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const scene = await build(process.argv[2], process.argv[3]);
answer({ ready: true, pid: process.pid, ...stateOf(scene) });
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  const verb = VERBS[order.do];
  if (!verb) throw new Error(`unknown: ${order.do}`);
  answer(await verb(scene, order));
}
