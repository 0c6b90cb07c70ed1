// One Lightning node: LDK's ChannelManager, ChainMonitor, KeysManager and PeerManager over a store and the toy chain.

import { sha256 } from './bytes.mjs';
import { ldk, must } from './ldk.mjs';
import { Persistence } from './persistence.mjs';

const NETWORK = ldk.Network.LDKNetwork_Regtest;
const FEE_PER_1000_WEIGHT = 253;
const LOUD = [ldk.Level.LDKLevel_Error, ldk.Level.LDKLevel_Warn];

export const genesisHash = () => ldk.BestBlock.constructor_from_network(NETWORK).get_block_hash();

export class Node {
  /**
   * The node `name` as its store has it, or a new one in an empty store. Its seed is made from its name: in life it
   * comes from where the host cannot reach it, and a rollback changes nothing about it.
   */
  static async start(name, store, chain) {
    await store.open();
    const node = new Node(name, store);
    const kept = await node.persistence.load();
    if (kept.manager === null) node.#create(chain);
    else node.#revive(kept);
    node.id = node.manager.get_our_node_id();
    node.#listenToPeers();
    return node;
  }

  constructor(name, store) {
    this.name = name;
    this.broadcast = [];
    this.log = [];
    this.events = [];
    this.persistence = new Persistence(store);
    this.fees = ldk.FeeEstimator.new_impl({ get_est_sat_per_1000_weight: () => FEE_PER_1000_WEIGHT });
    this.broadcaster = ldk.BroadcasterInterface.new_impl({
      broadcast_transactions: (transactions) => void this.broadcast.push(...transactions.map((t) => t.slice())),
    });
    this.logger = ldk.Logger.new_impl({
      log: (record) => void (LOUD.includes(record.get_level()) && this.log.push(record.get_args())),
    });
    const now = Date.now();
    this.keys = ldk.KeysManager.constructor_new(
      sha256(Buffer.from(`perdure lightning demo: ${name}`)),
      BigInt(Math.floor(now / 1000)),
      (now % 1000) * 1_000_000,
    );
    this.chainMonitor = ldk.ChainMonitor.constructor_new(
      ldk.Option_FilterZ.constructor_none(),
      this.broadcaster,
      this.logger,
      this.fees,
      this.persistence.persist,
    );
    this.#makeRouter();
  }

  #makeRouter() {
    const entropy = this.keys.as_EntropySource();
    this.graph = ldk.NetworkGraph.constructor_new(NETWORK, this.logger);
    const decay = ldk.ProbabilisticScoringDecayParameters.constructor_default();
    const scorer = ldk.ProbabilisticScorer.constructor_new(decay, this.graph, this.logger);
    this.score = ldk.MultiThreadedLockableScore.constructor_new(scorer.as_Score());
    this.router = ldk.DefaultRouter.constructor_new(
      this.graph,
      this.logger,
      entropy,
      this.score.as_LockableScore(),
      ldk.ProbabilisticScoringFeeParameters.constructor_default(),
    );
    this.messageRouter = ldk.DefaultMessageRouter.constructor_new(this.graph, entropy);
  }

  #create(chain) {
    const best = ldk.BestBlock.constructor_new(chain.tipHash, chain.height);
    this.monitorHeight = chain.height;
    this.manager = ldk.ChannelManager.constructor_new(
      this.fees,
      this.chainMonitor.as_Watch(),
      this.broadcaster,
      this.router.as_Router(),
      this.messageRouter.as_MessageRouter(),
      this.logger,
      this.keys.as_EntropySource(),
      this.keys.as_NodeSigner(),
      this.keys.as_SignerProvider(),
      ldk.UserConfig.constructor_default(),
      ldk.ChainParameters.constructor_new(NETWORK, best),
      Math.floor(Date.now() / 1000),
    );
  }

  #revive(kept) {
    const [entropy, signers] = [this.keys.as_EntropySource(), this.keys.as_SignerProvider()];
    const read = ldk.UtilMethods.constructor_C2Tuple_ThirtyTwoBytesChannelMonitorZ_read;
    const monitors = kept.monitors.map((bytes) => must(read(bytes, entropy, signers), 'read a monitor').get_b());
    const result = ldk.UtilMethods.constructor_C2Tuple_ThirtyTwoBytesChannelManagerZ_read(
      kept.manager,
      entropy,
      this.keys.as_NodeSigner(),
      signers,
      this.fees,
      this.chainMonitor.as_Watch(),
      this.broadcaster,
      this.router.as_Router(),
      this.messageRouter.as_MessageRouter(),
      this.logger,
      ldk.UserConfig.constructor_default(),
      monitors,
    );
    this.manager = must(result, 'read the channel manager').get_b();
    this.monitorHeight = Math.min(...monitors.map((monitor) => monitor.current_best_block().get_height()));
    const watch = this.chainMonitor.as_Watch();
    for (const monitor of monitors) must(watch.watch_channel(monitor.get_funding_txo().get_a(), monitor), 'watch');
  }

  #listenToPeers() {
    const ignorer = ldk.IgnoringMessageHandler.constructor_new();
    this.peers = ldk.PeerManager.constructor_new(
      this.manager.as_ChannelMessageHandler(),
      ignorer.as_RoutingMessageHandler(),
      ignorer.as_OnionMessageHandler(),
      ignorer.as_CustomMessageHandler(),
      Math.floor(Date.now() / 1000),
      this.keys.as_EntropySource().get_secure_random_bytes(),
      this.logger,
      this.keys.as_NodeSigner(),
    );
    this.ignorer = ignorer;
  }

  /** Tell the node of every block that it has not seen. */
  follow(chain) {
    for (let height = this.monitorHeight + 1; height <= chain.height; height++) {
      this.chainMonitor.as_Listen().block_connected(chain.block(height), height);
    }
    this.monitorHeight = chain.height;
    for (let height = this.manager.current_best_block().get_height() + 1; height <= chain.height; height++) {
      this.manager.as_Listen().block_connected(chain.block(height), height);
    }
  }

  /** Collect the events of the manager and the monitor. */
  takeEvents() {
    const handler = ldk.EventHandler.new_impl({
      handle_event: (event) => {
        this.events.push(event);
        return ldk.Result_NoneReplayEventZ.constructor_ok();
      },
    });
    this.manager.as_EventsProvider().process_pending_events(handler);
    this.chainMonitor.as_EventsProvider().process_pending_events(handler);
    return this.events.splice(0);
  }

  /** Make durable what has changed; false if nothing has. */
  keep() {
    return this.persistence.keep(this.manager, this.chainMonitor);
  }
}
