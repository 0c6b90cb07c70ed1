// What a node keeps, and in which order: first the channel manager, then the monitors that it has updated, and only then
// is LDK told that an update is complete, after which it lets go the messages that depend on it. So whatever is killed,
// what the counterparty was told is in the store, and no monitor is newer than the manager.
// The rule: https://docs.rs/lightning/0.1.0/lightning/chain/trait.Watch.html

import { ldk, must } from './ldk.mjs';
import { shown } from './bytes.mjs';

export const MANAGER = 'manager';
const MONITOR = 'monitor-';
const IN_PROGRESS = ldk.ChannelMonitorUpdateStatus.LDKChannelMonitorUpdateStatus_InProgress;

const keyOf = (outpoint) => `${MONITOR}${shown(outpoint.get_txid())}-${outpoint.get_index()}`;

export class Persistence {
  constructor(store) {
    this.store = store;
    this.waiting = [];
    this.figures = { writes: 0, bytes: 0 };
    const note = (outpoint, monitor) => {
      // Copied at once: what LDK lends to a callback is gone after it.
      const updateId = monitor.get_latest_update_id();
      this.waiting.push({ outpoint: outpoint.clone(), updateId, key: keyOf(outpoint), bytes: monitor.write() });
      return IN_PROGRESS;
    };
    this.persist = ldk.Persist.new_impl({
      persist_new_channel: (outpoint, monitor) => note(outpoint, monitor),
      update_persisted_channel: (outpoint, _update, monitor) => note(outpoint, monitor),
      archive_persisted_channel: () => {},
    });
  }

  /** Make durable what has changed since the last time; false if nothing has. */
  async keep(manager, chainMonitor) {
    const updates = this.waiting.splice(0);
    const isManagerChanged = manager.get_and_clear_needs_persistence();
    if (!isManagerChanged && !updates.length) return false;
    const entries = new Map(isManagerChanged ? [[MANAGER, manager.write()]] : []);
    for (const { key, bytes } of updates) entries.set(key, bytes); // of several for one channel, the last has all
    await this.store.write(entries);
    this.figures.writes += entries.size;
    for (const bytes of entries.values()) this.figures.bytes += bytes.length;
    for (const { outpoint, updateId } of updates) {
      must(chainMonitor.channel_monitor_updated(outpoint, updateId), 'note a monitor update as complete');
    }
    return true;
  }

  /** What the store holds: `{ manager, monitors }` in bytes, manager null in a new store. */
  async load() {
    const keys = (await this.store.keys()).filter((key) => key.startsWith(MONITOR));
    return {
      manager: await this.store.read(MANAGER),
      monitors: await Promise.all(keys.map((key) => this.store.read(key))),
    };
  }
}
