/** The issuer below the root, what it issues, and how that comes into the place of what was there, whatever is interrupted. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, cp, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  CertificateIssuer,
  type CredentialPaths,
  checkRequest,
  ensureIssuer,
  fingerprintOf,
  finishInstall,
  initPki,
  installNext,
  issueCertificate,
  loadCredentials,
  PkiError,
  parseFingerprint,
  pickByFingerprint,
  requestForNextKey,
  showCertificate,
} from './index.js';

const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
if (!hasOpenssl) console.warn('skipped: what needs the command openssl (Debian package openssl)');
const trustDomain = 'rhyzome.internal';
const dayMs = 86_400_000;

let dir: string;
let ca: string;
let issuer: CertificateIssuer;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-issuer-'));
  ({ ca } = await initPki({ dir }));
  issuer = await open(await madeIssuer(dir));
});
afterAll(() => rm(dir, { recursive: true }));

async function madeIssuer(of: string) {
  const made = await ensureIssuer(of);
  if (!made) throw new Error('the root allows no issuer');
  return made;
}

function open({ cert, key }: { cert: string; key: string }, more = {}): Promise<CertificateIssuer> {
  return CertificateIssuer.open({ cert, key, ca, trustDomain, validityMs: 30 * dayMs, ...more });
}

async function folder(): Promise<CredentialPaths> {
  const at = await mkdtemp(join(dir, 'machine-'));
  return { ca: join(at, 'ca.pem'), cert: join(at, 'node.pem'), key: join(at, 'node-key.pem') };
}

/** A certificate for the next key of the machine. */
async function issued(paths: CredentialPaths, name = 'node-1'): Promise<string> {
  const { chain } = await issuer.issue('node', name, await checkRequest(await requestForNextKey(paths)));
  return chain;
}

async function refusal(work: Promise<unknown>): Promise<PkiError> {
  const error = await work.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(PkiError);
  return error as PkiError;
}

const any = () => undefined;

describe('the issuer', () => {
  test('is made once, and issues for a node no more than that node, as a client', async () => {
    expect(await ensureIssuer(dir)).toMatchObject({ created: false });
    const paths = await folder();
    const credentials = await installNext(
      paths,
      { certificate: await issued(paths), ca: await readFile(ca, 'utf8') },
      any,
    );
    expect(credentials.identity).toEqual({ type: 'node', name: 'node-1', trustDomain });
    const [leaf, intermediate, ...more] = await showCertificate(paths.cert);
    expect(more).toEqual([]);
    expect(leaf).toMatchObject({ ca: false, names: ['URI:spiffe://rhyzome.internal/node/node-1'] });
    expect(intermediate).toMatchObject({ ca: true, subject: 'CN=Rhyzome issuer of rhyzome.internal' });
    expect(credentials.notAfter.getTime() - Date.now()).toBeLessThanOrEqual(30 * dayMs);
    if (!hasOpenssl) return;
    const args = ['verify', '-x509_strict', '-CAfile', ca, '-untrusted', paths.cert];
    expect(spawnSync('openssl', [...args, '-purpose', 'sslclient', paths.cert]).status).toBe(0);
    // Neither what it issued nor a server's certificate that a thief of its key would make.
    expect(spawnSync('openssl', [...args, '-purpose', 'sslserver', paths.cert]).stderr.toString()).toMatch(/purpose/);
  });

  test('of another CA, without its key, or that is none, is refused with the file', async () => {
    const foreign = await mkdtemp(join(dir, 'foreign-'));
    await initPki({ dir: foreign });
    const others = await madeIssuer(foreign);
    const own = await madeIssuer(dir);
    expect(await refusal(open(others))).toMatchObject({ code: 'not_signed_by_ca', file: others.cert });
    expect(await refusal(open({ cert: own.cert, key: others.key }))).toMatchObject({ code: 'key_mismatch' });
    const leaf = await issueCertificate({ dir, out: foreign, type: 'node', name: 'x' });
    expect(await refusal(open(leaf))).toMatchObject({ code: 'not_a_ca', file: leaf.cert });
  });

  test('may be the root itself', async () => {
    const root = await open({ cert: ca, key: join(dir, 'ca-key.pem') });
    const paths = await folder();
    const leaf = await root.issue('service', 'billing', await checkRequest(await requestForNextKey(paths)));
    await installNext(paths, { certificate: leaf.chain, ca: await readFile(ca, 'utf8') }, any);
    expect(await showCertificate(paths.cert)).toHaveLength(1);
  });

  test('follows its files, and keeps a good issuer when the next one is bad', async () => {
    const copy = await mkdtemp(join(dir, 'copy-'));
    await cp(join(dir, 'issuer.pem'), join(copy, 'cert'));
    await cp(join(dir, 'issuer-key.pem'), join(copy, 'key'));
    const refused: string[] = [];
    const files = { cert: join(copy, 'cert'), key: join(copy, 'key') };
    const followed = await open(files, { onRefused: (error: PkiError) => refused.push(error.code) });
    await writeFile(files.cert, 'rubbish');
    const request = await checkRequest(await requestForNextKey(await folder()));
    for (let again = 0; again < 2; again += 1)
      expect((await followed.issue('node', 'n', request)).chain).toContain('BEGIN');
    expect(refused).toEqual(['certificate_unparsable']);
    await copyFile(ca, join(copy, 'new'));
    await copyFile(join(dir, 'ca-key.pem'), files.key);
    await rename(join(copy, 'new'), files.cert);
    const { chain } = await followed.issue('node', 'n', request);
    expect(chain.match(/BEGIN/g)).toHaveLength(1);
  });
});

