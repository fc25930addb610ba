/** Servers and clients over real mutual TLS: who comes in, what an error looks like on the other side, reloading. */
import { copyFile, mkdtemp, rm, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { service as healthService } from 'grpc-health-check';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { invalid, RhyzomeError } from '#libs/core';
import {
  type CredentialsSource,
  fixedCredentials,
  type IdentityType,
  initPki,
  issueCertificate,
  loadCredentials,
  watchCredentials,
} from '#libs/pki';
import {
  createChannel,
  createRpcServer,
  type FetchImageRequest,
  FetchImageResponse,
  NodeServiceClient,
  NodeServiceService,
  type Peer,
  peerOf,
  problemOf,
  RelayServiceClient,
  type RelayServiceServer,
  RelayServiceService,
  type RpcServer,
  requestIdOf,
  requirePeer,
  serverStream,
} from './index.js';

let dir: string;
let foreignDir: string;
const opened: (() => unknown)[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-rpc-'));
  foreignDir = join(dir, 'foreign');
  await initPki({ dir });
  await initPki({ dir: foreignDir });
});
afterAll(() => rm(dir, { recursive: true }));
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

async function credentials(type: IdentityType, name: string, ca = dir): Promise<CredentialsSource> {
  const out = await mkdtemp(join(dir, 'set-'));
  const dns = type === 'server' ? ['localhost'] : undefined;
  const source = await watchCredentials(await issueCertificate({ dir: ca, out, type, name, dns }), {
    intervalMs: 3_600_000,
  });
  opened.push(() => source.close());
  return source;
}

interface Seen {
  peers: Peer[];
  requestIds: string[];
}

async function serve(refuse?: (peer: Peer) => RhyzomeError | undefined) {
  const seen: Seen = { peers: [], requestIds: [] };
  const fetchImage = serverStream<FetchImageRequest, FetchImageResponse>(async function* (request, signal, call) {
    seen.peers.push(peerOf(call));
    seen.requestIds.push(requestIdOf(call.metadata));
    if (request.sha256 === 'rhyzome')
      throw invalid([{ pointer: '/sha256', code: 'invalid_format', message: 'not hex – ä' }]);
    if (request.sha256 === 'secret') throw new Error('password=hunter2');
    yield { data: Buffer.from(request.sha256) };
    if (request.sha256 !== 'forever') return;
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
  });
  const consoleLog = serverStream<unknown, { data: Buffer }>(async function* (_request, _signal, call) {
    requirePeer(call, 'server');
    yield { data: Buffer.from('log') };
  }) as RelayServiceServer['consoleLog'];
  const source = await credentials('server', 'grpc-1');
  const server = await createRpcServer({
    listen: ['127.0.0.1:0', `unix:${join(await mkdtemp(join(dir, 'sock-')), 'rpc.sock')}`],
    credentials: source,
    refuse,
    services: [
      { definition: NodeServiceService, implementation: { fetchImage } },
      { definition: RelayServiceService, implementation: { consoleLog } },
    ],
  });
  opened.push(() => server.stop());
  return { server, seen, source };
}

function channelTo(
  server: RpcServer,
  source: CredentialsSource,
  index = 0,
  serverName: string | undefined = 'localhost',
) {
  const channel = createChannel({
    target: server.addresses[index]!,
    credentials: source,
    serverName,
    timeoutMs: 5000,
    requestId: () => 'req-1',
  });
  opened.push(() => channel.close());
  return channel;
}

async function fetchText(client: NodeServiceClient, sha256: string): Promise<string> {
  let text = '';
  for await (const part of client.fetchImage({ sha256, offset: 0n }))
    text += (part as FetchImageResponse).data.toString();
  return text;
}

async function failure(promise: Promise<unknown>): Promise<grpc.ServiceError> {
  return promise.then(
    () => expect.fail('it succeeded'),
    (error: grpc.ServiceError) => error,
  );
}

