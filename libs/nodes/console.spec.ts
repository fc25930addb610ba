/**
 * A console all the way from the API's side to a machine's serial line and back: over real mutual TLS, a real agent and
 * the stream that it holds. What several people see and who of them types.
 */
import 'reflect-metadata';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { type Agent, startAgent } from '#libs/agent';
import { newId } from '#libs/core';
import { type Capability, type ConsoleLine, DriverError, type Ref } from '#libs/drivers/contract';
import { kinds } from '#libs/kinds';
import { type AttachedConsole, ConsoleRelay, NodeHub } from '#libs/nodes';
import { type CredentialsSource, initPki, issueCertificate, watchCredentials } from '#libs/pki';
import { KindRegistry, readInstallation } from '#libs/resources';
import { createRpcServer, duplex, NodeServiceService, peerOf, RelayServiceService, type RpcServer } from '#libs/rpc';
import { type TestDatabase, testDatabase } from '#libs/testing';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };

/** Machines whose serial line a test speaks on. */
class Serial implements Capability<object, object> {
  readonly kind = 'instance';
  readonly after: string[] = [];
  readonly typed: string[] = [];
  log = '';
  opened = 0;
  closed = 0;
  isOn = true;
  private queue: Buffer[] = [];
  private wake: () => void = () => {};
  private isOpen = false;

  apply = async () => ({});
  remove = async () => {};
  inventory = async () => [];

  say(text: string | Buffer): void {
    const data = Buffer.from(text);
    this.log += data.length < 1000 ? data.toString() : '';
    if (this.isOpen) this.queue.push(data);
    this.wake();
  }

  turnOff(): void {
    this.isOn = false;
    this.wake();
  }

  async *consoleLog(_ref: Ref, bytes: number): AsyncIterable<Uint8Array> {
    yield Buffer.from(this.log).subarray(-bytes);
  }

  async console(): Promise<ConsoleLine> {
    if (!this.isOn) throw new DriverError('not_running', 'The machine does not run.', { permanent: true });
    if (this.isOpen) throw new Error('the line is open already');
    this.isOpen = true;
    this.opened += 1;
    this.queue = [];
    return {
      output: this.output(),
      write: async (data) => {
        this.typed.push(Buffer.from(data).toString());
      },
      close: () => {
        this.isOpen = false;
        this.closed += 1;
        this.wake();
      },
    };
  }

  private async *output(): AsyncGenerator<Uint8Array> {
    while (this.isOpen) {
      const next = this.queue.shift();
      if (next) yield next;
      else if (!this.isOn) break;
      else
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
    }
    this.isOpen = false;
  }
}

/** One who watches, and what came to it. */
class Watcher {
  text = '';
  bytes = 0;
  readonly keyboard: boolean[] = [];
  end: unknown;
  readonly leaving = new AbortController();
  reading: Promise<void> = Promise.resolve();

  constructor(readonly console: AttachedConsole) {}

  read(): this {
    this.reading = this.take().catch((error: unknown) => {
      this.end = error;
    });
    return this;
  }

  private async take(): Promise<void> {
    for await (const { data, hasKeyboard } of this.console.output) {
      if (hasKeyboard !== undefined) this.keyboard.push(hasKeyboard);
      this.bytes += data.length;
      if (data.length < 1000) this.text += Buffer.from(data).toString();
    }
  }

  type = (text: string) => this.console.type(Buffer.from(text));
}

let dir: string;
let database: TestDatabase;
let credentials: CredentialsSource;
let hub: NodeHub;
let server: RpcServer;
let agent: Agent;
let relay: ConsoleRelay;
let serial: Serial;
let nodeId: string;
const watchers: Watcher[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-console-'));
  await initPki({ dir });
  credentials = await watchCredentials(await issueCertificate({ dir, type: 'server', name: 's', dns: ['localhost'] }));
  const node = await watchCredentials(await issueCertificate({ dir, type: 'node', name: 'n1' }));
  database = await testDatabase();
  const { db, listener } = database;
  const address = `unix:${join(dir, 'grpc.sock')}`;
  const { id: installationId } = await readInstallation(db);
  hub = new NodeHub(db, listener, new KindRegistry(kinds), { installationId, advertise: address, log: quiet });
  const connect = duplex<any, any>((call) => hub.serve(peerOf(call).name, call));
  const console = duplex<any, any>((call, signal) => hub.serveConsole(call, signal));
  server = await createRpcServer({
    listen: [address],
    credentials,
    services: [
      { definition: NodeServiceService, implementation: { connect: (call: any) => void connect(call) } },
      { definition: RelayServiceService, implementation: { console: (call: any) => void console(call) } },
    ],
  });
  serial = new Serial();
  agent = await startAgent({
    controller: address,
    stateDir: join(dir, 'state'),
    labels: {},
    version: '0',
    credentials: node,
    createDriver: async () => ({
      name: 'serial',
      capabilities: [serial],
      capacity: async () => ({ vcpus: 1, memoryMiB: 1, diskGiB: 1 }),
      close: async () => {},
    }),
    log: quiet,
  });
  relay = new ConsoleRelay(db, credentials);
  // Its first stream is there to learn the installation; the second one has kinds.
  nodeId = await vi.waitFor(
    async () => {
      const node = await db.operator.selectFrom('node').select(['id', 'kinds']).executeTakeFirstOrThrow();
      if (node.kinds.length === 0 || hub.size === 0) throw new Error('the agent has not joined');
      return node.id;
    },
    { timeout: 10_000 },
  );
});

