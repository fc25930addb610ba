/** A controller for tests of the agent: real gRPC over real mutual TLS, and everything that came is kept to look at. */
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { notFound, type RhyzomeError } from '#libs/core';
import type { Ref } from '#libs/drivers/contract';
import { type CredentialsSource, initPki, issueCertificate, watchCredentials } from '#libs/pki';
import {
  type ConnectRequest,
  type ConnectResponse,
  createRpcServer,
  type Desired,
  duplex,
  type FetchImageRequest,
  type FetchImageResponse,
  messagesOf,
  NodeServiceService,
  type Observed,
  Phase,
  peerOf,
  type RpcServer,
  serverStream,
} from '#libs/rpc';

type Body = NonNullable<ConnectRequest['body']>;
type BodyOf<Case extends Body['$case']> = Extract<Body, { $case: Case }>['value'];

export interface TestPki {
  dir: string;
  server: CredentialsSource;
  node: CredentialsSource;
}

/** A CA, a server `localhost` and a node `node-1` in `dir`. */
export async function makeTestPki(dir: string): Promise<TestPki> {
  await initPki({ dir });
  const server = await issueCertificate({ dir, type: 'server', name: 'grpc', dns: ['localhost'] });
  const node = await issueCertificate({ dir, type: 'node', name: 'node-1' });
  return { dir, server: await watchCredentials(server), node: await watchCredentials(node) };
}

export class FakeController {
  installationId = '11111111-2222-4333-8444-555555555555';
  heartbeatIntervalMs = 100;
  /** The node's; raising it is a fence. */
  epoch = 1n;
  acknowledges = true;
  /** Sent, with its end, after each welcome. */
  snapshot: Desired[] = [];
  sendsSnapshot = true;
  readonly images = new Map<string, Buffer>();
  readonly fetches: FetchImageRequest[] = [];
  readonly received: Body[] = [];
  readonly peers: string[] = [];
  /** Thrown at every Hello. */
  refusal: RhyzomeError | undefined;
  /** Bytes after which a fetch breaks off, once. */
  breakAfter: number | undefined;
  private readonly streams = new Set<ServerDuplexStream<ConnectRequest, ConnectResponse>>();
  private readonly waiters = new Set<() => void>();
  private server: RpcServer | undefined;
  private sessions = 0n;

  private constructor(
    private readonly credentials: CredentialsSource,
    readonly address: string,
  ) {}

  static async start(pki: TestPki): Promise<FakeController> {
    const dir = await mkdtemp(join(pki.dir, 'sock-'));
    const controller = new FakeController(pki.server, `unix:${join(dir, 'grpc.sock')}`);
    await controller.listen();
    return controller;
  }

  async listen(): Promise<void> {
    const connect = duplex<ConnectRequest, ConnectResponse>((call) => this.serve(call));
    const fetchImage = serverStream<FetchImageRequest, FetchImageResponse>((request) => this.fetch(request));
    this.server = await createRpcServer({
      listen: [this.address],
      credentials: this.credentials,
      services: [
        { definition: NodeServiceService, implementation: { connect: (call: any) => void connect(call), fetchImage } },
      ],
    });
  }

  async stop(): Promise<void> {
    await this.server?.stop();
    this.streams.clear();
  }

  send(body: NonNullable<ConnectResponse['body']>): void {
    for (const stream of this.streams) stream.write({ body });
  }

  desire(items: Desired[], snapshotEnd = false): void {
    this.send({ $case: 'desire', value: { items, snapshotEnd } });
  }

  all<Case extends Body['$case']>($case: Case): BodyOf<Case>[] {
    return this.received.filter((body) => body.$case === $case).map((body) => body.value as BodyOf<Case>);
  }

  /** The last that was told of a resource. */
  told(id: string): Observed | undefined {
    return this.all('report')
      .flatMap(({ items }) => items)
      .findLast(({ ref }) => ref?.id === id);
  }

  /** What was told of a resource once it is in that phase at that revision. */
  reached(id: string, phase: Phase, revision: bigint): Promise<Observed> {
    return this.until(`${id} ${Phase[phase]} at ${revision}`, () => {
      const told = this.told(id);
      return told?.phase === phase && told.revision === revision ? told : undefined;
    });
  }

  /** Looks again on every message; rejects after 10 s. */
  until<T>(what: string, look: () => T | undefined | false): Promise<T> {
    return new Promise((resolve, reject) => {
      const check = () => {
        const value = look();
        if (value === undefined || value === false) return;
        end();
        resolve(value);
      };
      const end = () => {
        clearTimeout(timer);
        clearInterval(poll);
        this.waiters.delete(check);
      };
      const poll = setInterval(check, 50);
      const timer = setTimeout(() => {
        end();
        reject(new Error(`It did not come to: ${what}`));
      }, 10_000);
      this.waiters.add(check);
      check();
    });
  }

  private async serve(call: ServerDuplexStream<ConnectRequest, ConnectResponse>): Promise<void> {
    this.peers.push(peerOf(call).name);
    this.streams.add(call);
    try {
      for await (const { body } of messagesOf(call)) {
        if (this.refusal) throw this.refusal;
        if (body) this.receive(body, call);
      }
    } finally {
      this.streams.delete(call);
    }
  }

  private receive(body: Body, call: ServerDuplexStream<ConnectRequest, ConnectResponse>): void {
    this.received.push(body);
    if (body.$case === 'hello') {
      const { installationId, heartbeatIntervalMs, epoch } = this;
      const value = { installationId, nodeId: 'node-id', session: ++this.sessions, heartbeatIntervalMs, epoch };
      call.write({ body: { $case: 'welcome', value } });
      if (body.value.kinds.length > 0 && this.sendsSnapshot) {
        call.write({ body: { $case: 'desire', value: { items: this.snapshot, snapshotEnd: true } } });
      }
    }
    if (body.$case === 'heartbeat' && this.acknowledges) call.write({ body: { $case: 'acknowledge', value: {} } });
    for (const waiter of this.waiters) waiter();
  }

  private async *fetch(request: FetchImageRequest): AsyncIterable<FetchImageResponse> {
    this.fetches.push(request);
    const content = this.images.get(request.sha256);
    if (!content) throw notFound('image', request.sha256);
    for (let at = Number(request.offset); at < content.length; at += 1000) {
      if (this.breakAfter !== undefined && at >= this.breakAfter) {
        this.breakAfter = undefined;
        throw new Error('broken off');
      }
      yield { data: content.subarray(at, at + 1000) };
    }
  }
}

export function desired(ref: Ref, revision: bigint, spec: unknown): Desired {
  return {
    ref,
    revision,
    generation: revision,
    present: spec !== undefined,
    specJson: spec === undefined ? '' : JSON.stringify(spec),
  };
}
