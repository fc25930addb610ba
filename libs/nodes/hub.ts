/** All node streams that this replica holds. */

import type * as grpc from '@grpc/grpc-js';
import { sql } from 'kysely';
import { drainingError, RhyzomeError } from '#libs/core';
import { type Database, type Listener } from '#libs/db';
import type { KindRegistry } from '#libs/resources';
import { type ConnectRequest, type ConnectResponse, callSignal, type Hello, messagesOf, send } from '#libs/rpc';
import { type ConsoleCall, serveConsole } from './console-call.js';
import type { Findings } from './inventory.js';
import { InventoryClock } from './inventory-clock.js';
import { inTurn, MAX_INVENTORY } from './inventory-taking.js';
import { countFrom, labelsFrom, smallCountFrom, storageFrom, textFrom, underlayFrom } from './node-words.js';
import { nodesWithNews, openSession } from './registry.js';
import type { ToldRevocations } from './revocations.js';
import { NodeStream } from './stream.js';
import type { StreamLog } from './stream-log.js';
import { Together } from './together.js';

type Call = grpc.ServerDuplexStream<ConnectRequest, ConnectResponse>;

export interface HubOptions {
  installationId: string;
  /** Address under which other replicas and rhyzome-api reach this one. */
  advertise: string;
  heartbeatIntervalMs?: number;
  /** Between two inventories of a node. */
  inventoryEveryMs?: number;
  log: StreamLog;
  /** What was revoked, for nodes to know; absent: they are told nothing. */
  revocations?: ToldRevocations;
}

const HELLO_MS = 15_000;
/** What a lost notification would have said. */
const LOOK_MS = 10_000;

export class NodeHub {
  private readonly streams = new Map<string, NodeStream>();
  private readonly timer: NodeJS.Timeout;
  private closed = false;
  private readonly inventories: InventoryClock;
  private readonly together: Together;
  private readonly turn = inTurn();

  constructor(
    private readonly db: Database,
    listener: Listener,
    private readonly registry: KindRegistry,
    private readonly options: HubOptions,
  ) {
    listener.on('rhyzome_node', (nodeId) => (nodeId ? this.wake([nodeId]) : void this.wakeDue()));
    listener.on('rhyzome_session', (nodeId) => this.cutLost(nodeId));
    listener.on('rhyzome_session', (nodeId) => nodeId !== null && this.tellKinds(nodeId));
    this.timer = setInterval(() => void this.wakeDue(), LOOK_MS);
    this.timer.unref();
    this.together = new Together(db, registry, options.log);
    this.inventories = new InventoryClock(db, listener, this.streams, options.log, options.inventoryEveryMs);
  }

  get size(): number {
    return this.streams.size;
  }

  /** What the sweep found on the nodes whose streams are held here. */
  get findings(): Findings {
    const all = [...this.streams.values()].map(({ inventory }) => inventory.findings);
    const sum = (key: keyof Findings) => all.reduce((total, findings) => total + findings[key], 0);
    return { orphans: sum('orphans'), missing: sum('missing') };
  }

  private wake(nodeIds: readonly string[]): void {
    for (const nodeId of nodeIds) {
      const stream = this.streams.get(nodeId);
      stream?.look().catch((error: unknown) => {
        this.options.log.warn({ node: stream.nodeName, err: error }, 'looking at desired state failed');
      });
    }
  }

  /** Those for which there is something to tell, whoever rang or did not: one statement, however many nodes there are. */
  private async wakeDue(): Promise<void> {
    if (this.streams.size === 0) return;
    try {
      const due = await nodesWithNews(this.db, [...this.streams.keys()]);
      const untold = [...this.streams].flatMap(([nodeId, { isUntold }]) => (isUntold ? [nodeId] : []));
      this.wake([...new Set([...due, ...untold])]);
    } catch (error) {
      this.options.log.warn({ err: error }, 'looking at desired state failed; it is tried again');
    }
  }

  /** Ends streams whose nodes were taken from them: by a fence. A lost notification is made up for by the next heartbeat. */
  private cutLost(nodeId: string | null): void {
    const suspects = nodeId === null ? [...this.streams.values()] : [this.streams.get(nodeId)];
    for (const stream of suspects) {
      stream?.endIfLost().catch((error: unknown) => {
        this.options.log.warn({ node: stream.nodeName, err: error }, 'whether a stream still counts cannot be asked');
      });
    }
  }

  /** Serves a node's stream to its end. The name is the certificate's. */
  async serve(nodeName: string, call: Call): Promise<void> {
    if (this.closed) throw drainingError();
    const signal = callSignal(call);
    const hello = await firstMessage(call, signal);
    if (hello.installationId !== '' && hello.installationId !== this.options.installationId) {
      throw new RhyzomeError('forbidden', 'This machine belongs to another installation of Rhyzome.');
    }
    if (this.closed) throw drainingError();
    const session = await openSession(this.db, helloOf(nodeName, hello), this.options.advertise);
    const stream = new NodeStream(
      this.db,
      this.registry,
      this.together,
      session,
      nodeName,
      call,
      signal,
      this.options.log,
      this.turn,
      this.options.revocations,
    );
    this.streams.get(session.nodeId)?.end();
    this.streams.set(session.nodeId, stream);
    if (this.closed) stream.end();
    this.options.log.info({ node: nodeName, session: session.session, driver: hello.driver }, 'a node has connected');
    this.tellKinds(session.nodeId);
    if (session.isReturning)
      this.options.log.warn(
        { node: nodeName, epoch: session.epoch },
        'a node that was fenced is back; it has to stop first',
      );
    try {
      const welcome = {
        installationId: this.options.installationId,
        nodeId: session.nodeId,
        session: BigInt(session.session),
        heartbeatIntervalMs: this.options.heartbeatIntervalMs ?? 5_000,
        epoch: BigInt(session.epoch),
      };
      await send(call, { body: { $case: 'welcome', value: welcome } }, signal);
      await stream.tellRevocations(hello.revocationsDigest);
      await stream.run(hello);
    } finally {
      if (this.streams.get(session.nodeId) === stream) this.streams.delete(session.nodeId);
      this.options.log.info({ node: nodeName, session: session.session }, 'a node’s stream has ended');
    }
  }

