/** The contents that nodes bring, over real mutual TLS: only for a deed of one's own that has not ended, and as announced. */
import 'reflect-metadata';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { askDeed, NodeHub, type NodeSession, openSession, recordDeed } from '#libs/nodes';
import { initPki, issueCertificate, watchCredentials } from '#libs/pki';
import { KindRegistry } from '#libs/resources';
import {
  ContentOffsetRequest,
  createChannel,
  createRpcServer,
  DeedOutcome,
  NodeServiceClient,
  NodeServiceService,
  PutContentRequest,
  type PutContentResponse,
  type RpcChannel,
  type RpcServer,
} from '#libs/rpc';
import { type ContentLab, contentLab, type TestDatabase, testDatabase } from '#libs/testing';
import { NodeController } from './node.controller.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const TENANT = 'acme';
const content = randomBytes(100_000);

let dir: string;
let database: TestDatabase;
let lab: ContentLab;
let hub: NodeHub;
let server: RpcServer;
const channels: Record<string, RpcChannel> = {};
const sessions: Record<string, NodeSession> = {};

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-put-'));
  await initPki({ dir });
  database = await testDatabase();
  lab = await contentLab();
  const { db, listener } = database;
  await sql`insert into tenant (id, display_name) values (${TENANT}, 'A')`.execute(db.operator);
  const target = `unix:${join(dir, 'grpc.sock')}`;
  hub = new NodeHub(db, listener, new KindRegistry([]), { installationId: newId(), advertise: target, log: quiet });
  const controller = new NodeController(hub, lab.contents.store);
  const implementation = {
    contentOffset: (call: any, answer: any) =>
      controller.contentOffset(call.request, call.metadata, call).then(
        (response) => answer(null, response),
        (error) => answer({ code: status.NOT_FOUND, details: String(error) }),
      ),
    putContent: controller.putContent.bind(controller),
  };
  const credentials = await watchCredentials(
    await issueCertificate({ dir, type: 'server', name: 's', dns: ['localhost'] }),
  );
  server = await createRpcServer({
    listen: [target],
    credentials,
    services: [{ definition: NodeServiceService, implementation }],
  });
  for (const name of ['own', 'other']) {
    channels[name] = createChannel({
      target,
      credentials: await watchCredentials(await issueCertificate({ dir, type: 'node', name })),
    });
    const capacity = { vcpus: 1, memoryMiB: 1, diskGiB: 1 };
    const hello = { name, driver: 'test', agentVersion: '0', kinds: ['snapshot'], labels: {}, ...capacity };
    sessions[name] = await openSession(db, hello, target);
  }
});
afterAll(async () => {
  for (const channel of Object.values(channels)) channel.close();
  hub?.close();
  await server?.stop();
  await database?.close();
  await rm(dir, { recursive: true, force: true });
});

async function asked(verb = 'export'): Promise<string> {
  const id = newId();
  const snapshot = { tenantId: TENANT, id: newId(), kind: 'snapshot', name: 's', tags: {} };
  const deed = { id, nodeId: sessions.own!.nodeId, verb, repeatable: true };
  await database.db.tenantTransaction(TENANT, (tx) => askDeed(tx, snapshot, deed));
  return id;
}

const done = (operationId: string, by: string) =>
  recordDeed(database.db, sessions[by]!, {
    operationId,
    outcome: DeedOutcome.DEED_OUTCOME_DONE,
    failure: undefined,
    resultJson: '',
  });

/** Resolves with the digest, or with the code of the refusal. */
function put(node: string, operationId: string, more: Partial<PutContentRequest> = {}): Promise<string | number> {
  return new Promise((resolve) => {
    const client = channels[node]!.client(NodeServiceClient);
    const call = client.putContent(new Metadata(), { deadline: Date.now() + 10_000 }, (error, answer) =>
      resolve(error ? (error as ServiceError).code : (answer as PutContentResponse).sha256),
    );
    call.on('error', () => undefined);
    const sizeBytes = BigInt(content.length);
    call.write(PutContentRequest.fromPartial({ operationId, offset: 0n, sizeBytes, data: content, ...more }));
    call.end();
  });
}

const offset = (node: string, operationId: string) =>
  new Promise<bigint | number>((resolve) => {
    const request = ContentOffsetRequest.fromPartial({ operationId });
    channels[node]!.client(NodeServiceClient).contentOffset(request, new Metadata(), (error, answer) =>
      resolve(error ? error.code : answer!.offset),
    );
  });

const sha256 = createHash('sha256').update(content).digest('hex');
const parts = () => lab.contents.store.parts;

test('is taken from the node whose deed brings it, and from no other', async () => {
  const id = await asked();
  expect(await put('other', id)).toBe(status.NOT_FOUND);
  expect(await offset('other', id)).toBe(status.NOT_FOUND);
  expect(await parts().size(id)).toBe(0);
  expect(await put('own', id)).toBe(sha256);
  expect(await offset('own', id)).toBe(BigInt(content.length));
  await done(id, 'other');
  expect(await offset('own', id), 'another node does not end the deed').toBe(BigInt(content.length));
});

test('is not taken for a deed that has ended, is of another kind, or was never asked', async () => {
  const ended = await asked();
  expect(await put('own', ended)).toBe(sha256);
  await done(ended, 'own');
  expect(await put('own', ended, { data: randomBytes(content.length) })).toBe(status.NOT_FOUND);
  expect((await parts().digest(ended)).sha256).toBe(sha256);
  for (const id of [await asked('restore'), newId(), '', '../../x', `${newId()}\0`, 'x'.repeat(5_000)]) {
    expect(await put('own', id), id.slice(0, 40)).toBe(status.NOT_FOUND);
  }
});

test.each<[string, Partial<PutContentRequest>]>([
  ['more than it announces', { sizeBytes: 10n }],
  ['less', { data: Buffer.from('x') }],
  ['an offset beyond all that came', { offset: 2n ** 64n - 1n }],
  ['no size', { sizeBytes: 0n }],
  ['a size beyond all images', { sizeBytes: 2n ** 64n - 1n }],
])('that has %s is refused as the node’s fault', async (_, more) => {
  const code = await put('own', await asked(), more);
  expect(code).not.toBe(status.INTERNAL);
  expect(code).not.toBe(status.UNKNOWN);
  expect(typeof code).toBe('number');
});
