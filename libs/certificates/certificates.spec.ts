/** Tokens, renewals and revocations on a real database, beside each other and after what went wrong. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CertificateIssuer, type CheckedRequest, checkRequest, initPki, requestForNextKey } from '#libs/pki';
import { type TestDatabase, testDatabase } from '#libs/testing';
import {
  createToken,
  enroll,
  listCertificates,
  RevocationList,
  renew,
  revokeHolder,
  revokeSerial,
  revokeToken,
  serialFrom,
  successorsOf,
  takeOverRevocations,
} from './index.js';

const trustDomain = 'rhyzome.internal';
const by = 'admin:test';
const quiet = { warn: (_: object, message: string) => expect.unreachable(message) };

let database: TestDatabase;
let dir: string;
let issuer: CertificateIssuer;
let count = 0;

beforeAll(async () => {
  database = await testDatabase();
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-certificates-'));
  const { ca: cert, caKey: key } = await initPki({ dir });
  issuer = await CertificateIssuer.open({ cert, key, ca: cert, trustDomain, validityMs: 3_600_000 });
});
afterAll(async () => {
  await database?.close();
  await rm(dir, { recursive: true });
});

async function request(): Promise<CheckedRequest> {
  const at = join(dir, `${++count}`);
  return checkRequest(await requestForNextKey({ ca: at, cert: at, key: at }));
}

const inTx: TestDatabase['db']['operatorTransaction'] = (work) => database.db.operatorTransaction(work);
const made = (nodeName: string, lifeMs = 60_000) =>
  inTx((tx) => createToken(tx, { nodeName, labels: { zone: 'a' }, lifeMs, by }));
const taking = (token: string, asked: CheckedRequest, nodeName = '') =>
  enroll(database.db, issuer, { token, request: asked, nodeName, source: '192.0.2.1' });
const certificatesOf = (name: string) => inTx((tx) => listCertificates(tx, { name, all: true }));

/** The holder's newest certificate as a peer shows it. */
async function shownBy(name: string) {
  const [newest] = await certificatesOf(name);
  const { serial, notBefore } = newest!;
  return { type: 'node' as const, name, trustDomain, serial, notBefore };
}

async function enrolled(name: string) {
  const { token } = await made(name);
  await taking(token, await request());
  return shownBy(name);
}

const code = (work: Promise<unknown>) =>
  work.then(
    () => 'done',
    (error) => error.code,
  );

describe('a token', () => {
  test('gives one certificate, to the first of many keys that come at once', async () => {
    const { token, view } = await made('many');
    const keys = await Promise.all(Array.from({ length: 8 }, request));
    const outcomes = await Promise.all(keys.map((key) => code(taking(token, key))));
    expect(outcomes.filter((outcome) => outcome === 'done')).toHaveLength(1);
    expect(new Set(outcomes)).toEqual(new Set(['done', 'unauthenticated']));
    expect(await certificatesOf('many')).toMatchObject([{ issuedBy: `token:${view.id}`, state: 'valid' }]);
  });

  test('gives the same to the same key, also when it comes many times at once', async () => {
    const { token } = await made('same');
    const key = await request();
    const chains = await Promise.all(Array.from({ length: 6 }, async () => (await taking(token, key)).chain));
    expect(new Set(chains).size).toBe(1);
    expect(await certificatesOf('same')).toHaveLength(1);
  });

  test('gives nothing when what it gave was revoked, or it was itself', async () => {
    const [one, two] = [await made('gone'), await made('gone')];
    const key = await request();
    await taking(one.token, key);
    const [first] = await certificatesOf('gone');
    await inTx((tx) => revokeSerial(tx, first!.serial, { by }));
    expect(await code(taking(one.token, key))).toBe('unauthenticated');
    expect(await inTx((tx) => revokeHolder(tx, { kind: 'node', name: 'gone' }, { by }))).toMatchObject({ tokens: 2 });
    expect(await code(taking(two.token, await request()))).toBe('unauthenticated');
    expect((await inTx((tx) => revokeToken(tx, two.view.id))).changed).toBe(false);
  });

  test.each([
    [{ nodeName: 'UP' }],
    [{ nodeName: '' }],
    [{ nodeName: 'a'.repeat(64) }],
    [{ labels: { a: 'b\nc' } }],
    [{ labels: { a: 'b'.repeat(256) } }],
    [{ lifeMs: 59_999 }],
    [{ lifeMs: 31 * 86_400_000 }],
  ])('is not made for %j', async (wrong) => {
    const asked = { nodeName: 'node-1', labels: {}, lifeMs: 60_000, by, ...wrong };
    expect(await code(inTx((tx) => createToken(tx, asked)))).toBe('invalid');
  });
});

describe('renewal', () => {
  test('is for the one who asks, and nobody else', async () => {
    const shown = await enrolled('mine');
    const renewing = (asked: CheckedRequest) => renew(database.db, issuer, shown, asked, '192.0.2.1');
    const other = { ...(await request()), askedUri: 'spiffe://rhyzome.internal/node/other' };
    expect(await code(renewing(other))).toBe('forbidden');
    await renewing({ ...(await request()), askedUri: 'spiffe://rhyzome.internal/node/mine' });
    const rows = await certificatesOf('mine');
    expect(rows).toMatchObject([{ renews: shown.serial, issuedBy: 'node:mine' }, { serial: shown.serial }]);
    expect(await inTx((tx) => successorsOf(tx, shown.serial))).toEqual([rows[0]!.serial]);
    const server = { ...shown, type: 'server' as const };
    expect(await code(renew(database.db, issuer, server, await request(), ''))).toBe('forbidden');
  });

  test('beside a revocation never gives a certificate that outlives it', async () => {
    for (let round = 0; round < 10; round += 1) {
      const name = `race-${round}`;
      const shown = await enrolled(name);
      const keys = await Promise.all(Array.from({ length: 4 }, request));
      const renewals = keys.map((key) => code(renew(database.db, issuer, shown, key, '')));
      await inTx((tx) => revokeHolder(tx, { kind: 'node', name }, { by }));
      for (const outcome of await Promise.all(renewals)) expect(['done', 'unauthenticated']).toContain(outcome);
      expect((await certificatesOf(name)).filter(({ state }) => state === 'valid')).toEqual([]);
      expect(await code(renew(database.db, issuer, shown, await request(), ''))).toBe('unauthenticated');
    }
  });
});