describe('who comes in', () => {
  test('a node over TCP and over a unix socket, with its name and the request id', async () => {
    const { server, seen } = await serve();
    const node = await credentials('node', 'node-1');
    expect(await fetchText(channelTo(server, node).client(NodeServiceClient), 'aa')).toBe('aa');
    expect(await fetchText(channelTo(server, node, 1, undefined).client(NodeServiceClient), 'bb')).toBe('bb');
    expect(seen.peers).toHaveLength(2);
    expect(seen.peers[0]).toMatchObject({ type: 'node', name: 'node-1', trustDomain: 'rhyzome.internal' });
    expect(seen.requestIds).toEqual(['req-1', 'req-1']);
  });

  test('nobody without a certificate, nobody of another CA, and no handler notices', async () => {
    const { server, seen } = await serve();
    const { ca } = (await credentials('node', 'x')).current;
    const bare = new NodeServiceClient(server.addresses[0]!, grpc.credentials.createSsl(ca), {
      'grpc.ssl_target_name_override': 'localhost',
    });
    opened.push(() => bare.close());
    expect((await failure(fetchText(bare, 'aa'))).code).toBe(grpc.status.UNAVAILABLE);
    const foreign = (await credentials('node', 'node-1', foreignDir)).current;
    const intruder = new NodeServiceClient(
      server.addresses[0]!,
      grpc.credentials.createSsl(ca, foreign.key, foreign.cert),
      {
        'grpc.ssl_target_name_override': 'localhost',
      },
    );
    opened.push(() => intruder.close());
    expect((await failure(fetchText(intruder, 'aa'))).code).toBe(grpc.status.UNAVAILABLE);
    expect(seen.peers).toEqual([]);
  });

  test('a client leaves a server of another name, and a node that poses as a server', async () => {
    const { server } = await serve();
    const node = await credentials('node', 'node-1');
    const wrongName = await failure(
      fetchText(channelTo(server, node, 0, 'other.example').client(NodeServiceClient), 'aa'),
    );
    expect(wrongName.code).toBe(grpc.status.UNAVAILABLE);
    const fake = await createRpcServer({ listen: ['127.0.0.1:0'], credentials: node, services: [] });
    opened.push(() => fake.stop());
    expect((await failure(fetchText(channelTo(fake, node).client(NodeServiceClient), 'aa'))).code).toBe(
      grpc.status.UNAVAILABLE,
    );
  });

  test('the wrong type is PERMISSION_DENIED, a refused identity UNAUTHENTICATED, its streams end', async () => {
    let revoked = '';
    const gone = new RhyzomeError('unauthenticated', 'The certificate was revoked.');
    const { server } = await serve((peer) => (peer.name === revoked ? gone : undefined));
    const channel = channelTo(server, await credentials('node', 'node-2'));
    const relay = channel
      .client(RelayServiceClient)
      .consoleLog({ nodeId: '', tenantId: '', instanceId: '', tailBytes: 0n });
    const denied = await failure(
      (async () => {
        for await (const _ of relay);
      })(),
    );
    expect(denied.code).toBe(grpc.status.PERMISSION_DENIED);
    const client = channel.client(NodeServiceClient);
    const stream = client.fetchImage({ sha256: 'forever', offset: 0n }, { deadline: Number.POSITIVE_INFINITY });
    await new Promise((resolve) => stream.once('data', resolve));
    const ended = new Promise<grpc.ServiceError>((resolve) => stream.once('error', resolve));
    stream.resume();
    revoked = 'node-2';
    expect(server.gate.recheck()).toBe(1);
    expect((await ended).code).toBe(grpc.status.UNAUTHENTICATED);
    expect((await failure(fetchText(client, 'aa'))).code).toBe(grpc.status.UNAUTHENTICATED);
  });
});

describe('errors', () => {
  test('ours keep code, message and list; others tell nothing', async () => {
    const { server } = await serve();
    const client = channelTo(server, await credentials('service', 'billing')).client(NodeServiceClient);
    const ours = await failure(fetchText(client, 'rhyzome'));
    expect(ours.code).toBe(grpc.status.INVALID_ARGUMENT);
    const problem = problemOf(ours);
    expect(problem?.code).toBe('invalid');
    expect(problem?.details.errors).toEqual([{ pointer: '/sha256', code: 'invalid_format', message: 'not hex – ä' }]);
    const others = await failure(fetchText(client, 'secret'));
    expect(others.code).toBe(grpc.status.INTERNAL);
    expect(JSON.stringify([others.message, others.details, others.metadata.getMap()])).not.toContain('hunter2');
  });
});

test('new handshakes get the new certificate, the connection that stands goes on', async () => {
  const { server, source } = await serve();
  const node = await credentials('node', 'node-1');
  const before = channelTo(server, node).client(NodeServiceClient);
  await fetchText(before, 'aa');
  const renewed = await issueCertificate({
    dir,
    out: await mkdtemp(join(dir, 'new-')),
    type: 'server',
    name: 'grpc-1',
    dns: ['localhost', 'new.example'],
  });
  await copyFile(renewed.key, source.current.paths.key);
  await copyFile(renewed.cert, source.current.paths.cert);
  await utimes(source.current.paths.cert, new Date(), new Date());
  await source.check();
  expect(await fetchText(before, 'bb')).toBe('bb');
  expect(await fetchText(channelTo(server, node, 0, 'new.example').client(NodeServiceClient), 'cc')).toBe('cc');
});

