// What can become of a node that starts on a state: its peer is there and honest, its peer is not there, or its peer
// works with the host. Each trial says what happened in LDK's own words; none is told what should happen.

import { hex } from './bytes.mjs';
import { pay } from './channel.mjs';
import { judge } from './justice.mjs';
import { ldk, must } from './ldk.mjs';

const BURIED = 6; // blocks until LDK hands an output over (ANTI_REORG_DELAY)

const channelOf = (node) => node.manager.list_channels()[0];

/** What a node believes to own in the channel, in satoshis, fees of a close included. */
export function balance(node) {
  const open = node.chainMonitor.get_claimable_balances([]).filter((b) => b instanceof ldk.Balance_ClaimableOnChannelClose);
  return Number(open.reduce((sum, b) => sum + b.amount_satoshis + b.transaction_fee_satoshis, 0n));
}

/** Connect to the peer and pay it once. A panic of LDK is a result: the node is dead then. */
export async function reconnect({ pair }) {
  const { alice, bob } = pair;
  try {
    await pair.connect();
    await pay(pair, alice, bob, 1_000_000n);
    return { outcome: 'paid', balance: balance(alice), alarms: alice.log };
  } catch (error) {
    if (!(error instanceof WebAssembly.RuntimeError)) throw error;
    return { outcome: 'panic', alarms: alice.log };
  }
}

/** The peer cannot be reached (the network is the host's), and the operator closes the channel by force. */
export async function forceClose({ pair, chain }) {
  const { alice, bob } = pair;
  const channel = channelOf(alice);
  must(alice.manager.force_close_broadcasting_latest_txn(channel.get_channel_id(), bob.id, 'closed'), 'force-close');
  await alice.keep();
  const [commitment] = alice.broadcast.splice(0);
  chain.mine([commitment]);
  bob.follow(chain);
  await bob.keep();
  const penalties = bob.broadcast.splice(0);
  return {
    outcome: 'closed',
    commitment: hex(commitment),
    penalties: penalties.map(hex),
    judged: penalties.map((penalty) => judge(commitment, penalty)),
    alarms: bob.log,
  };
}

/**
 * The peer starts on its own old state too and takes a payment; later it is again what it was before, with all secrets
 * of the states that are now made a second time, and the node closes on what it believes to be its newest state.
 */
export async function conspire({ pair, chain, Node }, { bob: store }) {
  const paid = await reconnect({ pair });
  if (paid.outcome !== 'paid') return paid;
  const noticed = [...paid.alarms];
  const knowing = await Node.start('Bob', store, chain);
  return { ...(await forceClose({ pair: { alice: pair.alice, bob: knowing }, chain })), noticed };
}

/** What LDK advises after an old backup: close without broadcasting, then ask the peer to close. */
export async function surrender({ pair, chain }) {
  const { alice, bob } = pair;
  const channel = channelOf(alice);
  must(alice.manager.force_close_without_broadcasting_txn(channel.get_channel_id(), bob.id, 'old backup'), 'surrender');
  await alice.keep();
  await pair.connect();
  const closes = bob.broadcast.splice(0);
  chain.mine(closes);
  for (let i = 0; i < BURIED; i++) chain.mine();
  alice.follow(chain);
  const spendable = alice.takeEvents().filter((event) => event instanceof ldk.Event_SpendableOutputs);
  const values = spendable.flatMap((event) => event.outputs).map((o) => o.static_payment_output.get_output().value);
  return {
    outcome: closes.length ? 'closed by the peer' : 'open at the peer',
    returned_satoshis: Number(values.reduce((sum, value) => sum + value, 0n)),
    alarms: bob.log,
  };
}
