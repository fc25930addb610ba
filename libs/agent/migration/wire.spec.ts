/** The way from node to node takes in what is expected from the node that it is expected from, and nobody else. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Asked } from '#libs/drivers/contract';
import { type CredentialsSource, type IdentityType, initPki, issueCertificate, watchCredentials } from '#libs/pki';
import { Wire } from './wire.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
const never = new AbortController().signal;
const operation = '01234567-89ab-4def-8123-456789abcdef';
const closing: (() => unknown)[] = [];
let dir: string;
let here: Wire;
let there: Wire;
let stranger: Wire;

const credentialsOf = async (name: string, type: IdentityType = 'node'): Promise<CredentialsSource> => {
  const source = await watchCredentials(await issueCertificate({ dir, type, name }));
  closing.push(() => source.close());
  return source;
};
const wireOf = async (name: string, listen?: string, type?: IdentityType) => {
  const wire = await Wire.start({ credentials: await credentialsOf(name, type), listen, log });
  closing.push(() => wire.close());
  return wire;
};
const address = () => there.address!;
const ask = (wire: Wire, node = 'node-2', operationId = operation) =>
  wire.open({ node, address: address() }, operationId, 'greet', { name: 'one' }, never);
const echo = async ({ channel, question, accept }: Asked) => {
  const stream = await accept({ channel, hello: question.name });
  stream.pipe(stream);
};

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rz-wire-'));
  await initPki({ dir });
  here = await wireOf('node-1');
  there = await wireOf('node-2', '127.0.0.1:0');
  stranger = await wireOf('node-3');
});
afterAll(async () => {
  for (const close of closing.reverse()) await close();
  await rm(dir, { recursive: true });
});

test('an expected node is answered, and has bytes both ways', async () => {
  there.expect(operation, 'node-1', echo);
  const { answer, stream } = await ask(here);
  expect(answer).toEqual({ channel: 'greet', hello: 'one' });
  const back: Buffer[] = [];
  stream.on('data', (data: Buffer) => back.push(data));
  stream.write('a'.repeat(200_000));
  await expect.poll(() => Buffer.concat(back).length).toBe(200_000);
  there.forget(operation);
  await expect.poll(() => stream.destroyed).toBe(true);
});

test('another node, another operation and a forgotten one are refused', async () => {
  there.expect(operation, 'node-1', echo);
  await expect(ask(stranger)).rejects.toMatchObject({ code: 'not_expected' });
  await expect(ask(here, 'node-2', '11111111-89ab-4def-8123-456789abcdef')).rejects.toMatchObject({
    code: 'not_expected',
  });
  there.forget(operation);
  await expect(ask(here)).rejects.toMatchObject({ code: 'not_expected' });
});

test('whoever is no node is refused, and so is a node that is not the one that was named', async () => {
  there.expect(operation, 'billing', echo);
  const service = await wireOf('billing', undefined, 'service');
  await expect(ask(service)).rejects.toMatchObject({ code: 'peer_unreachable' });
  there.expect(operation, 'node-1', echo);
  await expect(ask(here, 'node-9')).rejects.toThrow(/node “node-2”, not “node-9”/);
});

test('a node that another CA vouches for is none, whatever it calls itself', async () => {
  there.expect(operation, 'node-1', echo);
  const own = dir;
  dir = await mkdtemp(join(tmpdir(), 'rz-wire-foreign-'));
  await initPki({ dir });
  const foreign = await wireOf('node-2', '127.0.0.1:0');
  foreign.expect(operation, 'node-1', echo);
  const to = { node: 'node-2', address: foreign.address! };
  await expect(here.open(to, operation, 'greet', {}, never)).rejects.toThrow(/not signed by the CA/);
  const intruder = await wireOf('node-1');
  await expect(ask(intruder)).rejects.toMatchObject({ code: 'peer_unreachable' });
  await rm(dir, { recursive: true });
  dir = own;
});

test('nobody gets in without a certificate', async () => {
  const [host, port] = address().split(':');
  const socket = connect({ host, port: Number(port), rejectUnauthorized: false });
  const ended = new Promise<string>((resolve) => {
    socket.once('error', (error) => resolve(error.message));
    socket.once('close', () => resolve('closed'));
  });
  socket.write('{}\n');
  expect(await ended).toMatch(/certificate required|closed|reset/i);
});

test('what goes wrong there is told here', async () => {
  there.expect(operation, 'node-1', async () => {
    throw new Error('the disk is on fire');
  });
  await expect(ask(here)).rejects.toThrow(/went wrong on that node/);
});
