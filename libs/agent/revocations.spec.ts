/** What a machine keeps of what was revoked, and that it believes no such server and no such node, over real TLS. */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { makeTestPki, type TestPki } from '#libs/agent/testing';
import type { DriverLog } from '#libs/drivers/contract';
import {
  type CredentialsSource,
  dialNode,
  issueCertificate,
  listenForNodes,
  RevokedSet,
  type SignedRevocations,
  watchCredentials,
} from '#libs/pki';
import { KnownRevocations, refusingRevoked } from './revocations.js';

const log: DriverLog = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const never = new AbortController().signal;
let dir: string;
let pki: TestPki;
let other: CredentialsSource;
let stateDir: string;
let known: KnownRevocations;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-revoked-'));
  pki = await makeTestPki(dir);
  other = await watchCredentials(await issueCertificate({ dir, type: 'node', name: 'node-2' }));
});
beforeEach(async () => {
  stateDir = await mkdtemp(join(dir, 'state-'));
  known = await KnownRevocations.load(stateDir, log);
});
afterAll(async () => {
  for (const source of [pki.server, pki.node, other]) source.close();
  await rm(dir, { recursive: true });
});

function listOf(...serials: string[]): SignedRevocations {
  const list = new RevokedSet({ serials, holders: [] }).encode()!;
  return { list, signature: Buffer.from(serials.join()), chain: 'of the issuer' };
}
const shown = (serial: string, type: 'node' | 'server' = 'node') => ({
  type,
  name: 'x',
  serial,
  notBefore: new Date(),
});
const refuses = (by: KnownRevocations, ...serials: string[]) =>
  serials.map((serial) => by.refusalOf(shown(serial)) !== undefined);

test('what was told holds, also after a restart, and until a list covers it', async () => {
  expect(known.digest).toHaveLength(0);
  expect(await known.take(listOf('AA'))).toEqual([]);
  expect(known.digest).toHaveLength(32);
  expect(refuses(known, 'AA', 'BB')).toEqual([true, false]);
  expect(known.refusalOf(shown('AA'))).toMatchObject({ code: 'certificate_revoked' });
  const again = await KnownRevocations.load(stateDir, log);
  expect(refuses(again, 'AA', 'BB')).toEqual([true, false]);
  expect(again.digest).toEqual(known.digest);
  expect(await again.take(listOf('AA', 'BB'))).toEqual([]);
  expect(refuses(await KnownRevocations.load(stateDir, log), 'AA', 'BB')).toEqual([true, true]);
});

test('a controller that knows less gets back what it lacks, and makes nobody forget', async () => {
  await known.take(listOf('AA', 'BB'));
  expect(await known.take(listOf('BB'))).toEqual([listOf('AA', 'BB')]);
  // It knows something of its own, too.
  expect(await known.take(listOf('CC'))).toEqual([listOf('AA', 'BB')]);
  expect(known.digest).toHaveLength(0);
  const again = await KnownRevocations.load(stateDir, log);
  expect(refuses(again, 'AA', 'BB', 'CC', 'DD')).toEqual([true, true, true, false]);
  expect(await again.take(listOf('AA', 'BB', 'CC'))).toEqual([]);
  expect(again.digest).toHaveLength(32);
});

test('what is no list changes nothing; a file that cannot be read is not passed over', async () => {
  await known.take(listOf('AA'));
  await expect(known.take({ ...listOf(), list: Buffer.from('x') })).rejects.toMatchObject({
    code: 'revocations_malformed',
  });
  expect(refuses(known, 'AA')).toEqual([true]);
  const file = join(stateDir, 'revocations.json');
  expect(JSON.parse(await readFile(file, 'utf8')).lists).toHaveLength(1);
  await writeFile(file, '{');
  await expect(KnownRevocations.load(stateDir, log)).rejects.toThrow();
});

