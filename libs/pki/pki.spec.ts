/** Issues with the built-in CA, has OpenSSL judge what came out, and breaks a set of credentials in each way there is. */
import { execFile, spawnSync } from 'node:child_process';
import { chmod, copyFile, mkdtemp, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type CredentialPaths,
  identityUri,
  initPki,
  issueCertificate,
  loadCredentials,
  PkiError,
  parsePeerIdentity,
  showCertificate,
  verifyCredentials,
  watchCredentials,
} from './index.js';

const run = promisify(execFile);
const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
if (!hasOpenssl) console.warn('skipped: what needs the command openssl (Debian package openssl)');
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-pki-'));
  await initPki({ dir });
});
afterAll(() => rm(dir, { recursive: true }));

async function fresh(name: string, days?: number): Promise<CredentialPaths> {
  const out = await mkdtemp(join(dir, 'set-'));
  return issueCertificate({ dir, out, type: 'node', name, days });
}

async function refusal(paths: CredentialPaths, now?: Date): Promise<PkiError> {
  const error = await loadCredentials(paths, now).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(PkiError);
  return error as PkiError;
}

describe('issuing', () => {
  test.skipIf(!hasOpenssl)('OpenSSL accepts a server, with its names and for both directions', async () => {
    const issued = await issueCertificate({
      dir,
      type: 'server',
      name: 'grpc-1',
      dns: ['localhost'],
      ip: ['127.0.0.1'],
    });
    for (const purpose of ['sslserver', 'sslclient']) {
      const { stdout } = await run('openssl', [
        'verify',
        '-x509_strict',
        '-purpose',
        purpose,
        '-CAfile',
        issued.ca,
        issued.cert,
      ]);
      expect(stdout).toContain('OK');
    }
    const { stdout } = await run('openssl', ['x509', '-in', issued.cert, '-noout', '-text']);
    expect(stdout).toContain('DNS:localhost, IP Address:127.0.0.1');
    expect(stdout).toContain('URI:spiffe://rhyzome.internal/server/grpc-1');
    expect((await stat(issued.key)).mode & 0o777).toBe(0o600);
    expect((await loadCredentials(issued)).identity).toEqual({
      type: 'server',
      name: 'grpc-1',
      trustDomain: 'rhyzome.internal',
    });
  });

  test.skipIf(!hasOpenssl)('OpenSSL refuses a node as a server', async () => {
    const node = await fresh('node-1');
    const args = ['verify', '-x509_strict', '-purpose', 'sslserver', '-CAfile', node.ca, node.cert];
    await expect(run('openssl', args)).rejects.toThrow(
      /unsupported certificate purpose|unsuitable certificate purpose/,
    );
  });

  test('a second init leaves the CA as it is, a second issue refuses without force', async () => {
    const before = await readFile(join(dir, 'ca.pem'), 'utf8');
    expect((await initPki({ dir })).created).toBe(false);
    expect(await readFile(join(dir, 'ca.pem'), 'utf8')).toBe(before);
    const options = { dir, out: await mkdtemp(join(dir, 'twice-')), type: 'service', name: 'billing' } as const;
    const first = await issueCertificate(options);
    await expect(issueCertificate(options)).rejects.toMatchObject({ code: 'file_exists' });
    const second = await issueCertificate({ ...options, force: true });
    expect(second.serial).not.toBe(first.serial);
    await loadCredentials(second);
  });

  test('names that do not belong are refused', async () => {
    await expect(issueCertificate({ dir, type: 'node', name: '../x' })).rejects.toMatchObject({
      code: 'name_malformed',
    });
    await expect(issueCertificate({ dir, type: 'server', name: 's' })).rejects.toMatchObject({
      code: 'name_malformed',
    });
    await expect(issueCertificate({ dir, type: 'node', name: 'n', dns: ['a'] })).rejects.toMatchObject({
      code: 'name_malformed',
    });
    await expect(issueCertificate({ dir, type: 'server', name: 's', dns: ['a,URI:x'] })).rejects.toMatchObject({
      code: 'name_malformed',
    });
  });

  test('show tells what stands in it', async () => {
    const node = await fresh('node-7');
    const [summary] = await showCertificate(node.cert);
    expect(summary).toMatchObject({ identity: 'spiffe://rhyzome.internal/node/node-7', ca: false, dns: [] });
  });
});