test('a client shows its new certificate on the next connection', async () => {
  const { server, seen } = await serve();
  const node = await credentials('node', 'node-1');
  await fetchText(channelTo(server, node).client(NodeServiceClient), 'aa');
  const { paths } = node.current;
  const renewed = await issueCertificate({ dir, out: await mkdtemp(join(dir, 'new-')), type: 'node', name: 'node-1' });
  await copyFile(renewed.key, paths.key);
  await copyFile(renewed.cert, paths.cert);
  await node.check();
  await fetchText(channelTo(server, node).client(NodeServiceClient), 'bb');
  expect(seen.peers.map(({ name }) => name)).toEqual(['node-1', 'node-1']);
  expect(seen.peers.map(({ serial }) => serial === renewed.serial)).toEqual([false, true]);
});

test('a connection that outlives its certificate is of no use: what is under way ends, new calls are refused', async () => {
  const { server } = await serve();
  const seconds = 6;
  const files = await issueCertificate({ dir, type: 'node', name: 'brief', days: seconds / 86_400, force: true });
  const source = fixedCredentials(await loadCredentials(files));
  const client = channelTo(server, source).client(NodeServiceClient);
  const stream = client.fetchImage({ sha256: 'forever', offset: 0n }, { deadline: Number.POSITIVE_INFINITY });
  await new Promise((resolve) => stream.once('data', resolve));
  const ended = new Promise<grpc.ServiceError>((resolve) => stream.once('error', resolve));
  stream.resume();
  expect(server.gate.recheck()).toBe(0);
  await expect.poll(() => server.gate.recheck(), { timeout: 20_000, interval: 100 }).toBe(1);
  expect(problemOf(await ended)?.message).toContain('has expired');
  const refused = await failure(fetchText(client, 'aa'));
  expect(problemOf(refused)).toMatchObject({
    code: 'unauthenticated',
    message: expect.stringContaining('has expired'),
  });
});

test('a channel follows its certificate: new calls show the new one, a stream goes on', async () => {
  const { server, seen } = await serve();
  const node = await credentials('node', 'node-1');
  const client = channelTo(server, node).client(NodeServiceClient);
  const stream = client.fetchImage({ sha256: 'forever', offset: 0n }, { deadline: Number.POSITIVE_INFINITY });
  const codes: number[] = [];
  stream.on('error', (error: grpc.ServiceError) => codes.push(error.code));
  await new Promise((resolve) => stream.once('data', resolve));
  stream.resume();
  const { paths } = node.current;
  const renewed = await issueCertificate({ dir, out: await mkdtemp(join(dir, 'new-')), type: 'node', name: 'node-1' });
  await copyFile(renewed.key, paths.key);
  await copyFile(renewed.cert, paths.cert);
  await node.check();
  await fetchText(client, 'bb');
  expect(seen.peers.map(({ serial }) => serial === renewed.serial)).toEqual([false, true]);
  expect(codes).toEqual([]);
  const ended = new Promise<void>((resolve) => stream.once('error', () => resolve()));
  stream.cancel();
  await ended;
  expect(codes).toEqual([grpc.status.CANCELLED]);
});

test('health and reflection answer', async () => {
  const { server } = await serve();
  const channel = channelTo(server, await credentials('service', 'probe'));
  const Health = grpc.makeGenericClientConstructor(
    healthService as unknown as grpc.ServiceDefinition,
    'grpc.health.v1.Health',
  );
  const health = channel.client(Health);
  const status = await new Promise<unknown>((resolve, reject) => {
    health.check!({ service: '' }, (error: unknown, answer: unknown) => (error ? reject(error) : resolve(answer)));
  });
  expect(status).toMatchObject({ status: 'SERVING' });
  expect(await reflectedServices(channel)).toContain('rhyzome.v1.NodeService');
});

/** The raw protocol: request field 7 (list_services), answer field 6 → field 1 → field 1 (names). */
async function reflectedServices(channel: ReturnType<typeof createChannel>): Promise<string> {
  const raw = {
    path: '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
    requestStream: true,
    responseStream: true,
    requestSerialize: (value: Buffer) => value,
    requestDeserialize: (value: Buffer) => value,
    responseSerialize: (value: Buffer) => value,
    responseDeserialize: (value: Buffer) => value,
  };
  const Reflection = grpc.makeGenericClientConstructor({ info: raw }, 'grpc.reflection.v1.ServerReflection');
  const stream = channel.client(Reflection).info!();
  const answer = new Promise<Buffer>((resolve, reject) => stream.once('data', resolve).once('error', reject));
  stream.write(Buffer.from([0x3a, 0x01, 0x2a]));
  const text = (await answer).toString('latin1');
  stream.end();
  return text;
}
