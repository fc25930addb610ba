/** A list of revocations: what it refuses, that nobody but an issuer of the CA can make one, and what is no list. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  CertificateIssuer,
  ensureIssuer,
  initPki,
  mostRevocations,
  parseRevocations,
  type RevokedHolder,
  RevokedSet,
  type SignedRevocations,
  verifyRevocations,
} from './index.js';

let dir: string;
let ca: Buffer;
let issuer: CertificateIssuer;
let stranger: CertificateIssuer;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-revocations-'));
  issuer = await made('ours');
  stranger = await made('theirs');
  ca = await readFile(join(dir, 'ours', 'ca.pem'));
});
afterAll(() => rm(dir, { recursive: true }));

async function made(name: string): Promise<CertificateIssuer> {
  const files = await initPki({ dir: join(dir, name) });
  const { cert, key } = (await ensureIssuer(join(dir, name)))!;
  return CertificateIssuer.open({ cert, key, ca: files.ca, trustDomain: 'rhyzome.internal', validityMs: 1000 });
}

const at = 1_000_000;
const holder = (more: Partial<RevokedHolder> = {}): RevokedHolder => ({
  type: 'node',
  name: 'n1',
  revokedAtMs: at,
  spared: [],
  ...more,
});
const shown = (serial: string, notBeforeMs = at + 1, name = 'n1') => ({
  type: 'node' as const,
  name,
  serial,
  notBefore: new Date(notBeforeMs),
});

test('refuses by serial number, and what a holder had up to a moment', () => {
  const set = new RevokedSet({ serials: ['AA'], holders: [holder({ spared: ['BB'] })] });
  expect(set.refuses(shown('AA'))).toBe(true);
  expect(set.refuses(shown('AA', at + 1, 'n2'))).toBe(true);
  expect(set.refuses(shown('CC', at))).toBe(true);
  expect(set.refuses(shown('CC', at + 1))).toBe(false);
  expect(set.refuses(shown('BB', at))).toBe(false);
  expect(set.refuses(shown('CC', at, 'n2'))).toBe(false);
  expect(set.refuses({ ...shown('CC', at), type: 'server' })).toBe(false);
});

test('covers what refuses no more than it does', () => {
  const set = new RevokedSet({ serials: ['AA', 'BB'], holders: [holder()] });
  expect(set.covers(new RevokedSet())).toBe(true);
  expect(set.covers(new RevokedSet({ serials: ['BB'], holders: [holder({ revokedAtMs: at - 1 })] }))).toBe(true);
  expect(set.covers(new RevokedSet({ serials: ['CC'], holders: [] }))).toBe(false);
  expect(set.covers(new RevokedSet({ serials: [], holders: [holder({ revokedAtMs: at + 1 })] }))).toBe(false);
  expect(set.covers(new RevokedSet({ serials: [], holders: [holder({ name: 'n2' })] }))).toBe(false);
});

describe('a signed list', () => {
  const list = () => new RevokedSet({ serials: ['BB', 'AA'], holders: [holder({ spared: ['DD', 'CC'] })] }).encode()!;

  test('comes back as it was, and has the same bytes whatever its order', async () => {
    const read = await verifyRevocations(await issuer.signRevocations(list()), ca);
    expect(read.list).toEqual({ serials: ['AA', 'BB'], holders: [holder({ spared: ['CC', 'DD'] })] });
    expect(read.encode()).toEqual(list());
  });

  const refused: [what: string, code: string, make: () => Promise<SignedRevocations>][] = [
    [
      'one that was changed',
      'revocations_malformed',
      async () => ({ ...(await ours()), list: Buffer.from('{"serials":[],"holders":[]}') }),
    ],
    [
      'one without a signature',
      'revocations_malformed',
      async () => ({ ...(await ours()), signature: Buffer.alloc(0) }),
    ],
    ['one of another CA', 'not_signed_by_ca', async () => stranger.signRevocations(list())],
    [
      'one by another CA in the name of ours',
      'revocations_malformed',
      async () => ({ ...(await stranger.signRevocations(list())), chain: (await ours()).chain }),
    ],
    ['one that nobody vouches for', 'certificate_unparsable', async () => ({ ...(await ours()), chain: '' })],
  ];
  const ours = () => issuer.signRevocations(list());
  test.each(refused)('is refused: %s', async (_what, code, make) => {
    await expect(verifyRevocations(await make(), ca)).rejects.toMatchObject({ code });
  });
});

test.each([
  ['', 'no JSON'],
  ['null', 'no serials'],
  ['{"serials":["x"],"holders":[]}', 'no serial number'],
  ['{"serials":[],"holders":[{"type":"king","name":"n","revokedAtMs":1,"spared":[]}]}', 'no holder'],
  [JSON.stringify({ serials: Array(mostRevocations + 1).fill('A'), holders: [] }), 'too long'],
])('%.40s is no list', (text, why) => {
  expect(() => parseRevocations(Buffer.from(text))).toThrow(why);
});

test('a list that is too long is not told', () => {
  const serials = Array.from({ length: mostRevocations + 1 }, (_, n) => n.toString(16).toUpperCase());
  expect(new RevokedSet({ serials, holders: [] }).encode()).toBeUndefined();
  expect(new RevokedSet({ serials: serials.slice(1), holders: [] }).encode()).toBeInstanceOf(Buffer);
});
