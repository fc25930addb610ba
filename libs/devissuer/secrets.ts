/**
 * What a development realm must keep over restarts, so that its tokens and clients stay valid: signing key, cookie key,
 * client secrets and the password of its users. One file a realm, readable by its owner only.
 */
import { generateKeyPair, randomBytes } from 'node:crypto';
import { chmod, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

export interface RealmSecrets {
  /** A private RSA key as JWK (RFC 7517), with kid. */
  signingKey: Record<string, unknown>;
  cookieKey: string;
  clientSecrets: Record<string, string>;
  userPassword: string;
}

export interface AdminClient {
  clientId: string;
  clientSecret: string;
  /** Holds the secret alone, 0600. */
  secretFile: string;
}

/** The client that may use the admin API; its secret is made once. */
export async function loadAdminClient(dataDir: string): Promise<AdminClient> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const file = join(dataDir, 'admin-client.secret');
  const kept = (await readKept(file))?.trim();
  const clientSecret = kept || randomText();
  if (!kept) await writeDurably(file, clientSecret);
  return { clientId: 'rhyzome', clientSecret, secretFile: file };
}

/** Forgets a realm's keys and secrets: tokens of one that is made anew under its name are others. */
export async function removeRealmSecrets(dataDir: string, realm: string): Promise<void> {
  await rm(join(dataDir, `${realm}.json`), { force: true });
}

/** Reads the realm's secrets, makes what is missing, and writes them back (0600) when anything was made. */
export async function loadRealmSecrets(dataDir: string, realm: string, clientIds: string[]): Promise<RealmSecrets> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const file = join(dataDir, `${realm}.json`);
  const kept = await readSecrets(file);
  const clientSecrets = { ...kept.clientSecrets };
  const isComplete =
    kept.signingKey && kept.cookieKey && kept.userPassword && clientIds.every((id) => clientSecrets[id]);
  for (const id of clientIds) clientSecrets[id] ??= randomText();
  const secrets: RealmSecrets = {
    signingKey: kept.signingKey ?? (await makeSigningKey()),
    cookieKey: kept.cookieKey ?? randomText(),
    clientSecrets,
    userPassword: kept.userPassword ?? randomText(),
  };
  if (isComplete) await chmod(file, 0o600);
  else await writeDurably(file, JSON.stringify(secrets, null, 2));
  return secrets;
}

async function readSecrets(file: string): Promise<Partial<RealmSecrets>> {
  const text = await readKept(file);
  if (text === undefined) return {};
  try {
    return JSON.parse(text) as Partial<RealmSecrets>;
  } catch (cause) {
    throw new Error(`${file} is not JSON. Delete it to get a new key and new client secrets for this realm.`, {
      cause,
    });
  }
}

async function readKept(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** Writes aside with mode 0600, then renames. */
export async function writeDurably(file: string, text: string): Promise<void> {
  const aside = `${file}.${process.pid}.tmp`;
  try {
    await writeFile(aside, text, { mode: 0o600, flush: true });
    await rename(aside, file);
  } catch (error) {
    await rm(aside, { force: true });
    throw error;
  }
}

async function makeSigningKey(): Promise<Record<string, unknown>> {
  const { privateKey } = await promisify(generateKeyPair)('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomText(), use: 'sig', alg: 'RS256' };
}

function randomText(): string {
  return randomBytes(24).toString('base64url');
}
