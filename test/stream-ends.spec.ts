/** Streams of a running stack end when their caller may no longer be there, soon, and say why. */
import * as grpc from '@grpc/grpc-js';
import { beforeAll, describe, expect, it } from 'vitest';
import { ResourceServiceClient, type WatchResponse } from '#libs/rpc';
import { apiOf, type Client, clientWith } from './harness/client.js';
import { ConsoleClient } from './harness/console.js';
import { EventStream } from './harness/events.js';
import { channelOf, issue, rhyzome } from './harness/grpc.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { goodClaims, signed } from './harness/tokens.js';
import { until } from './harness/until.js';

/** What is promised is about a second; machines that run all tests at once are slow. */
const SOON_MS = 4_000;

let stack: Stack;
beforeAll(async () => {
  stack = await stackNamed('walls', { driver: 'sim', tenants: ['acme', 'globex'] });
}, 120_000);

async function clientOf(tenant: string, claims: object): Promise<Client> {
  return clientWith(stack.dev.api, await signed(stack, tenant, { ...goodClaims(stack, tenant), ...claims }));
}

/** Milliseconds until it is true. */
async function timeUntil(what: string, isSo: () => boolean): Promise<number> {
  const began = Date.now();
  await until(what, isSo, 20_000);
  return Date.now() - began;
}

const last = (stream: EventStream) => stream.seen.at(-1);

describe('an event stream', () => {
  it('ends with its token, at that moment', async () => {
    const exp = Math.floor(Date.now() / 1000) + 4;
    const stream = await EventStream.open(stack.dev.api, await clientOf('acme', { exp }));
    await until('the end', () => stream.hasEnded, 20_000);
    expect(Date.now()).toBeGreaterThanOrEqual(exp * 1000);
    expect(Date.now() - exp * 1000).toBeLessThan(SOON_MS);
    expect(last(stream)).toMatchObject({ type: 'end', data: { code: 'unauthenticated', reason: 'expired' } });
  });

  it('and every other of the tenant ends when it is suspended, and no other tenant’s', async () => {
    const mine = await Promise.all(
      [1, 2].map(async () => EventStream.open(stack.dev.api, await apiOf(stack, 'globex'))),
    );
    const other = await EventStream.open(stack.dev.api, await apiOf(stack, 'acme'));
    const service = await channelOf(stack);
    const ended = watching(service, 'globex');
    await rhyzome(stack, 'tenant', 'update', 'globex', '--suspend');
    try {
      expect(await timeUntil('the ends', () => mine.every(({ hasEnded }) => hasEnded))).toBeLessThan(SOON_MS);
      expect(last(mine[0]!)).toMatchObject({ type: 'end', data: { reason: 'tenant_suspended' } });
      expect(await ended).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
      expect(other.hasEnded).toBe(false);
    } finally {
      await rhyzome(stack, 'tenant', 'update', 'globex', '--activate');
      await other.close();
      service.close();
    }
    await until(
      'it may come again',
      async () => (await (await apiOf(stack, 'globex')).get('/v1/networks')).status === 200,
    );
  });

  it('of an API token ends when that is revoked', async () => {
    const admin = await apiOf(stack, 'acme');
    const made = await admin.post('/v1/apitokens?wait=30s', { name: 'short-lived' });
    if (made.status >= 400) throw new Error(made.text);
    const stream = await EventStream.open(stack.dev.api, clientWith(stack.dev.api, made.body.token));
    await admin.remove('apitokens', 'short-lived');
    expect(await timeUntil('the end', () => stream.hasEnded)).toBeLessThan(SOON_MS);
    expect(last(stream)).toMatchObject({ type: 'end', data: { code: 'unauthenticated' } });
  });
});

describe('an event stream of a user', () => {
  it('ends when the user is disabled', async () => {
    const admin = await apiOf(stack, 'acme');
    const { subject } = await admin.make('users', { name: 'leaver', role: 'viewer' });
    const user = await clientOf('acme', { sub: subject, realm_access: { roles: ['viewer'] } });
    const stream = await EventStream.open(stack.dev.api, user);
    const disabled = await admin.post('/v1/users/leaver/disable', {});
    expect(disabled.status).toBe(202);
    expect(await timeUntil('the end', () => stream.hasEnded)).toBeLessThan(SOON_MS);
    expect(last(stream)).toMatchObject({ type: 'end', data: { code: 'unauthenticated', reason: 'subject_disabled' } });
    await admin.get(`/v1/jobs/${disabled.body.job.id}?wait=30s`);
    await admin.remove('users', 'leaver');
  }, 60_000);
});

describe('a console', () => {
  it('ends with its token', async () => {
    const admin = await apiOf(stack, 'acme');
    await admin.make('networks', { name: 'ends', subnet: '10.77.0.0/24' });
    const { id } = await admin.make('instances', {
      name: 'ends',
      image: 'tiny',
      vcpus: 1,
      memoryMiB: 64,
      interfaces: [{ network: 'ends' }],
    });
    try {
      const exp = Math.floor(Date.now() / 1000) + 5;
      const { token } = await clientOf('acme', { exp });
      const console = await ConsoleClient.attach(stack.dev.api, token, id);
      await until('its end', () => console.code !== 0, 20_000);
      expect(console).toMatchObject({ code: 1008, reason: expect.stringMatching(/^unauthenticated: /) });
      expect(Math.abs(Date.now() - exp * 1000)).toBeLessThan(SOON_MS);
    } finally {
      await admin.remove('instances', 'ends');
      await admin.remove('networks', 'ends');
    }
  }, 60_000);
});

/** The error that a service's Watch ends with. */
function watching(channel: Awaited<ReturnType<typeof channelOf>>, tenantId: string): Promise<grpc.ServiceError> {
  const watch = channel.client(ResourceServiceClient).watch({ tenantId, since: '', kind: '', tagSelector: '' }, {
    deadline: Date.now() + 60_000,
  } as never);
  return new Promise((resolve) => {
    watch.on('data', (_: WatchResponse) => undefined);
    watch.on('error', (error: unknown) => resolve(error as grpc.ServiceError));
  });
}

describe('a service’s Watch', () => {
  it.each([
    ['is removed', ['service', 'remove', 'watcher']],
    ['loses the tenant', ['service', 'update', 'watcher', '--tenants', 'globex']],
  ])('ends when the service %s', async (_, command) => {
    await rhyzome(stack, 'service', 'create', 'watcher', '--tenants', 'acme', '--verbs', '*:read', '--replace');
    const channel = await channelOf(stack, await issue(stack, 'service', 'watcher'));
    const ended = watching(channel, 'acme');
    // It goes on until then.
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    const began = Date.now();
    await rhyzome(stack, ...command);
    expect(await ended).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
    expect(Date.now() - began).toBeLessThan(SOON_MS + 4_000); // the command’s own start, too
    channel.close();
  });
});
