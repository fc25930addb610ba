/** Keys that come, go and cannot be had: what of it tokens notice, and how often the identity provider is asked. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { publicJwk, reasonOf, TestKeyServer } from './test-key-server.js';

let server: TestKeyServer;
beforeAll(async () => {
  server = await TestKeyServer.start();
});
afterAll(() => server.stop());
beforeEach(() => server.reset());

const reads = () => server.asked.filter((url) => url === '/certs').length;
const signedWithNew = () => server.sign({ header: { kid: 'new' }, key: server.stranger.privateKey });
const withdraw = (kid: string) => {
  server.published = server.published.filter((key) => key.kid !== kid);
};

describe('a new key', () => {
  it('is found with its first token, also right after another read, for all that come at once', async () => {
    const verifier = server.verifier();
    await verifier.verify(await server.sign());
    server.published.push(await publicJwk(server.stranger, 'new', 'RS256'));
    const tokens = await Promise.all(Array.from({ length: 20 }, signedWithNew));
    const found = await Promise.all(tokens.map((token) => reasonOf(token, verifier)));
    expect(new Set(found)).toEqual(new Set(['accepted']));
    expect(reads()).toBe(2);
  });

  it('that nobody publishes makes nobody ask again and again', async () => {
    const verifier = server.verifier();
    await verifier.verify(await server.sign());
    for (let i = 0; i < 20; i++) {
      expect(await reasonOf(await server.sign({ header: { kid: `k${i}` } }), verifier)).toBe('unknown_key');
    }
    expect(reads()).toBeLessThanOrEqual(4);
  });

  it('is found again some time after keys were made up', async () => {
    const verifier = server.verifier({ cooldownMs: 50 });
    for (let i = 0; i < 20; i++) await reasonOf(await server.sign({ header: { kid: `k${i}` } }), verifier);
    server.published.push(await publicJwk(server.stranger, 'new', 'RS256'));
    await sleep(60);
    expect(await reasonOf(await signedWithNew(), verifier)).toBe('accepted');
  });
});

describe('a withdrawn key', () => {
  it('is refused soon while tokens come, also those that were taken before', async () => {
    const verifier = server.verifier({ refreshMs: 40 });
    const [old, kept] = [
      await server.sign(),
      await server.sign({ header: { alg: 'ES256', kid: 'ec' }, key: server.ec.privateKey }),
    ];
    await verifier.verify(old);
    withdraw('rsa');
    await expect.poll(() => reasonOf(old, verifier), { timeout: 5000 }).toBe('unknown_key');
    expect(await reasonOf(kept, verifier)).toBe('accepted');
  });

  it('is noticed in the background, not by a request that waits', async () => {
    const verifier = server.verifier({ refreshMs: 20 });
    await verifier.verify(await server.sign());
    await expect.poll(reads, { timeout: 5000 }).toBeGreaterThan(3);
    expect(verifier.counts.verified).toBe(1);
  });

  it('is refused at the first token after a quiet time', async () => {
    const verifier = server.verifier({ staleMs: 30 });
    const token = await server.sign();
    await verifier.verify(token);
    withdraw('rsa');
    expect(await reasonOf(token, verifier)).toBe('accepted');
    await sleep(40);
    expect(await reasonOf(token, verifier)).toBe('unknown_key');
  });

  it('is nobody’s business once no tokens come', async () => {
    const verifier = server.verifier({ refreshMs: 10, idleMs: 50 });
    await verifier.verify(await server.sign());
    await sleep(150);
    const before = reads();
    await sleep(150);
    expect(reads()).toBe(before);
  });

  it('that is published again is taken again', async () => {
    const verifier = server.verifier({ staleMs: 0 });
    const token = await server.sign();
    const all = server.published;
    withdraw('rsa');
    expect(await reasonOf(token, verifier)).toBe('unknown_key');
    server.published = all;
    expect(await reasonOf(token, verifier)).toBe('accepted');
  });
});

describe('an identity provider', () => {
  it('away before its keys are known: 503, asked again after a pause only', async () => {
    const verifier = server.verifier({ retryMs: 50 });
    server.mood = 'away';
    expect(await reasonOf(await server.sign(), verifier)).toBe('identity_provider_unavailable');
    expect(await reasonOf(await server.sign(), verifier)).toBe('identity_provider_unavailable');
    expect(server.asked).toHaveLength(1);
    server.mood = 'well';
    await sleep(60);
    expect(await reasonOf(await server.sign(), verifier)).toBe('accepted');
  });

  it('away afterwards: its keys serve on, for tokens that were never seen, too', async () => {
    const verifier = server.verifier({ refreshMs: 5, staleMs: 0, retryMs: 0 });
    await verifier.verify(await server.sign());
    server.mood = 'away';
    for (let i = 0; i < 5; i++) {
      expect(await reasonOf(await server.sign({ claims: { sub: `user${i}` } }), verifier)).toBe('accepted');
    }
  });

  it('that does not answer holds one request up for a moment, and the next not at all', async () => {
    const verifier = server.verifier({ staleMs: 300, staleWaitMs: 100, httpTimeoutMs: 150, retryMs: 50 });
    const token = await server.sign();
    await verifier.verify(token);
    await sleep(310);
    server.mood = 'silent';
    const started = performance.now();
    expect(await reasonOf(token, verifier)).toBe('accepted');
    expect(performance.now() - started).toBeGreaterThan(90);
    await sleep(100);
    const [before, next] = [reads(), performance.now()];
    for (let i = 0; i < 10; i++) expect(await reasonOf(token, verifier)).toBe('accepted');
    expect(performance.now() - next).toBeLessThan(90);
    expect(reads() - before).toBeLessThanOrEqual(1);
    server.mood = 'well';
  });

  it('that is back is asked in the background, and what it withdrew meanwhile is refused', async () => {
    const verifier = server.verifier({ refreshMs: 20, retryMs: 20 });
    const token = await server.sign();
    await verifier.verify(token);
    server.mood = 'away';
    const before = reads();
    await expect.poll(reads, { timeout: 5000 }).toBeGreaterThan(before + 1);
    withdraw('rsa');
    expect(await reasonOf(token, verifier)).toBe('accepted');
    server.mood = 'well';
    await expect.poll(() => reasonOf(token, verifier), { timeout: 5000 }).toBe('unknown_key');
  });

  it('with keys among others that nobody can use', async () => {
    const verifier = server.verifier();
    server.published = [{ kty: 'RSA', kid: 'broken' }, { kty: 'XYZ' }, ...server.published];
    const token = await server.sign();
    expect(await reasonOf(token, verifier)).toBe('accepted');
    expect(await reasonOf(token, verifier)).toBe('accepted');
    expect(verifier.counts.remembered).toBe(1);
  });

  it('that answers with something else than keys changes nothing', async () => {
    const verifier = server.verifier({ staleMs: 0, retryMs: 0 });
    const token = await server.sign();
    await verifier.verify(token);
    server.published = [null, 'x'] as never;
    expect(await reasonOf(token, verifier)).toBe('accepted');
  });

  it('over http that is not loopback is not asked at all', async () => {
    const iss = 'http://id.example/realms/acme';
    server.knows({ issuer: iss });
    expect(await reasonOf(await server.sign({ claims: { iss } }), server.verifier())).toBe(
      'identity_provider_unavailable',
    );
  });
});