  /** To all whose streams are held here: the list is another one. */
  tellRevocations(): void {
    for (const stream of this.streams.values()) void stream.tellRevocations();
  }

  /** What other nodes are told of this one may be different now. What fails here is done by the kinds' upkeep. */
  private tellKinds(nodeId: string): void {
    for (const kind of this.registry.all) {
      kind.nodeChanged?.(this.db, nodeId).catch((error: unknown) => {
        this.options.log.warn({ nodeId, kind: kind.name, err: error }, 'telling other nodes of a node failed');
      });
    }
  }

  /** The console log of an instance on a node whose stream is held here. Throws RhyzomeError `not_found`. */
  consoleLog(
    nodeId: string,
    ref: { tenantId: string; kind: string; id: string },
    tailBytes: bigint,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array> {
    const stream = this.streams.get(nodeId);
    if (!stream) throw new RhyzomeError('not_found', 'This replica does not hold the node’s stream.');
    return stream.relays.consoleLog(ref, tailBytes, signal);
  }

  /** A console on a node whose stream is held here, to the end of the call. Throws RhyzomeError `not_found` and others. */
  serveConsole(call: ConsoleCall, signal: AbortSignal): Promise<void> {
    return serveConsole(call, signal, ({ nodeId, tenantId, instanceId, tailBytes, mayType }, gone) => {
      const stream = this.streams.get(nodeId);
      if (!stream) throw new RhyzomeError('not_found', 'This replica does not hold the node’s stream.');
      return stream.relays.console({ tenantId, kind: 'instance', id: instanceId }, { tailBytes, mayType }, gone);
    });
  }

  /** Whether an image is part of what is placed on a node. */
  async mayFetch(nodeName: string, sha256: string): Promise<boolean> {
    const result = await sql`
      select 1 from placement p join node n on n.id = p.node_id
      where n.name = ${nodeName} and n.gone_at is null and p.present and p.spec -> 'image' ->> 'sha256' = ${sha256} limit 1`.execute(
      this.db.operator,
    );
    return result.rows.length === 1;
  }

  /** Whether a deed of this node, which has not ended, is to bring content into the store. */
  async isAskedToBring(nodeName: string, operationId: string): Promise<boolean> {
    const result = await sql`
      select 1 from deed d join node n on n.id = d.node_id
      where n.name = ${nodeName} and d.id = ${operationId} and d.verb = 'export' and d.state = 'asked' limit 1`.execute(
      this.db.operator,
    );
    return result.rows.length === 1;
  }

  /** Ends all streams and takes no more; the agents dial another replica. */
  close(): void {
    this.closed = true;
    clearInterval(this.timer);
    this.inventories.close();
    for (const stream of this.streams.values()) stream.end();
  }
}

async function firstMessage(call: Call, signal: AbortSignal): Promise<Hello> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new RhyzomeError('request_timeout', 'No hello came.')), HELLO_MS);
    signal.addEventListener('abort', () => reject(new RhyzomeError('request_timeout', 'The node went away.')), {
      once: true,
    });
  });
  try {
    const first = await Promise.race([messagesOf(call)[Symbol.asyncIterator]().next(), late]);
    const body = first.done ? undefined : first.value.body;
    if (body?.$case !== 'hello') throw new RhyzomeError('malformed_request', 'The first message must be hello.');
    if (body.value.inventory.length > MAX_INVENTORY) {
      throw new RhyzomeError('malformed_request', `The inventory has more than ${MAX_INVENTORY} items.`);
    }
    return body.value;
  } finally {
    clearTimeout(timer);
  }
}

function helloOf(name: string, hello: Hello) {
  return {
    name,
    driver: textFrom(hello.driver, 63, 'The driver’s name'),
    agentVersion: textFrom(hello.agentVersion, 63, 'The agent’s version'),
    kinds: hello.kinds.slice(0, 100).map((kind) => textFrom(kind, 63, 'A kind’s name')),
    labels: labelsFrom(hello.labels, 'A label'),
    vcpus: smallCountFrom(hello.capacity?.vcpus ?? 0, 'The number of CPUs'),
    memoryMiB: countFrom(hello.capacity?.memoryMib ?? 0n, 'The memory'),
    diskGiB: countFrom(hello.capacity?.diskGib ?? 0n, 'The disk space'),
    migrationAddress: textFrom(hello.migrationAddress, 300, 'The address for migrations') || null,
    epoch: countFrom(hello.epoch, 'The epoch'),
    ...(hello.underlay && { underlay: underlayFrom(hello.underlay) }),
    ...(hello.sharedStorage && { storage: storageFrom(hello.sharedStorage) }),
  };
}