describe('refusals name the file and the reason', () => {
  test('missing, unreadable, unparsable', async () => {
    const set = await fresh('a');
    for (const part of ['ca', 'cert', 'key'] as const) {
      const nowhere = join(dir, `no-such-${part}.pem`);
      const error = await refusal({ ...set, [part]: nowhere });
      expect(error).toMatchObject({ code: 'file_missing', file: nowhere });
      expect(error.message).toContain(nowhere);
      expect(await refusal({ ...set, [part]: dir })).toMatchObject({ code: 'file_unreadable', file: dir });
      const rubbish = join(dir, `rubbish-${part}.pem`);
      await writeFile(rubbish, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n', { mode: 0o600 });
      const code = part === 'key' ? 'key_unparsable' : 'certificate_unparsable';
      expect(await refusal({ ...set, [part]: rubbish })).toMatchObject({ code, file: rubbish });
    }
  });

  test('a key of another certificate', async () => {
    const set = await fresh('b');
    const other = await fresh('c');
    expect(await refusal({ ...set, key: other.key })).toMatchObject({ code: 'key_mismatch', file: other.key });
  });

  test.each([0o640, 0o604, 0o620, 0o666])('a key of mode %o', async (mode) => {
    const set = await fresh('d');
    await chmod(set.key, mode);
    const error = await refusal(set);
    expect(error).toMatchObject({ code: 'key_exposed', file: set.key });
    expect(error.message).toContain('chmod 600');
    expect(await verifyCredentials(set)).toMatchObject({ ok: false, code: 'key_exposed', file: set.key });
  });

  test('expired and not yet valid', async () => {
    const set = await fresh('e', 1);
    const dayMs = 86_400_000;
    expect(await refusal(set, new Date(Date.now() + 2 * dayMs))).toMatchObject({
      code: 'certificate_expired',
      file: set.cert,
    });
    expect(await refusal(set, new Date(Date.now() - dayMs))).toMatchObject({
      code: 'certificate_not_yet_valid',
      file: set.cert,
    });
  });

  test('another CA, also one of the same name, and a CA that is none', async () => {
    const set = await fresh('f');
    const foreign = await initPki({ dir: await mkdtemp(join(dir, 'foreign-')) });
    expect(await refusal({ ...set, ca: foreign.ca })).toMatchObject({ code: 'not_signed_by_ca', file: set.cert });
    expect(await refusal({ ...set, ca: set.cert })).toMatchObject({ code: 'not_a_ca', file: set.cert });
  });

  test.skipIf(!hasOpenssl)('a certificate without an identity', async () => {
    const out = await mkdtemp(join(dir, 'plain-'));
    const paths = { ca: join(out, 'ca.pem'), cert: join(out, 'ca.pem'), key: join(out, 'key.pem') };
    await run('openssl', [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-subj',
      '/CN=x',
      '-keyout',
      paths.key,
      '-out',
      paths.ca,
    ]);
    await chmod(paths.key, 0o600);
    expect(await refusal(paths)).toMatchObject({ code: 'identity_missing', file: paths.cert });
  });
});

describe('identity', () => {
  test('reads what it writes', () => {
    const name = fc.stringMatching(/^[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?$/);
    fc.assert(
      fc.property(fc.constantFrom('node', 'service', 'server'), name, name, (type, who, trustDomain) => {
        const identity = { type, name: who, trustDomain } as const;
        expect(parsePeerIdentity(`DNS:localhost, URI:${identityUri(identity)}`)).toEqual(identity);
      }),
    );
  });

  test.each([
    ['', 'identity_missing'],
    [undefined, 'identity_missing'],
    ['DNS:spiffe.example', 'identity_missing'],
    ['URI:spiffe://a/node/x, URI:spiffe://a/server/x', 'identity_ambiguous'],
    ['URI:spiffe://a/node/x, URI:SPIFFE://a/server/x', 'identity_ambiguous'],
    ['URI:spiffe://a/node/X', 'identity_malformed'],
    ['URI:spiffe://a/node/x/y', 'identity_malformed'],
    ['URI:spiffe://a/admin/x', 'identity_malformed'],
    ['URI:spiffe://a/node/', 'identity_malformed'],
    ['URI:spiffe://a/node/x?y', 'identity_malformed'],
    ['URI:"spiffe://a/node/x, URI:spiffe://a/server/x"', 'identity_malformed'],
    ['URI:"spiffe://a/node/x', 'identity_malformed'],
  ])('refuses %j', (text, code) => {
    expect(() => parsePeerIdentity(text)).toThrow(expect.objectContaining({ code }));
  });
});

test('a watched set takes a good successor and keeps the old one when the new one is bad', async () => {
  const set = await fresh('w');
  const refused: string[] = [];
  const source = await watchCredentials(set, { onRefused: (error) => refused.push(error.code), intervalMs: 3_600_000 });
  try {
    const first = source.current.fingerprint;
    const seen: string[] = [];
    source.subscribe((credentials) => seen.push(credentials.fingerprint));
    const other = await fresh('w');
    await copyFile(other.cert, set.cert);
    await source.check();
    expect(refused).toEqual(['key_mismatch']);
    expect(source.current.fingerprint).toBe(first);
    await source.check();
    expect(refused).toHaveLength(1);
    await copyFile(other.key, set.key);
    await utimes(set.key, new Date(), new Date());
    await source.check();
    expect(seen).toEqual([(await loadCredentials(other)).fingerprint]);
  } finally {
    source.close();
  }
});
