/** Requests that OpenSSL makes, good ones and all sorts that must be refused. */
import { execFileSync, spawnSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkRequest, maxRequestBytes, PkiError, requestForNextKey } from './index.js';

const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
if (!hasOpenssl) console.warn('skipped: what needs the command openssl (Debian package openssl)');

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'rhyzome-request-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

/** In DER, by OpenSSL, with the key options given. */
function openssl(key: string[], extensions: string[] = [], more: string[] = []): Buffer {
  const out = join(dir, 'request.der');
  const added = extensions.flatMap((extension) => ['-addext', extension]);
  const place = ['-keyout', join(dir, 'key.pem'), '-out', out, '-outform', 'DER'];
  execFileSync('openssl', ['req', '-new', '-nodes', '-subj', '/CN=x', ...key, ...place, ...added, ...more], {
    stdio: 'ignore',
  });
  return readFileSync(out);
}

const curve = (name: string) => ['-newkey', 'ec', '-pkeyopt', `ec_paramgen_curve:${name}`];
const refusal = (request: Uint8Array) => checkRequest(request).catch((error: unknown) => error);
const refused = (why: RegExp) => ({ code: 'request_refused', message: expect.stringMatching(why) });

describe.skipIf(!hasOpenssl)('what OpenSSL makes', () => {
  test.each([
    ['P-256', curve('P-256')],
    ['P-384', curve('P-384')],
    ['RSA of 2048 bits', ['-newkey', 'rsa:2048']],
    ['Ed25519', ['-newkey', 'ed25519']],
  ])('is taken with a key on %s', async (_name, key) => {
    const { keyDigest, askedUri } = await checkRequest(openssl(key));
    expect(keyDigest).toHaveLength(32);
    expect(askedUri).toBeUndefined();
  });

  test('may say whose it is, and nothing else', async () => {
    const uri = 'spiffe://rhyzome.internal/node/node-1';
    const asked = (...extensions: string[]) => openssl(curve('P-256'), extensions);
    expect((await checkRequest(asked(`subjectAltName=URI:${uri}`))).askedUri).toBe(uri);
    expect(await refusal(asked(`subjectAltName=URI:${uri},DNS:grpc.example`))).toMatchObject(refused(/asks for names/));
    expect(await refusal(asked(`subjectAltName=URI:${uri},URI:${uri}x`))).toMatchObject(refused(/asks for names/));
    expect(await refusal(asked('basicConstraints=critical,CA:true'))).toMatchObject(refused(/extension 2\.5\.29\.19/));
    expect(await refusal(asked('extendedKeyUsage=serverAuth'))).toMatchObject(refused(/extension 2\.5\.29\.37/));
  });

  test.each([
    ['RSA of 1024 bits', ['-newkey', 'rsa:1024']],
    ['P-521', curve('P-521')],
    ['secp256k1', curve('secp256k1')],
  ])('is refused with a key on %s', async (_name, key) => {
    expect(await refusal(openssl(key))).toMatchObject(refused(/key must be/));
  });

  test('is refused when it is signed by way of SHA-1', async () => {
    expect(await refusal(openssl(['-newkey', 'rsa:2048'], [], ['-sha1']))).toMatchObject(
      refused(/hash that is broken/),
    );
  });

  test('is refused when another key signed it', async () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    writeFileSync(join(dir, 'other.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
    const mine = openssl(curve('P-256'));
    const others = openssl(['-key', join(dir, 'other.pem')]);
    // The signature is the last of the three parts, a BIT STRING after the algorithm's identifier, which is the same.
    const tail = 72;
    const mixed = Buffer.concat([mine.subarray(0, mine.length - tail), others.subarray(others.length - tail)]);
    expect(await refusal(mixed)).toMatchObject({ code: 'request_refused' });
  });
});

test('what is no request is refused, of whatever length; one that was bent never gives another key', async () => {
  const paths = { ca: join(dir, 'ca'), cert: join(dir, 'cert'), key: join(dir, 'node-key') };
  const good = await requestForNextKey(paths);
  const { keyDigest } = await checkRequest(good);
  expect(await refusal(Buffer.alloc(0))).toMatchObject(refused(/1 to/));
  expect(await refusal(Buffer.alloc(maxRequestBytes + 1, 0x30))).toMatchObject(refused(/1 to/));
  expect(await refusal(Buffer.from('-----BEGIN CERTIFICATE REQUEST-----'))).toMatchObject(refused(/parsed/));
  for (let at = 0; at < good.length; at += 1) {
    const bent = Buffer.from(good);
    bent[at]! ^= 0x55;
    const outcome = await refusal(bent);
    if (!(outcome instanceof PkiError)) expect(outcome, `byte ${at}`).toMatchObject({ keyDigest });
    expect(await refusal(good.subarray(0, at))).toMatchObject({ code: 'request_refused' });
  }
});
