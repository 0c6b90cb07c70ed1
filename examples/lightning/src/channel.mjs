// What the two nodes do: open a channel, and pay each other.

import { randomBytes } from 'node:crypto';

import { concat, u32, u64, withSize } from './bytes.mjs';
import { ldk, must } from './ldk.mjs';

const CHANNEL_SATOSHIS = 1_000_000n;
const PUSHED_MSAT = 300_000_000n;
const CONFIRMATIONS = 6;
const FINAL_CLTV_DELTA = 24;

/** A transaction with one output, whose input is made up: the toy chain asks nobody for coins. */
function fundingTransaction(value, script) {
  return concat(
    u32(2),
    Uint8Array.of(0, 1, 1), // a witness follows; one input
    randomBytes(32),
    u32(0),
    Uint8Array.of(0),
    u32(0xffffffff),
    Uint8Array.of(1),
    u64(value),
    withSize(script),
    Uint8Array.of(1, 1, 0xff),
    u32(0),
  );
}

/** Open a channel from Alice to Bob and let its funding confirm. */
export async function openChannel(pair, chain) {
  const { alice, bob } = pair;
  must(alice.manager.create_channel(bob.id, CHANNEL_SATOSHIS, PUSHED_MSAT, 1n, null, null), 'open a channel');
  pair.onEvent = (node, event) => {
    if (!(event instanceof ldk.Event_FundingGenerationReady)) return;
    const transaction = fundingTransaction(event.channel_value_satoshis, event.output_script);
    const { temporary_channel_id: id, counterparty_node_id: peer } = event;
    must(node.manager.funding_transaction_generated(id, peer, transaction), 'fund the channel');
  };
  await pair.settle();
  chain.mine(alice.broadcast.splice(0));
  for (let i = 1; i < CONFIRMATIONS; i++) chain.mine();
  alice.follow(chain);
  bob.follow(chain);
  await pair.settle();
  if (!alice.manager.list_usable_channels().length) throw new Error('the channel did not become usable');
}

/** What an event asks of its node: to take a payment that came, or to forward what waits. */
function answer(node, event) {
  if (event instanceof ldk.Event_PendingHTLCsForwardable) node.manager.process_pending_htlc_forwards();
  if (event instanceof ldk.Event_PaymentClaimable) node.manager.claim_funds(event.purpose.preimage().some);
}

/** Pay `msat` from one node to the other, and return when the payer knows that it was claimed and both are at rest. */
export async function pay(pair, from, to, msat) {
  let isPaid = false;
  pair.onEvent = (node, event) => {
    answer(node, event);
    if (event instanceof ldk.Event_PaymentFailed) throw new Error(`a payment of ${msat} msat failed`);
    if (node === from && event instanceof ldk.Event_PaymentSent) isPaid = true;
  };
  const params = ldk.PaymentParameters.constructor_for_keysend(to.id, FINAL_CLTV_DELTA, false);
  const sent = from.manager.send_spontaneous_payment(
    ldk.Option_ThirtyTwoBytesZ.constructor_some(randomBytes(32)),
    ldk.RecipientOnionFields.constructor_spontaneous_empty(),
    randomBytes(32),
    ldk.RouteParameters.constructor_from_payment_params_and_value(params, msat),
    ldk.Retry.constructor_attempts(0),
  );
  must(sent, 'send a payment');
  await pair.settle();
  if (!isPaid) throw new Error(`a payment of ${msat} msat neither failed nor arrived`);
}