describe('a new key and its certificate', () => {
  /** A machine with a certificate, and a next one that came. */
  async function ready() {
    const paths = await folder();
    const before = await installNext(paths, { certificate: await issued(paths), ca: await readFile(ca, 'utf8') }, any);
    return { paths, before, certificate: await issued(paths) };
  }

  test('take the place of those before together, or not at all', async () => {
    const { paths, before, certificate } = await ready();
    const foreign = await folder();
    const wrong = await issued(foreign);
    expect(await refusal(installNext(paths, { certificate: wrong }, any))).toMatchObject({ code: 'key_mismatch' });
    const veto = () => {
      throw new PkiError('identity_malformed', 'another name');
    };
    expect(await refusal(installNext(paths, { certificate }, veto))).toMatchObject({ code: 'identity_malformed' });
    expect((await loadCredentials(paths)).fingerprint).toBe(before.fingerprint);
    const after = await installNext(paths, { certificate }, any);
    expect(after.fingerprint).not.toBe(before.fingerprint);
    expect(after.key.equals(before.key)).toBe(false);
    expect(existsSync(`${paths.key}.next`)).toBe(false);
  });

  test('are put in place by whoever looks after a crash between the two renames', async () => {
    const { paths, before, certificate } = await ready();
    await writeFile(paths.cert, certificate);
    expect(await refusal(loadCredentials(paths))).toMatchObject({ code: 'key_mismatch' });
    await finishInstall(paths);
    expect((await loadCredentials(paths)).fingerprint).not.toBe(before.fingerprint);
  });

  test('and after one before them; a key that still waits for its certificate stays', async () => {
    const { paths, before, certificate } = await ready();
    const waiting = await readFile(`${paths.key}.next`);
    await finishInstall(paths);
    expect(await readFile(`${paths.key}.next`)).toEqual(waiting);
    expect((await loadCredentials(paths)).fingerprint).toBe(before.fingerprint);
    expect(await requestForNextKey(paths).then(checkRequest)).toMatchObject({
      keyDigest: (await checkRequest(await requestForNextKey(paths))).keyDigest,
    });
    await writeFile(`${paths.cert}.next`, certificate);
    await finishInstall(paths);
    expect((await loadCredentials(paths)).fingerprint).not.toBe(before.fingerprint);
    expect([existsSync(`${paths.key}.next`), existsSync(`${paths.cert}.next`)]).toEqual([false, false]);
    await finishInstall(paths);
  });

  test('half a certificate that a crash left is no certificate', async () => {
    const { paths, before } = await ready();
    await writeFile(`${paths.cert}.next`, '-----BEGIN CERT');
    await finishInstall(paths);
    expect((await loadCredentials(paths)).fingerprint).toBe(before.fingerprint);
    expect(existsSync(`${paths.cert}.next`)).toBe(false);
  });
});

test('a CA is known by its fingerprint, however that is written', async () => {
  const fingerprint = await fingerprintOf(ca);
  const [summary] = await showCertificate(ca);
  for (const text of [summary!.fingerprint, fingerprint, fingerprint.toUpperCase().replace('SHA256', 'sha256')])
    expect(parseFingerprint(text)).toBe(fingerprint);
  for (const text of [
    '',
    'sha256:',
    'sha1:00',
    fingerprint.slice(0, -1),
    `${fingerprint}0`,
    fingerprint.replace(/.$/, 'g'),
  ])
    expect(parseFingerprint(text), text).toBeUndefined();
  const pem = await readFile(ca, 'utf8');
  expect(pickByFingerprint(`${pem}\n${pem}`, fingerprint)).toContain('BEGIN CERTIFICATE');
  const other = `sha256:${'0'.repeat(64)}`;
  expect(() => pickByFingerprint(pem, other)).toThrow(expect.objectContaining({ code: 'not_signed_by_ca' }));
});
