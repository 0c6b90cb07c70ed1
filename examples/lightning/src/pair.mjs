// Two nodes and what is between them: sockets that are queues in this process. `settle` lets both work, keep and talk
// until neither has anything left to do.

import { ldk, must } from './ldk.mjs';

let lastSocket = 0n;

/** A socket whose bytes wait in `queue` until `settle` delivers them. */
function makeSocket(queue) {
  const number = ++lastSocket;
  return ldk.SocketDescriptor.new_impl({
    send_data: (data) => {
      queue.push(data.slice());
      return data.length;
    },
    disconnect_socket: () => queue.splice(0),
    eq: (other) => other.hash() === number,
    hash: () => number,
  });
}

export class Pair {
  constructor(alice, bob) {
    this.alice = alice;
    this.bob = bob;
    this.toBob = [];
    this.toAlice = [];
    this.onEvent = () => {};
  }

  /** Connect the two, as over TCP, and let them greet. Does nothing if they are connected. */
  async connect() {
    if (this.aliceSocket) return;
    this.aliceSocket = makeSocket(this.toBob);
    this.bobSocket = makeSocket(this.toAlice);
    const noAddress = ldk.Option_SocketAddressZ.constructor_none();
    must(this.bob.peers.new_inbound_connection(this.bobSocket, noAddress), 'accept a connection');
    const hello = this.alice.peers.new_outbound_connection(this.bob.id, this.aliceSocket, noAddress);
    this.toBob.push(must(hello, 'connect'));
    await this.settle();
  }

  #deliver(queue, node, socket) {
    const parts = queue.splice(0);
    for (const part of parts) must(node.peers.read_event(socket, part), 'read from a peer');
    return parts.length > 0;
  }

  #handle(node) {
    const events = node.takeEvents();
    for (const event of events) this.onEvent(node, event);
    return events.length > 0;
  }

  /** One turn of one node: read, act on events, keep, send. True if anything happened. */
  async #turn(node, queue, socket) {
    let isBusy = this.#deliver(queue, node, socket);
    isBusy = this.#handle(node) || isBusy;
    isBusy = (await node.keep()) || isBusy;
    node.peers.process_events();
    return isBusy;
  }

  async settle() {
    for (let isBusy = true; isBusy; ) {
      const alice = await this.#turn(this.alice, this.toAlice, this.aliceSocket);
      const bob = await this.#turn(this.bob, this.toBob, this.bobSocket);
      isBusy = alice || bob || this.toBob.length > 0 || this.toAlice.length > 0;
    }
  }
}