test('connections begin anew when a server that was believed has fallen, and only then', async () => {
  let changes = 0;
  const source = refusingRevoked(pki.node, known);
  const end = source.subscribe(() => changes++);
  expect(source.refusalOf!(shown('AA', 'server'))).toBeUndefined();
  await known.take(listOf('BB'));
  expect(changes).toBe(0);
  await known.take(listOf('AA', 'BB'));
  expect(changes).toBe(1);
  expect(source.refusalOf!(shown('AA', 'server'))).toBeDefined();
  end();
});

async function connected(dials: CredentialsSource, listens: CredentialsSource): Promise<string> {
  const names: string[] = [];
  const refusals: string[] = [];
  const sockets: TLSSocket[] = [];
  const listener = await listenForNodes({
    listen: '127.0.0.1:0',
    credentials: listens,
    onNode: (name, socket) => {
      names.push(name);
      sockets.push(socket);
    },
    onRefused: (error) => refusals.push(error.message),
  });
  try {
    const socket = await dialNode({ address: listener.address, node: 'node-2', credentials: dials, signal: never });
    sockets.push(socket);
    await expect.poll(() => names.length + refusals.length, { timeout: 10_000 }).toBe(1);
    return names[0] ?? `refused: ${refusals[0]}`;
  } catch (error) {
    return `not dialled: ${(error as Error).message}`;
  } finally {
    for (const socket of sockets) socket.destroy();
    await listener.close();
  }
}

const serialOf = (source: CredentialsSource) => new X509Certificate(source.current.cert).serialNumber;

test('a node whose certificate was revoked is neither dialled nor taken in', async () => {
  const wary = (source: CredentialsSource) => refusingRevoked(source, known);
  expect(await connected(wary(pki.node), wary(other))).toBe('node-1');
  await known.take(listOf(serialOf(other)));
  expect(await connected(wary(pki.node), other)).toMatch(
    /^not dialled: The certificate .* of node “node-2” was revoked/,
  );
  await known.take(listOf(serialOf(other), serialOf(pki.node)));
  expect(await connected(pki.node, wary(other))).toMatch(/^refused: The certificate .* of node “node-1” was revoked/);
});

test('a connection that stands ends when the list comes, at whoever of the two knows it, and no other does', async () => {
  const sockets = new Map<string, TLSSocket>();
  const listener = await listenForNodes({
    listen: '127.0.0.1:0',
    credentials: refusingRevoked(other, known),
    onNode: (name, socket) =>
      sockets.set(
        name,
        socket.on('data', (data) => socket.write(data)),
      ),
    onRefused: () => undefined,
  });
  const third = await watchCredentials(await issueCertificate({ dir, type: 'node', name: 'node-3' }));
  const dial = (credentials: CredentialsSource) =>
    dialNode({ address: listener.address, node: 'node-2', credentials, signal: never });
  const echoes = async (socket: TLSSocket) => {
    const answer = once(socket, 'data');
    socket.write('x');
    return String(await answer);
  };
  try {
    const revoked = await dial(pki.node);
    const stays = await dial(third);
    expect([await echoes(revoked), await echoes(stays)]).toEqual(['x', 'x']);
    const ended = once(revoked, 'close');
    const reason = once(sockets.get('node-1')!, 'error');
    await known.take(listOf(serialOf(pki.node)));
    await ended;
    expect((await reason)[0]).toMatchObject({ code: 'certificate_revoked' });
    expect(await echoes(stays)).toBe('x');
    // The one that dialled, now: node-2 is the one that was revoked.
    const dialler = await KnownRevocations.load(await mkdtemp(join(dir, 'state-')), log);
    const dialled = await dial(refusingRevoked(third, dialler));
    const failed = once(dialled, 'error');
    await dialler.take(listOf(serialOf(other)));
    expect((await failed)[0]).toMatchObject({ code: 'certificate_revoked' });
    stays.destroy();
  } finally {
    third.close();
    await listener.close();
  }
});
