/** Limits and refusals of this replica, before anything reaches the database; and how it starts, or does not. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Database } from '#libs/db';
import { CertificateIssuer, ensureIssuer, type IssuedFiles, initPki, issueCertificate } from '#libs/pki';
import type { Peer } from '#libs/rpc';
import { Certificates } from './certificates.js';

/** Whoever gets that far has got too far. */
const noDatabase = undefined as unknown as Database;

let dir: string;
let server: IssuedFiles;
let issuer: CertificateIssuer;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-certificates-'));
  const { ca: cert, caKey: key, trustDomain } = await initPki({ dir });
  server = await issueCertificate({ dir, type: 'server', name: 's', dns: ['localhost'] });
  issuer = await CertificateIssuer.open({ cert, key, ca: cert, trustDomain, validityMs: 60_000 });
});
afterAll(() => rm(dir, { recursive: true }));

const peer = (name: string): Peer => ({
  type: 'node',
  name,
  trustDomain: 'rhyzome.internal',
  serial: '01',
  fingerprint: '',
  notBefore: new Date(),
  notAfter: new Date(),
});
const code = (work: Promise<unknown>) => work.catch((error: { code: string }) => error.code);
const rubbish = Buffer.from('rubbish');

test('without an issuer nothing is issued, and it says how to get one', async () => {
  const certificates = new Certificates(noDatabase, null);
  const asked = { token: '', request: rubbish, nodeName: '' };
  await expect(certificates.renew(peer('n'), rubbish, '')).rejects.toMatchObject({
    code: 'no_issuer',
    message: expect.stringContaining('rhyzome pki init'),
  });
  expect(await code(certificates.enroll(asked, '192.0.2.1'))).toBe('no_issuer');
});

test('a holder cannot renew without end, and keeps nobody else from it', async () => {
  const certificates = new Certificates(noDatabase, issuer);
  const codes = [];
  for (let i = 0; i < 11; i += 1) codes.push(await code(certificates.renew(peer('busy'), rubbish, '')));
  expect(codes).toEqual([...Array(10).fill('invalid'), 'too_many_requests']);
  expect(await code(certificates.renew(peer('calm'), rubbish, ''))).toBe('invalid');
});

test('an address cannot try tokens without end; an IPv6 host has one limit for all its addresses', async () => {
  const certificates = new Certificates(noDatabase, issuer);
  const attempt = (source: string) => code(certificates.enroll({ token: 'x', request: rubbish, nodeName: '' }, source));
  for (let i = 0; i < 10; i += 1) expect(await attempt(`2001:db8::${i}`)).toBe('invalid');
  expect(await attempt('2001:db8::ffff')).toBe('too_many_requests');
  expect(await attempt('192.0.2.1')).toBe('invalid');
});

describe('a server whose issuer cannot be used says which file and why, and does not serve', () => {
  async function end(pki: object): Promise<{ status: unknown; stderr: string }> {
    const config = join(dir, 'rhyzome-api.json');
    const grpc = { listen: ['127.0.0.1:0'], monitoring: '127.0.0.1:0', enrollment: { listen: '127.0.0.1:0' } };
    const own = { ca: server.ca, cert: server.cert, key: server.key, ...pki };
    await writeFile(config, JSON.stringify({ db: 'host=/nowhere', pki: own, grpc }));
    const main = resolve(import.meta.dirname, '../../dist/apps/grpc/main.js');
    return new Promise((done) => {
      execFile(process.execPath, [main, '--config', config], { timeout: 60_000 }, (error, _, stderr) =>
        done({ status: error?.code, stderr }),
      );
    });
  }

  test('for want of one', async () => {
    expect(await end({})).toEqual({ status: 78, stderr: expect.stringContaining('pki.issuer') });
  });

  test('of another CA', async () => {
    const foreign = await mkdtemp(join(dir, 'foreign-'));
    await initPki({ dir: foreign });
    const { cert, key } = (await ensureIssuer(foreign))!;
    const ended = await end({ issuer: { cert, key } });
    expect(ended).toEqual({ status: 78, stderr: expect.stringContaining(cert) });
    expect(await end({ issuer: { cert, key, validity: 'long' } })).toEqual({
      status: 78,
      stderr: expect.stringContaining('/pki/issuer/validity'),
    });
  });
});
