// A client of LDK's Versioned Storage Service. Messages and field numbers:
// https://github.com/lightningdevkit/vss-server/blob/main/proto/vss.proto
// Writes are not conditional (version -1), as in LDK Node: one node is the only writer of its store.

import { Agent, request } from 'node:http';

import * as protobuf from './protobuf.mjs';

const STORE_ID = 'lightning-demo';
const NOT_CONDITIONAL = -1;
const NO_SUCH_KEY = 4n; // ErrorCode.NO_SUCH_KEY_EXCEPTION

const keyValue = (key, value) =>
  Buffer.concat([protobuf.string(1, key), protobuf.integer(2, NOT_CONDITIONAL), protobuf.bytes(3, value)]);

export class Vss {
  /** @param {string} url such as http://127.0.0.1:8080 */
  constructor(url) {
    this.url = url;
    this.agent = new Agent({ keepAlive: true, maxSockets: 1 });
  }

  async open() {}

  /** The value of a key, or null. */
  async read(key) {
    const reply = await this.#ask('getObject', [protobuf.string(2, key)]);
    return reply === null ? null : protobuf.parse(reply[2][0])[3][0];
  }

  async keys() {
    const found = [];
    let token = '';
    do {
      const reply = await this.#ask('listKeyVersions', token ? [protobuf.string(4, token)] : []);
      for (const item of reply[1] ?? []) found.push(String(protobuf.parse(item)[1][0]));
      token = String(reply[2]?.[0] ?? '');
    } while (token);
    return found;
  }

  /** Write pairs of key and bytes in one transaction: all or nothing. */
  async write(entries) {
    await this.#ask('putObjects', [...entries].map(([key, value]) => protobuf.bytes(3, keyValue(key, value))));
  }

  /** POST a request; the fields of the reply, or null if there is no such key. */
  async #ask(method, fields) {
    const { status, body } = await this.#post(method, Buffer.concat([protobuf.string(1, STORE_ID), ...fields]));
    const reply = protobuf.parse(body);
    if (status === 200) return reply;
    if (reply[1]?.[0] === NO_SUCH_KEY) return null;
    throw new Error(`VSS answered ${method} with ${status}: ${reply[2]?.[0] ?? 'no reason'}`);
  }

  #post(method, body) {
    return new Promise((resolve, reject) => {
      const headers = { 'content-type': 'application/octet-stream', 'content-length': body.length };
      const options = { method: 'POST', agent: this.agent, headers };
      const sent = request(`${this.url}/vss/${method}`, options, (reply) => {
        const parts = [];
        reply.on('data', (part) => parts.push(part));
        reply.on('end', () => resolve({ status: reply.statusCode, body: Buffer.concat(parts) }));
        reply.on('error', reject);
      });
      sent.on('error', reject);
      sent.end(body);
    });
  }
}