describe('the list of what was revoked', () => {
  test('covers what a holder had, recorded or not, and spares what it got afterwards', async () => {
    const list = new RevocationList(database.db, quiet, 20);
    await list.follow(database.listener, () => undefined);
    try {
      const before = await enrolled('listed');
      const unseen = { ...before, serial: 'AB01', notBefore: new Date(Date.now() - 300_000) };
      const another = { ...unseen, name: 'other' };
      expect([before, unseen, another].map((shown) => list.refusalOf(shown))).toEqual([
        undefined,
        undefined,
        undefined,
      ]);
      await inTx((tx) => revokeHolder(tx, { kind: 'node', name: 'listed' }, { by }));
      await expect.poll(() => list.refusalOf(before)?.code, { timeout: 20_000 }).toBe('unauthenticated');
      expect(list.refusalOf(unseen)?.code).toBe('unauthenticated');
      expect(list.refusalOf(another)).toBeUndefined();
      expect(list.refusalOf({ ...unseen, type: 'service' })).toBeUndefined();
      const after = await enrolled('listed');
      await expect.poll(() => list.refusalOf(after), { timeout: 20_000 }).toBeUndefined();
      expect(list.refusalOf(before)?.code).toBe('unauthenticated');
      expect(list.refusalOf({ ...unseen, notBefore: new Date(Date.now() + 1000) })).toBeUndefined();
    } finally {
      await list.close();
    }
  });

  test('covers a serial number that nobody has seen, each once', async () => {
    const list = new RevocationList(database.db, quiet, 20);
    await list.follow(database.listener, () => undefined);
    const serial = serialFrom('ab:cd 01');
    expect(serial).toBe('ABCD01');
    expect(await inTx((tx) => revokeSerial(tx, serial, { by, reason: 'lost' }))).toMatchObject({ changed: true });
    expect(await inTx((tx) => revokeSerial(tx, serial, { by }))).toMatchObject({ changed: false });
    const shown = { type: 'server' as const, name: 'x', serial, notBefore: new Date() };
    await expect.poll(() => list.refusalOf(shown)?.code, { timeout: 20_000 }).toBe('unauthenticated');
    await list.close();
    for (const text of ['', 'xyz', '0'.repeat(41)])
      expect(() => serialFrom(text)).toThrow(expect.objectContaining({ code: 'invalid' }));
    expect(await code(inTx((tx) => revokeSerial(tx, 'AA', { by, reason: 'two\nlines' })))).toBe('invalid');
  });

  test('tells rhyzome-api of servers and serial numbers, by its own login, and of nobody else', async () => {
    const list = new RevocationList(database.db, quiet, 20, 'servers');
    const server = {
      type: 'server' as const,
      name: 'grpc-9',
      serial: 'AB09',
      notBefore: new Date(Date.now() - 300_000),
    };
    await inTx((tx) => revokeSerial(tx, 'AB10', { by }));
    await inTx((tx) => revokeHolder(tx, { kind: 'node', name: 'told-nobody' }, { by }));
    await list.follow(database.listener, () => undefined);
    try {
      const refused = (shown: object) => list.known.refuses({ ...server, ...shown });
      expect([refused({}), refused({ serial: 'AB10' })]).toEqual([false, true]);
      await inTx((tx) => revokeHolder(tx, { kind: 'server', name: 'grpc-9' }, { by }));
      await expect.poll(() => refused({}), { timeout: 20_000 }).toBe(true);
      expect(refused({ notBefore: new Date(Date.now() + 60_000) })).toBe(false);
      expect(list.known.list.holders.map(({ type }) => type)).toEqual(['server']);
    } finally {
      await list.close();
    }
  });

  test('comes back from a node that knows more than a restored database, once', async () => {
    const list = new RevocationList(database.db, quiet, 20);
    await inTx((tx) => revokeSerial(tx, 'F00D01', { by }));
    await inTx((tx) => revokeSerial(tx, 'F00D02', { by }));
    await inTx((tx) => revokeHolder(tx, { kind: 'node', name: 'forgotten' }, { by }));
    await inTx((tx) => revokeHolder(tx, { kind: 'node', name: 'later' }, { by }));
    await list.follow(database.listener, () => undefined);
    const { known } = list;
    await inTx(async (tx) => {
      await sql`delete from revocation where serial = 'F00D02' or name = 'forgotten'`.execute(tx);
      await sql`update revocation set revoked_at = revoked_at - interval '1 hour' where name = 'later'`.execute(tx);
    });
    await expect.poll(() => list.known.covers(known), { timeout: 20_000 }).toBe(false);
    expect(await takeOverRevocations(database.db, known, 'n1')).toBe(3);
    expect(await takeOverRevocations(database.db, known, 'n1')).toBe(0);
    await expect.poll(() => list.known.covers(known), { timeout: 20_000 }).toBe(true);
    await list.close();
  });
});
