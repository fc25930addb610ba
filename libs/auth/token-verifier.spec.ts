/** Tokens made by hand against a key server of our own: which are taken, as whom, and for how long they are remembered. */
import { UnsecuredJWT } from 'jose';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { challengeOf, InvalidToken, parseBearer, type TokenVerifier } from './index.js';
import { type Change, now, TestKeyServer, reasonOf as why } from './test-key-server.js';

let server: TestKeyServer;
let verifier: TokenVerifier;

beforeAll(async () => {
  server = await TestKeyServer.start();
});

afterAll(() => server.stop());

beforeEach(async () => {
  await server.reset();
  verifier = server.verifier();
});

const sign = (change?: Change) => server.sign(change);
const reasonOf = (token: string) => why(token, verifier);

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
    expect(await reasonOf(await sign({ header, claims, key: server.ec.privateKey }))).toBe('accepted');
  });

  it('no roles and no scopes as an actor who may nothing', async () => {
    const actor = await verifier.verify(await sign({ claims: { realm_access: undefined } }));
    expect(actor).toMatchObject({ roles: [], scopes: null });
  });

  it('the audience and the keys that the issuer’s row names', async () => {
    server.knows({ audience: 'other', jwksUri: `${server.base}/certs` });
    expect(await reasonOf(await sign({ claims: { aud: 'other' } }))).toBe('accepted');
    expect(await reasonOf(await sign())).toBe('wrong_audience');
    expect(server.asked).toEqual(['/certs']);
  });
});

describe('refuses', () => {
  const cases: Record<string, [string, () => Promise<string> | string]> = {
    'an expired token': ['expired', () => sign({ claims: { exp: now() - 1 } })],
    'a token without exp': ['claim', () => sign({ claims: { exp: undefined } })],
    'an absurd exp': ['claim', () => sign({ claims: { exp: 1e300 } })],
    'another audience': ['wrong_audience', () => sign({ claims: { aud: 'account' } })],
    'no audience': ['wrong_audience', () => sign({ claims: { aud: undefined } }).catch(String)],
    'an unknown issuer': ['unknown_issuer', () => sign({ claims: { iss: `${server.issuer}/` } })],
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
    'another’s key with a known kid': ['signature', () => sign({ key: server.stranger.privateKey })],
    'an unknown kid': ['unknown_key', () => sign({ header: { kid: 'nope' } })],
    'a kid of another key type': ['unknown_key', () => sign({ header: { alg: 'ES256' }, key: server.ec.privateKey })],
    'alg none': [
      'algorithm',
      () => new UnsecuredJWT({ iss: server.issuer, sub: 'alice', aud: 'urn:rhyzome:api' }).encode(),
    ],
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
    const payload = btoa(JSON.stringify({ iss: server.issuer, sub: 'root', aud: 'urn:rhyzome:api', exp: now() + 60 }));
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
    expect(server.asked).toHaveLength(2);
  });

  it('but not past its expiry', async () => {
    const token = await sign({ claims: { exp: now() + 2 } });
    await verifier.verify(token);
    await new Promise((resolve) => setTimeout(resolve, 2100));
    expect(await reasonOf(token)).toBe('expired');
  });

  it('but not when the tenant is suspended, the issuer removed or the audience changed', async () => {
    const token = await sign();
    await verifier.verify(token);
    server.knows({ tenantState: 'suspended' });
    expect(await reasonOf(token)).toBe('tenant_suspended');
    server.knows({ audience: 'other' });
    expect(await reasonOf(token)).toBe('wrong_audience');
    server.knows();
    expect(await reasonOf(token)).toBe('unknown_issuer');
  });

  it('a bounded number', async () => {
    verifier = server.verifier({ maxCached: 1 });
    const [one, two] = [await sign(), await sign({ claims: { sub: 'bob' } })];
    for (const token of [one, two, one]) await verifier.verify(token);
    expect(verifier.counts).toMatchObject({ verified: 3, remembered: 0 });
  });
});
