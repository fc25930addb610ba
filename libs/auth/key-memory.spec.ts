/** Servers that start while an identity provider is away: whose keys they take tokens by, and whose not. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createTenant } from '#libs/tenants';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { type KeyMemory, StoredKeys } from './key-memory.js';
import { publicJwk, reasonOf, TestKeyServer } from './test-key-server.js';

let server: TestKeyServer;
let database: TestDatabase;
beforeAll(async () => {
  [server, database] = [await TestKeyServer.start(), await testDatabase()];
  const issuers = [{ issuer: server.issuer, audience: null, jwksUri: null }];
  await database.db.operatorTransaction((tx) => createTenant(tx, { id: 'keys', displayName: 'Keys', issuers }));
});
afterAll(async () => {
  server?.stop();
  await database?.close();
});
beforeEach(() => server.reset());

/** Another process, with the same database. */
const another = (options: { maxAgeMs?: number; writeMs?: number } = {}) => new StoredKeys(database.db, options);
const stored = (memory: KeyMemory = another()) => memory.recall(server.issuer);
const keysRead = (kids: string[]) =>
  expect
    .poll(async () => ((await stored())?.jwks as { keys: { kid: string }[] })?.keys.map(({ kid }) => kid))
    .toEqual(kids);

describe('a server that starts while the identity provider is away', () => {
  it('takes tokens by the keys that another read', async () => {
    const token = await server.sign();
    await server.verifier({ memory: another() }).verify(token);
    await keysRead(['rsa', 'ec']);
    server.mood = 'away';
    const fresh = server.verifier({ memory: another() });
    expect(await reasonOf(token, fresh)).toBe('accepted');
    expect(await reasonOf(token, fresh)).toBe('accepted');
    expect(fresh.counts).toMatchObject({ verified: 1, remembered: 1 });
    const forged = await server.sign({ key: server.stranger.privateKey });
    expect(await reasonOf(forged, fresh)).toBe('signature');
    const unknown = await server.sign({ header: { kid: 'other' }, key: server.stranger.privateKey });
    expect(await reasonOf(unknown, fresh)).toBe('identity_provider_unavailable');
  });

  it('does not wait long for one that hangs', async () => {
    const token = await server.sign();
    await server.verifier({ memory: another() }).verify(token);
    await keysRead(['rsa', 'ec']);
    server.mood = 'silent';
    const fresh = server.verifier({ memory: another(), httpTimeoutMs: 60_000, staleWaitMs: 200 });
    expect(await reasonOf(token, fresh)).toBe('accepted');
    server.mood = 'well';
  });

  it('reads them itself as soon as it can, and refuses what was withdrawn', async () => {
    const token = await server.sign();
    await server.verifier({ memory: another() }).verify(token);
    await keysRead(['rsa', 'ec']);
    server.mood = 'away';
    const fresh = server.verifier({ memory: another(), refreshMs: 20, retryMs: 20 });
    expect(await reasonOf(token, fresh)).toBe('accepted');
    server.published = [await publicJwk(server.ec, 'ec', 'ES256')];
    server.mood = 'well';
    await expect.poll(() => reasonOf(token, fresh), { timeout: 5000 }).toBe('unknown_key');
    await keysRead(['ec']);
  });

  it('does not take keys that are too old, or of another address than the administrator gave', async () => {
    const token = await server.sign();
    await server.verifier({ memory: another() }).verify(token);
    await keysRead(['rsa', 'ec']);
    server.mood = 'away';
    expect(await reasonOf(token, server.verifier({ memory: another({ maxAgeMs: 0 }) }))).toBe(
      'identity_provider_unavailable',
    );
    server.knows({ jwksUri: `${server.base}/elsewhere/certs` });
    expect(await reasonOf(token, server.verifier({ memory: another() }))).toBe('identity_provider_unavailable');
  });
});

describe('what is written down', () => {
  it('is of issuers of tenants only, and goes with them', async () => {
    const memory = another();
    const keys = { jwksUri: 'https://elsewhere.example/certs', jwks: { keys: [] } };
    await memory.remember('https://elsewhere.example', keys);
    expect(await memory.recall('https://elsewhere.example')).toBeUndefined();
  });

  it('is written again when it changed, and otherwise now and then', async () => {
    const age = async () =>
      (await database.db.operator.selectFrom('issuer_keys').select('read_at').executeTakeFirstOrThrow()).read_at;
    const keys = { jwksUri: `${server.base}/certs`, jwks: { keys: [] } };
    const memory = another({ writeMs: 600_000 });
    await memory.remember(server.issuer, keys);
    const first = await age();
    await memory.remember(server.issuer, { ...keys, jwks: { keys: [] } });
    expect(await age()).toEqual(first);
    await memory.remember(server.issuer, { ...keys, jwks: { keys: [{ kid: 'new' }] } });
    expect((await age()).getTime()).toBeGreaterThan(first.getTime());
    expect(await stored()).toMatchObject({ jwks: { keys: [{ kid: 'new' }] } });
  });

  it('never fails a request', async () => {
    const errors: unknown[] = [];
    const memory = new StoredKeys(database.db, { onError: (error) => errors.push(error) });
    await memory.remember(server.issuer, { jwksUri: 'x'.repeat(3000), jwks: { keys: [] } });
    expect(errors).toHaveLength(1);
  });
});