afterEach(async () => {
  for (const watcher of watchers.splice(0)) watcher.leaving.abort();
  await vi.waitFor(() => expect(serial.opened - serial.closed).toBe(0));
  Object.assign(serial, { log: '', isOn: true, opened: 0, closed: 0 });
  serial.typed.length = 0;
});

afterAll(async () => {
  relay?.close();
  await agent?.stop();
  hub?.close();
  await server?.stop();
  await database?.close();
  await rm(dir, { recursive: true, force: true });
});

async function sit(options: { mayType?: boolean; instanceId?: string; tenantId?: string } = {}): Promise<Watcher> {
  const { mayType = true, instanceId = instance, tenantId = 'acme' } = options;
  const leaving = new AbortController();
  const target = { nodeId, tenantId, instanceId, tailBytes: 100, mayType };
  const watcher = new Watcher(await relay.attach(target, { requestId: newId() }, leaving.signal));
  Object.assign(watcher, { leaving });
  watchers.push(watcher);
  return watcher;
}

const instance = newId();

describe('a console', () => {
  test('is seen by all who watch from its log’s end on; of those who may type the first does, then the next', async () => {
    serial.say(`${'x'.repeat(200)}login: `);
    const reader = (await sit({ mayType: false })).read();
    const first = (await sit()).read();
    const second = (await sit()).read();
    await expect.poll(() => [reader.keyboard, first.keyboard, second.keyboard]).toEqual([[false], [true], [false]]);
    expect(reader.text).toBe(`${'x'.repeat(93)}login: `);
    expect(second.text).toBe(reader.text);
    await reader.type('no');
    await second.type('neither');
    await first.type('root\r');
    await expect.poll(() => serial.typed).toEqual(['root\r']);
    serial.say('Password: ');
    for (const one of [reader, first, second]) await expect.poll(() => one.text).toMatch(/login: Password: $/);
    first.leaving.abort();
    await expect.poll(() => second.keyboard).toEqual([false, true]);
    await second.type('secret\r');
    await expect.poll(() => serial.typed).toEqual(['root\r', 'secret\r']);
    expect(reader.keyboard).toEqual([false]);
    expect(serial.opened).toBe(1);
  });

  test('of a machine that goes off ends for all, and of one that is off is refused', async () => {
    const [one, two] = [(await sit()).read(), (await sit({ mayType: false })).read()];
    serial.say('bye');
    serial.turnOff();
    for (const watcher of [one, two]) {
      await watcher.reading;
      expect(watcher.end).toMatchObject({ code: 'not_ready', details: { extensions: { reason: 'machine_off' } } });
      expect(watcher.text).toBe('bye');
    }
    await expect(sit()).rejects.toMatchObject({ code: 'not_ready', message: 'The machine does not run.' });
    serial.opened = serial.closed; // A line that ended by itself needs no close.
  });

  test('tells its end each time, also to who may still type', async () => {
    for (let n = 0; n < 15; n += 1) {
      serial.isOn = true;
      const [one, two] = [(await sit()).read(), (await sit({ mayType: false })).read()];
      await one.type('poweroff');
      serial.turnOff();
      await Promise.all([one.reading, two.reading]);
      for (const { end } of [one, two]) expect(end).toMatchObject({ code: 'not_ready' });
    }
  });

  test('goes on for the others when one reads nothing', async () => {
    const [stuck, well] = [await sit({ mayType: false }), (await sit()).read()];
    const piece = Buffer.alloc(64 * 1024, 'y');
    const pieces = 128;
    for (let n = 0; n < pieces; n += 1) serial.say(piece);
    await expect.poll(() => well.bytes, { timeout: 30_000 }).toBe(pieces * piece.length);
    stuck.read();
    await stuck.reading;
    expect(stuck.end).toMatchObject({ code: 'overloaded', details: { extensions: { reason: 'too_slow' } } });
    await well.type('still here');
    await expect.poll(() => serial.typed).toEqual(['still here']);
  }, 60_000);

  test('has room for so many, and says so', async () => {
    const many = await Promise.allSettled(Array.from({ length: 22 }, () => sit({ mayType: false })));
    const refused = many.filter((outcome) => outcome.status === 'rejected');
    expect(refused).toHaveLength(2);
    for (const { reason } of refused) expect(reason).toMatchObject({ code: 'overloaded' });
  });

  test('of a node that nobody holds cannot be reached', async () => {
    const target = { nodeId: newId(), tenantId: 'acme', instanceId: instance, tailBytes: 1, mayType: false };
    const attached = relay.attach(target, { requestId: newId() }, new AbortController().signal);
    await expect(attached).rejects.toMatchObject({ code: 'node_unreachable', details: { retryAfterSeconds: 2 } });
  });
});
