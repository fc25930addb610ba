/** Tokens made by hand against a key server of our own that can rotate keys and go away. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type CryptoKey, exportJWK, generateKeyPair, type JWTPayload, SignJWT, UnsecuredJWT } from 'jose';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { IssuerEntry } from '#libs/tenants';
import { challengeOf, InvalidToken, parseBearer, TokenVerifier } from './index.js';

type Keys = Awaited<ReturnType<typeof generateKeyPair>>;

let server: Server;
let base: string;
let issuer: string;
let rsa: Keys;
let ec: Keys;
let stranger: Keys;
/** What the issuer publishes, and whether it answers. */
let published: Record<string, unknown>[];
let isAway = false;
const asked: string[] = [];

const publicJwk = async (keys: Keys, kid: string, alg: string) => ({
  ...(await exportJWK(keys.publicKey)),
  kid,
  alg,
  use: 'sig',
});

beforeAll(async () => {
  server = createServer((request, response) => {
    asked.push(request.url ?? '');
    if (isAway) return void response.writeHead(503).end();
    const isKeys = request.url?.endsWith('/certs');
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(isKeys ? { keys: published } : { issuer, jwks_uri: `${base}/certs` }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  issuer = `${base}/realms/acme`;
  [rsa, ec, stranger] = await Promise.all([
    generateKeyPair('RS256', { extractable: true }),
    generateKeyPair('ES256', { extractable: true }),
    generateKeyPair('RS256', { extractable: true }),
  ]);
});

afterAll(() => {
  server.closeAllConnections();
  server.close();
});

let entries: Map<string, IssuerEntry>;
let verifier: TokenVerifier;

beforeEach(async () => {
  isAway = false;
  asked.length = 0;
  published = [await publicJwk(rsa, 'rsa', 'RS256'), await publicJwk(ec, 'ec', 'ES256')];
  entries = new Map([[issuer, { tenantId: 'acme', tenantState: 'active', audience: null, jwksUri: null }]]);
  verifier = makeVerifier();
});

const makeVerifier = (options = {}) =>
  new TokenVerifier({ directory: { find: (iss) => entries.get(iss) }, audience: 'urn:rhyzome:api', ...options });

const now = () => Math.floor(Date.now() / 1000);

interface Change {
  header?: Record<string, unknown>;
  claims?: JWTPayload;
  key?: CryptoKey | Uint8Array;
}

function sign({ header = {}, claims = {}, key = rsa.privateKey }: Change = {}): Promise<string> {
  const payload = {
    iss: issuer,
    sub: 'alice',
    aud: 'urn:rhyzome:api',
    iat: now(),
    exp: now() + 60,
    realm_access: { roles: ['operator', 'offline_access', 'admin'] },
    ...claims,
  };
  return new SignJWT(payload).setProtectedHeader({ alg: 'RS256', kid: 'rsa', typ: 'JWT', ...header }).sign(key);
}

async function reasonOf(token: string, by = verifier): Promise<string> {
  const error = await by.verify(token).catch((caught: unknown) => caught);
  if (error instanceof InvalidToken) return error.reason;
  return (error as { code?: string }).code ?? 'accepted';
}

describe('accepts', () => {
  it('Keycloak’s shape', async () => {
    const claims = { aud: ['account', 'urn:rhyzome:api'], typ: 'Bearer', scope: 'openid network:read', name: 'Alice' };
    const actor = await verifier.verify(await sign({ claims }));
    expect(actor).toMatchObject({
      tenantId: 'acme',
      subject: 'alice',
      name: 'Alice',
      roles: ['admin', 'operator'],
      scopes: [{ kind: 'network', verb: 'read' }],
      via: 'token',
    });
    expect(actor.tokenExpiresAt!.getTime()).toBeGreaterThan(Date.now());
  });

  it('RFC 9068’s shape, ES256, a clock that is a little off', async () => {
    const header = { typ: 'application/at+jwt', alg: 'ES256', kid: 'ec' };
    const claims = { iat: now() + 20, nbf: now() + 20 };
    expect(await reasonOf(await sign({ header, claims, key: ec.privateKey }))).toBe('accepted');
  });

  it('no roles and no scopes as an actor who may nothing', async () => {
    const actor = await verifier.verify(await sign({ claims: { realm_access: undefined } }));
    expect(actor).toMatchObject({ roles: [], scopes: null });
  });

  it('the audience and the keys that the issuer’s row names', async () => {
    entries.set(issuer, { tenantId: 'acme', tenantState: 'active', audience: 'other', jwksUri: `${base}/certs` });
    expect(await reasonOf(await sign({ claims: { aud: 'other' } }))).toBe('accepted');
    expect(await reasonOf(await sign())).toBe('wrong_audience');
    expect(asked).toEqual(['/certs']);
  });
});

describe('refuses', () => {
  const cases: Record<string, [string, () => Promise<string> | string]> = {
    'an expired token': ['expired', () => sign({ claims: { exp: now() - 1 } })],
    'a token without exp': ['claim', () => sign({ claims: { exp: undefined } })],
    'an absurd exp': ['claim', () => sign({ claims: { exp: 1e300 } })],
    'another audience': ['wrong_audience', () => sign({ claims: { aud: 'account' } })],
    'no audience': ['wrong_audience', () => sign({ claims: { aud: undefined } }).catch(String)],
    'an unknown issuer': ['unknown_issuer', () => sign({ claims: { iss: `${issuer}/` } })],
    'no issuer': ['unknown_issuer', () => sign({ claims: { iss: undefined } })],
    'a future nbf': ['not_yet_valid', () => sign({ claims: { nbf: now() + 120 } })],
    'a future iat': ['not_yet_valid', () => sign({ claims: { iat: now() + 120 } })],
    'no sub': ['claim', () => sign({ claims: { sub: undefined } })],
    'an endless sub': ['claim', () => sign({ claims: { sub: 'x'.repeat(300) } })],
    'a sub that looks like an administrator': ['claim', () => sign({ claims: { sub: 'admin:root' } })],
    'a sub with a NUL': ['claim', () => sign({ claims: { sub: 'a\u0000b' } })],
    'an ID token of Keycloak': ['wrong_type', () => sign({ claims: { typ: 'ID' } })],
    'a refresh token': ['wrong_type', () => sign({ claims: { typ: 'Refresh' } })],
    'a logout token': ['wrong_type', () => sign({ header: { typ: 'logout+jwt' } })],
    'no typ': ['wrong_type', () => sign({ header: { typ: undefined } })],
    'a key-bound token': ['bound', () => sign({ claims: { cnf: { jkt: 'x' } } })],
    'another’s key with a known kid': ['signature', () => sign({ key: stranger.privateKey })],
    'an unknown kid': ['unknown_key', () => sign({ header: { kid: 'nope' } })],
    'a kid of another key type': ['unknown_key', () => sign({ header: { alg: 'ES256' }, key: ec.privateKey })],
    'alg none': ['algorithm', () => new UnsecuredJWT({ iss: issuer, sub: 'alice', aud: 'urn:rhyzome:api' }).encode()],
    HS256: ['algorithm', () => sign({ header: { alg: 'HS256' }, key: new Uint8Array(32) })],
    'a huge token': ['too_large', () => sign({ claims: { pad: 'x'.repeat(20_000) } })],
    'no JWT': ['malformed', () => 'abc'],
    'dots only': ['malformed', () => '..'],
    'a header that is no JSON': ['malformed', () => `${btoa('{')}.${btoa('{}')}.x`],
    'a header that is null': ['malformed', () => `${btoa('null')}.${btoa('{}')}.x`],
  };
  it.each(Object.entries(cases))('%s', async (_name, [reason, make]) => {
    expect(await reasonOf(await make())).toBe(reason);
  });

  it('a token whose payload was changed', async () => {
    const [header, , signature] = (await sign()).split('.');
    const payload = btoa(JSON.stringify({ iss: issuer, sub: 'root', aud: 'urn:rhyzome:api', exp: now() + 60 }));
    expect(await reasonOf(`${header}.${payload.replaceAll('=', '')}.${signature}`)).toBe('signature');
  });

  it('with a challenge that says why', async () => {
    const error = await verifier.verify(await sign({ claims: { exp: now() - 5 } })).catch((caught: unknown) => caught);
    expect(challengeOf(error)).toBe(
      'Bearer realm="rhyzome", error="invalid_token", error_description="The token has expired."',
    );
    expect(() => parseBearer(undefined)).toThrow(InvalidToken);
    expect(() => parseBearer('Basic abc')).toThrow(InvalidToken);
    expect(parseBearer('bearer a.b.c')).toBe('a.b.c');
  });
});

describe('remembers', () => {
  it('a verified token without checking it again', async () => {
    const token = await sign();
    const first = await verifier.verify(token);
    expect(await verifier.verify(token)).toBe(first);
    expect(verifier.counts).toMatchObject({ verified: 1, remembered: 1 });
    expect(asked).toHaveLength(2);
  });

  it('but not past its expiry', async () => {
    const token = await sign({ claims: { exp: now() + 1 } });
    await verifier.verify(token);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    expect(await reasonOf(token)).toBe('expired');
  });

  it('but not when the tenant is suspended, the issuer removed or the audience changed', async () => {
    const token = await sign();
    await verifier.verify(token);
    const entry = entries.get(issuer)!;
    entries.set(issuer, { ...entry, tenantState: 'suspended' });
    expect(await reasonOf(token)).toBe('tenant_suspended');
    entries.set(issuer, { ...entry, audience: 'other' });
    expect(await reasonOf(token)).toBe('wrong_audience');
    entries.delete(issuer);
    expect(await reasonOf(token)).toBe('unknown_issuer');
  });

  it('but not when its key is withdrawn', async () => {
    verifier = makeVerifier({ refreshMs: 0 });
    const token = await sign();
    await verifier.verify(token);
    published = published.filter((key) => key.kid !== 'rsa');
    await verifier.verify(token); // starts reading the keys in the background
    await expect.poll(() => reasonOf(token)).toBe('unknown_key');
  });

  it('a bounded number', async () => {
    verifier = makeVerifier({ maxCached: 1 });
    const [one, two] = [await sign(), await sign({ claims: { sub: 'bob' } })];
    for (const token of [one, two, one]) await verifier.verify(token);
    expect(verifier.counts).toMatchObject({ verified: 3, remembered: 0 });
  });
});

describe('the identity provider', () => {
  it('away before its keys are known: 503, asked again after a pause only', async () => {
    verifier = makeVerifier({ retryMs: 50 });
    isAway = true;
    expect(await reasonOf(await sign())).toBe('identity_provider_unavailable');
    expect(await reasonOf(await sign())).toBe('identity_provider_unavailable');
    expect(asked).toHaveLength(1);
    isAway = false;
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(await reasonOf(await sign())).toBe('accepted');
  });

  it('away afterwards: its keys serve on', async () => {
    verifier = makeVerifier({ refreshMs: 0, retryMs: 0 });
    await verifier.verify(await sign());
    isAway = true;
    for (let i = 0; i < 5; i++) expect(await reasonOf(await sign({ claims: { sub: `user${i}` } }))).toBe('accepted');
  });

  it('with a key among others that nobody can use', async () => {
    published = [{ kty: 'RSA', kid: 'broken' }, { kty: 'XYZ' }, ...published];
    const token = await sign();
    expect(await reasonOf(token)).toBe('accepted');
    expect(await reasonOf(token)).toBe('accepted');
    expect(verifier.counts.remembered).toBe(1);
  });

  it('with a new key: found at once after the cooldown', async () => {
    verifier = makeVerifier({ cooldownMs: 0 });
    await verifier.verify(await sign());
    published = [await publicJwk(stranger, 'new', 'RS256')];
    expect(await reasonOf(await sign({ header: { kid: 'new' }, key: stranger.privateKey }))).toBe('accepted');
  });

  it('is not asked for every unknown key', async () => {
    await verifier.verify(await sign());
    const before = asked.length;
    for (let i = 0; i < 20; i++) await reasonOf(await sign({ header: { kid: `k${i}` } }));
    expect(asked.length - before).toBeLessThanOrEqual(1);
  });

  it('over http that is not loopback is not asked at all', async () => {
    const far = 'http://id.example/realms/acme';
    entries.set(far, { tenantId: 'acme', tenantState: 'active', audience: null, jwksUri: null });
    expect(await reasonOf(await sign({ claims: { iss: far } }))).toBe('identity_provider_unavailable');
  });
});
