/**
 * A new key and its certificate in the place of those before, on the machine whose they are. The key is written aside
 * before anybody is asked for its certificate, so that asking again after a crash asks for the same one; then both are
 * renamed, and a crash between the two is mended by whoever looks next.
 */
import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { exportKey, generateKey } from './authority.js';
import { type CredentialPaths, type Credentials, loadCredentials, parseCertificates, parseKey } from './credentials.js';
import { PkiError } from './errors.js';
import { certificateMode, exists, keyMode, readPem, writeFileAtomically } from './files.js';
import { makeRequest } from './request.js';

/** Where the next key, and then its certificate, lies until it takes the present one's place. */
function nextOf(paths: CredentialPaths): { cert: string; key: string } {
  return { cert: `${paths.cert}.next`, key: `${paths.key}.next` };
}

/** A certificate signing request (DER) for the next key, which is made where there is none yet. Throws PkiError. */
export async function requestForNextKey(paths: CredentialPaths): Promise<Buffer> {
  const { key } = nextOf(paths);
  await mkdir(dirname(key), { recursive: true, mode: 0o700 });
  await mkdir(dirname(paths.cert), { recursive: true, mode: 0o700 });
  if (!(await exists(key))) await writeFileAtomically(key, await exportKey((await generateKey()).privateKey), keyMode);
  return makeRequest((await readPem(key, 'the next key')).toString(), key);
}

/** What came for the next key; `ca` where the CA is to be written, too. */
export interface Delivery {
  certificate: string;
  ca?: string;
}

/**
 * Puts certificate and key in place, if they can be used together and with the CA. Throws PkiError, and leaves the present
 * ones as they are, where they cannot.
 */
export async function installNext(
  paths: CredentialPaths,
  { certificate, ca }: Delivery,
  check: (next: Credentials) => void,
): Promise<Credentials> {
  const next = nextOf(paths);
  const nextCa = `${paths.ca}.next`;
  await writeFileAtomically(next.cert, certificate, certificateMode);
  try {
    if (ca !== undefined) {
      await mkdir(dirname(paths.ca), { recursive: true, mode: 0o700 });
      await writeFileAtomically(nextCa, ca, certificateMode);
    }
    check(await loadCredentials({ ca: ca === undefined ? paths.ca : nextCa, ...next }));
  } catch (error) {
    await Promise.all([rm(next.cert, { force: true }), ca === undefined ? undefined : rm(nextCa, { force: true })]);
    throw error;
  }
  if (ca !== undefined) await rename(nextCa, paths.ca);
  await putInPlace(paths);
  return loadCredentials(paths);
}

/** Goes on where a crash ended `installNext`; nothing to do is success. Call before loading what is there. */
export async function finishInstall(paths: CredentialPaths): Promise<void> {
  const next = nextOf(paths);
  if (!(await exists(next.key))) return;
  // The certificate first, in `putInPlace` too: a key alone belongs to the certificate in place, or still waits for its own.
  const hasNext = await exists(next.cert);
  if (!hasNext && !(await exists(paths.cert))) return;
  if (await belongTogether(hasNext ? next.cert : paths.cert, next.key)) await putInPlace(paths);
  else if (hasNext) await rm(next.cert);
}

async function putInPlace(paths: CredentialPaths): Promise<void> {
  const next = nextOf(paths);
  if (await exists(next.cert)) await rename(next.cert, paths.cert);
  await rename(next.key, paths.key);
}

/** False, too, where one of the two cannot be read as what it should be: then it is no pair. */
async function belongTogether(cert: string, key: string): Promise<boolean> {
  try {
    const [leaf] = parseCertificates(await readPem(cert, 'the certificate'), cert, 'the certificate');
    return leaf!.checkPrivateKey(parseKey(await readPem(key, 'the private key'), key));
  } catch (error) {
    if (error instanceof PkiError) return false;
    throw error;
  }
}
