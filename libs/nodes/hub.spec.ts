/** What a node may say on its stream, over real mutual TLS: garbage is the node's fault, and is told as such. */
import 'reflect-metadata';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { kinds } from '#libs/kinds';
import { NodeHub } from '#libs/nodes';
import { type CredentialsSource, initPki, issueCertificate, watchCredentials } from '#libs/pki';
import { KindRegistry, readInstallation } from '#libs/resources';
import {
  type ConnectRequest,
  type ConnectResponse,
  createChannel,
  createRpcServer,
  duplex,
  Hello,
  NodeServiceClient,
  NodeServiceService,
  Observed,
  Phase,
  peerOf,
  type RpcChannel,
  type RpcServer,
} from '#libs/rpc';
import { type TestDatabase, testDatabase } from '#libs/testing';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };

let dir: string;
let database: TestDatabase;
let credentials: CredentialsSource;
let hub: NodeHub;
let server: RpcServer;
let channel: RpcChannel;
let unknown: unknown[];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-hub-'));
  await initPki({ dir });
  credentials = await watchCredentials(await issueCertificate({ dir, type: 'server', name: 's', dns: ['localhost'] }));
  const node = await watchCredentials(await issueCertificate({ dir, type: 'node', name: 'n1' }));
  database = await testDatabase();
  const { db, listener } = database;
  const target = `unix:${join(dir, 'grpc.sock')}`;
  const { id: installationId } = await readInstallation(db);
  hub = new NodeHub(db, listener, new KindRegistry(kinds), { installationId, advertise: target, log: quiet });
  unknown = [];
  const connect = duplex<any, any>(
    (call) => hub.serve(peerOf(call).name, call),
    (error) => unknown.push(error),
  );
  const implementation = { connect: (call: any) => void connect(call) };
  server = await createRpcServer({
    listen: [target],
    credentials,
    services: [{ definition: NodeServiceService, implementation }],
  });
  channel = createChannel({ target, credentials: node });
});
afterAll(async () => {
  channel?.close();
  hub?.close();
  await server?.stop();
  await database?.close();
  await rm(dir, { recursive: true, force: true });
});

type Body = NonNullable<ConnectRequest['body']>;

/** A stream on which these are sent: what came, and the status that it ended with; null: it stands. */
function stream(...bodies: Body[]) {
  const call = channel.client(NodeServiceClient).connect({ deadline: Number.POSITIVE_INFINITY });
  const came: (string | undefined)[] = [];
  const state: { code: number | null } = { code: null };
  call.on('data', ({ body }: ConnectResponse) => came.push(body?.$case));
  call.on('error', () => undefined);
  call.on('status', ({ code }) => {
    state.code = code;
  });
  for (const body of bodies) call.write({ body });
  return { call, came, state };
}

const hello = (more: Partial<Hello> = {}): Body => ({
  $case: 'hello',
  value: { ...Hello.fromPartial({ driver: 'test', kinds: ['network'] }), ...more },
});
const capacity = { vcpus: 1, memoryMib: 1n, diskGib: 1n };

describe('a node’s garbage is INVALID_ARGUMENT', () => {
  const ref = { tenantId: 'acme', kind: 'network', id: newId() };
  const observed = (more: Partial<Observed>): Observed => ({
    ...Observed.fromPartial({ ref, revision: 1n, generation: 1n, phase: Phase.PHASE_READY }),
    ...more,
  });

  test.each<[string, Body[]]>([
    ['NUL in a label', [hello({ labels: { rack: 'a\0' } })]],
    ['NUL in a label’s name', [hello({ labels: { '\0': 'a' } })]],
    ['NUL in the driver’s name', [hello({ driver: '\0' })]],
    ['NUL in a kind', [hello({ kinds: ['\0'] })]],
    ['more CPUs than there are numbers', [hello({ capacity: { ...capacity, vcpus: 2 ** 32 - 1 } })]],
    ['more memory than there are numbers', [hello({ capacity: { ...capacity, memoryMib: 2n ** 64n - 1n } })]],
    ['an inventory with NUL', [hello({ inventory: [observed({ statusJson: '{"a":"\\u0000"}' })] })]],
    [
      'a report with NUL',
      [hello(), { $case: 'report', value: { items: [observed({ failure: { code: '\0', message: '' } })] } }],
    ],
    [
      'a revision of no number',
      [hello(), { $case: 'report', value: { items: [observed({ revision: 2n ** 64n - 1n })] } }],
    ],
    [
      'a heartbeat of no number',
      [hello(), { $case: 'heartbeat', value: { capacity: { ...capacity, diskGib: 2n ** 63n } } }],
    ],
    [
      'a deed’s result with NUL',
      [
        hello(),
        {
          $case: 'deedResult',
          value: { operationId: newId(), outcome: 1, failure: undefined, resultJson: '{"\\u0000":1}' },
        },
      ],
    ],
    ['no hello', [{ $case: 'heartbeat', value: { capacity } }]],
  ])('%s', async (_, bodies) => {
    const { state } = stream(...bodies);
    await expect.poll(() => state.code).toBe(status.INVALID_ARGUMENT);
    expect(unknown).toEqual([]);
  });
});

test('a stream that was taken over ends with its next heartbeat, and its capacity does not count', async () => {
  const { call, came, state } = stream(hello({ capacity }));
  await expect.poll(() => came).toContain('welcome');
  await sql`update node_session set session = session + 1, replica = 'elsewhere:1'`.execute(database.db.operator);
  call.write({ body: { $case: 'heartbeat', value: { capacity: { ...capacity, vcpus: 99 } } } });
  await expect.poll(() => state.code).toBe(status.OK);
  const nodes = await sql<{ vcpus: number; replica: string }>`
    select vcpus, replica from node join node_session on node_id = id`.execute(database.db.operator);
  expect(nodes.rows).toEqual([{ vcpus: 1, replica: 'elsewhere:1' }]);
});
