/**
 * How a machine comes to be a node, stays one and ceases to be one, over the processes that an operator runs: a token and
 * a request for a certificate, renewal before its end, and revocation that ends what is under way.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { ensureIssuer, initPki, issueCertificate, loadCredentials, requestForNextKey } from '#libs/pki';
import { enrollmentCaller, renewCertificate } from '#libs/rpc';
import { TestInstallation } from '../apps/cli/test-harness.js';
import { until } from './harness/until.js';

/** What is promised is a second; machines that run all tests at once are slow. */
const SOON_MS = 4_000;

const root = resolve(import.meta.dirname, '..');
const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
if (!hasOpenssl) console.warn('skipped: what needs the command openssl (Debian package openssl)');

let rhyzome: TestInstallation;
let first: Server;
/** Whose certificates hold for a moment. */
let second: Server;
const children: ChildProcess[] = [];

interface Server {
  listen: string;
  enrollment: string;
}

interface Ended {
  status: number;
  stdout: string;
  stderr: string;
}

const file = (...names: string[]) => join(rhyzome.dir, ...names);

beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  await initPki({ dir: file('ca') });
  await ensureIssuer(file('ca'));
  await issueCertificate({ dir: file('ca'), out: file('server'), type: 'server', name: 'grpc', dns: ['localhost'] });
  second = await startServer('second', '20s');
  first = await startServer('first', '30d');
}, 240_000);
afterAll(async () => {
  for (const child of children) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await rhyzome?.remove();
});

/** A rhyzome-grpc, whose certificates hold for so long. */
async function startServer(name: string, validity: string, certificate = 'grpc'): Promise<Server> {
  const [port, enrollmentPort, monitoring] = await freePorts(3);
  const listen = `localhost:${port}`;
  const enrollment = `localhost:${enrollmentPort}`;
  const settings = {
    ...rhyzome.connections,
    pki: {
      ca: file('server', 'ca.pem'),
      cert: file('server', `server-${certificate}.pem`),
      key: file('server', `server-${certificate}-key.pem`),
      issuer: { cert: file('ca', 'issuer.pem'), key: file('ca', 'issuer-key.pem'), validity },
    },
    grpc: { listen: [listen], monitoring: `127.0.0.1:${monitoring}`, enrollment: { listen: enrollment } },
  };
  rhyzome.settings(settings); // The command tells machines of this one.
  start('grpc', rhyzome.settings(settings, `${name}.json`));
  await until(
    `${name} serves`,
    async () => {
      const answer = await fetch(`http://127.0.0.1:${monitoring}/readyz`).catch(() => undefined);
      return answer?.ok;
    },
    120_000,
  );
  return { listen, enrollment };
}

function start(program: 'grpc' | 'agent', config: string): ChildProcess {
  const main = join(root, 'dist', 'apps', program, 'main.js');
  const child = spawn(process.execPath, [main, '--config', config], { stdio: ['ignore', 'pipe', 'pipe'] });
  const log = `${config}.${program}.log`;
  for (const stream of [child.stdout!, child.stderr!])
    stream.on('data', (data) => writeFileSync(log, data, { flag: 'a' }));
  children.push(child);
  return child;
}

async function stopped(child: ChildProcess): Promise<void> {
  child.kill('SIGTERM');
  await once(child, 'exit');
}

/** A machine with settings for an agent, and nothing else yet. */
class MachineFolder {
  readonly config: string;
  readonly paths: { ca: string; cert: string; key: string };

  constructor(
    readonly name: string,
    readonly server: Server,
    labels = {},
  ) {
    mkdirSync(file(name), { recursive: true });
    const at = (path: string) => file(name, 'pki', path);
    this.paths = { ca: at('ca.pem'), cert: at('node.pem'), key: at('node-key.pem') };
    const agent = { controller: server.listen, stateDir: file(name, 'state'), driver: 'sim', labels, pki: this.paths };
    this.config = file(name, 'rhyzome-api.json');
    writeFileSync(this.config, JSON.stringify({ agent, log: { level: 'debug' } }));
  }

  /** From its next start on. */
  dials(...controllers: string[]): void {
    const settings = JSON.parse(readFileSync(this.config, 'utf8'));
    settings.agent.controller = controllers;
    writeFileSync(this.config, JSON.stringify(settings));
  }

  enroll(...more: string[]): Promise<Ended> {
    return runAgent('enroll', '--config', this.config, '--controller', this.server.enrollment, ...more);
  }

  get certificate(): X509Certificate {
    return new X509Certificate(readFileSync(this.paths.cert));
  }

  get log(): string {
    return readFileSync(`${this.config}.agent.log`, 'utf8');
  }
}

function runAgent(...args: string[]): Promise<Ended> {
  const main = join(root, 'dist', 'apps', 'agent', 'main.js');
  return new Promise((done) => {
    execFile(process.execPath, [main, ...args], { timeout: 60_000 }, (error, stdout, stderr) =>
      done({ status: error ? (typeof error.code === 'number' ? error.code : -1) : 0, stdout, stderr }),
    );
  });
}

const trust = (made: { token: string; caFingerprint: string }) => [
  '--token',
  made.token,
  '--ca-fingerprint',
  made.caFingerprint,
];

async function stateOf(node: string): Promise<string | undefined> {
  const nodes = await rhyzome.json<{ name: string; state: string }[]>('node', 'list');
  return nodes.find(({ name }) => name === node)?.state;
}

/** Of the rhyzome-grpc that holds the node's stream; null: none does. */
async function replicaOf(node: string): Promise<string | null | undefined> {
  const nodes = await rhyzome.json<{ name: string; replica: string | null }[]>('node', 'list');
  return nodes.find(({ name }) => name === node)?.replica;
}

/** What somebody sees who was refused. */
async function refused(ask: () => Promise<unknown>): Promise<{ code: number; details: string }> {
  const error = await ask().then(
    () => undefined,
    (thrown: grpc.ServiceError) => thrown,
  );
  if (!error) throw new Error('it was not refused');
  return { code: error.code, details: error.details };
}

/** A call that goes on for as long as it may. */
function watchHealth(target: string, files: { ca: string; cert: string; key: string }) {
  const credentials = grpc.credentials.createSsl(
    readFileSync(files.ca),
    readFileSync(files.key),
    readFileSync(files.cert),
  );
  const client = new grpc.Client(target, credentials);
  const asIs = (bytes: Buffer) => bytes;
  const call = client.makeServerStreamRequest('/grpc.health.v1.Health/Watch', asIs, asIs, Buffer.alloc(0));
  let hasEnded = false;
  const ended = once(call, 'error').then(([error]) => {
    hasEnded = true;
    client.close();
    return error as grpc.ServiceError;
  });
  return {
    opened: new Promise((resolve) => call.once('data', resolve)),
    ended,
    hasEnded: () => hasEnded,
    cancel: () => call.cancel(),
  };
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}

describe('a machine enrolls', () => {
  it('by the one command that the administrator is told, and runs as that node', async () => {
    const made = await rhyzome.json('node', 'enroll', 'node-1', '--label', 'zone=a', '--label', 'rack=r1');
    const machine = new MachineFolder('m1', first, { rack: 'r2' });
    expect(made.command).toMatch(
      /^rhyzome-agent enroll --controller localhost:\d+ --token rhe_\S+ --ca-fingerprint sha256:/,
    );
    const told = await runAgent(...made.command.split(' ').slice(1), '--config', machine.config);
    expect(told).toMatchObject({ status: 0, stderr: '' });
    expect(told.stdout).toContain('This machine is now the node node-1');
    expect(statSync(machine.paths.key).mode & 0o777).toBe(0o600);
    expect(existsSync(`${machine.paths.key}.next`)).toBe(false);
    start('agent', machine.config);
    await until('the node is up', async () => (await stateOf('node-1')) === 'up');
    // What stands in the machine's own settings counts more.
    expect((await rhyzome.json('node', 'show', 'node-1')).labels).toEqual({ zone: 'a', rack: 'r2' });
    expect(await rhyzome.json('node', 'token', 'list')).toMatchObject([{ node: 'node-1', state: 'used' }]);
    expect((await rhyzome.audit('system')).map(({ action }) => action)).toEqual(['node.enroll', 'certificate.issue']);
    const again = await machine.enroll(...trust(made));
    expect(again).toMatchObject({ status: 0, stdout: expect.stringContaining('already') });
  });

  it.skipIf(!hasOpenssl)('with a certificate that OpenSSL takes for a client’s and not for a server’s', async () => {
    const { paths } = new MachineFolder('m1', first);
    const verify = (purpose: string) => {
      const chain = ['-untrusted', paths.cert, paths.cert];
      return spawnSync('openssl', ['verify', '-x509_strict', '-purpose', purpose, '-CAfile', paths.ca, ...chain]);
    };
    expect(verify('sslclient').stdout.toString()).toContain('OK');
    expect(verify('sslserver').status).not.toBe(0);
  });

  it('only once, and whatever is wrong with a token, the refusal is the same', async () => {
    const known = await rhyzome.json('node', 'enroll', 'node-2');
    const ended = await rhyzome.json('node', 'enroll', 'node-2');
    await rhyzome.ok('node', 'token', 'revoke', ended.id);
    const old = await rhyzome.json('node', 'enroll', 'node-2', '--expires', '1m');
    await sql`update enrollment_token set expires_at = now() where id = ${old.id}`.execute(rhyzome.db.operator);
    const at = (name: string) => ({ ca: file(name, 'ca'), cert: file(name, 'cert'), key: file(name, 'key') });
    const [mine, others] = [await requestForNextKey(at('mine')), await requestForNextKey(at('others'))];
    const caller = enrollmentCaller(first.enrollment);
    const ca = await caller.trustAnchors();
    const ask = (token: string, request = mine, nodeName = '') => caller.enroll(ca, { token, request, nodeName });
    const refusals = [
      () => ask(`rhe_${'A'.repeat(32)}`),
      () => ask('rubbish'),
      () => ask(ended.token),
      () => ask(old.token),
      () => ask(known.token, mine, 'node-3'),
    ].map(refused);
    const got = await ask(known.token, mine, 'node-2');
    // The answer was lost, or is asked for by the other replica.
    expect(
      (await enrollmentCaller(second.enrollment).enroll(ca, { token: known.token, request: mine, nodeName: '' }))
        .certificate,
    ).toBe(got.certificate);
    refusals.push(refused(() => ask(known.token, others)));
    const all = await Promise.all(refusals);
    expect(all[0]).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
    for (const refusal of all) expect(refusal).toEqual(all[0]);
    await rhyzome.ok('pki', 'revoke', '--type', 'node', '--name', 'node-2');
    expect(await refused(() => ask(known.token))).toEqual(all[0]);
  });

  it('never with a CA of another fingerprint: then the token is not sent', async () => {
    const made = await rhyzome.json('node', 'enroll', 'node-4');
    const machine = new MachineFolder('m4', first);
    const wrong = `sha256:${'0'.repeat(64)}`;
    expect(await machine.enroll('--token', made.token, '--ca-fingerprint', wrong)).toMatchObject({
      status: 78,
      stderr: expect.stringContaining('nothing was sent'),
    });
    expect((await rhyzome.json('node', 'token', 'list'))[0]).toMatchObject({ id: made.id, state: 'open' });
    const mistaken = await machine.enroll(...trust(made), '--name', 'node-5');
    expect(mistaken).toMatchObject({ status: 1, stderr: expect.stringContaining('does not hold here') });
    expect(existsSync(machine.paths.cert)).toBe(false);
  });

  it('not more often than the limit allows', async () => {
    const caller = enrollmentCaller(second.enrollment);
    const ca = await caller.trustAnchors();
    const tries = Array.from({ length: 30 }, () =>
      refused(() => caller.enroll(ca, { token: 'x', request: Buffer.from('x'), nodeName: '' })),
    );
    const codes = new Set((await Promise.all(tries)).map(({ code }) => code));
    expect(codes).toEqual(new Set([grpc.status.INVALID_ARGUMENT, grpc.status.RESOURCE_EXHAUSTED]));
    // A machine among many behind that address waits for its turn.
    const made = await rhyzome.json('node', 'enroll', 'node-6');
    expect(await new MachineFolder('m6', second).enroll(...trust(made))).toMatchObject({
      status: 0,
      stderr: expect.stringContaining('asking again in'),
    });
  });
});

describe('what is revoked', () => {
  it('ends a node’s stream at once, and lets it in again when it has enrolled anew', async () => {
    const machine = new MachineFolder('m1', first);
    const before = await rhyzome.json('pki', 'list', '--type', 'node', '--name', 'node-1');
    expect(before).toMatchObject([{ state: 'valid', serial: machine.certificate.serialNumber }]);
    await rhyzome.ok('node', 'revoke', 'node-1', '--reason', 'stolen');
    const began = Date.now();
    await until('the stream’s end', async () => (await replicaOf('node-1')) === null, 20_000, 10);
    expect(Date.now() - began).toBeLessThan(SOON_MS);
    expect(await rhyzome.json('pki', 'list', '--all', '--name', 'node-1')).toMatchObject([
      { state: 'revoked', reason: 'stolen' },
    ]);
    await until('the agent knows', () => machine.log.includes('Your certificate was revoked'));
    const made = await rhyzome.json('node', 'enroll', 'node-1');
    expect(await machine.enroll(...trust(made), '--force')).toMatchObject({ status: 0 });
    // Without a restart: it sees its new certificate.
    await until('the node is up', async () => (await stateOf('node-1')) === 'up');
  });

  it('ends calls of services and servers on every replica, also of certificates that nobody recorded', async () => {
    const issue = (type: 'service' | 'server', name: string) =>
      issueCertificate({ dir: file('ca'), out: file('hand'), type, name, ...(type === 'server' && { dns: ['x'] }) });
    const billing = await issue('service', 'billing');
    const api = await issue('server', 'api');
    const other = await issue('service', 'other');
    const watches = [first, second].flatMap(({ listen }) => [billing, api].map((files) => watchHealth(listen, files)));
    const spared = watchHealth(first.listen, other);
    await Promise.all([...watches, spared].map(({ opened }) => opened));
    await rhyzome.ok('service', 'revoke', 'billing');
    await rhyzome.ok('pki', 'revoke', api.serial.toLowerCase());
    const began = Date.now();
    for (const { ended } of watches) expect(await ended).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
    expect(Date.now() - began).toBeLessThan(SOON_MS);
    expect(await watchHealth(second.listen, api).ended).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
    expect(spared.hasEnded()).toBe(false);
    spared.cancel();
    const told = await rhyzome.audit('system');
    expect(told.map(({ action }) => action)).toEqual(expect.arrayContaining(['service.revoke', 'certificate.revoke']));
  });

  it('is no server for an agent any more; and what a restored database forgot comes back from the nodes', async () => {
    const dir = file('ca');
    const { serial } = await issueCertificate({
      dir,
      out: file('server'),
      type: 'server',
      name: 'fallen',
      dns: ['localhost'],
    });
    const fallen = await startServer('fallen', '30d', 'fallen');
    const machine = new MachineFolder('m9', first);
    const made = await rhyzome.json('node', 'enroll', 'node-9');
    expect(await machine.enroll(...trust(made))).toMatchObject({ status: 0 });
    // Whom it dials first is chance: most likely that one.
    machine.dials(...Array(9).fill(fallen.listen), first.listen);
    let agent = start('agent', machine.config);
    await until('it is with a server', async () => !!(await replicaOf('node-9')));
    while ((await replicaOf('node-9')) !== fallen.listen) {
      await stopped(agent);
      await until('it is away', async () => !(await replicaOf('node-9')));
      agent = start('agent', machine.config);
      await until('it is with a server', async () => !!(await replicaOf('node-9')));
    }

    await rhyzome.ok('pki', 'revoke', serial, '--reason', 'stolen');
    await until('it has gone to the other', async () => (await replicaOf('node-9')) === first.listen);
    const refusals = () => machine.log.split('of server “fallen” was revoked').length - 1;
    await stopped(agent);
    const before = refusals();
    machine.dials(fallen.listen);
    agent = start('agent', machine.config);
    await until('it refuses it from its start on', () => refusals() > before);
    expect(await replicaOf('node-9')).toBeFalsy();
    await stopped(agent);

    // As in a backup that is older.
    await sql`delete from revocation where serial = ${serial}`.execute(rhyzome.db.operator);
    const rows = async () =>
      (
        await sql<{ by: string; isTaken: boolean }>`select revoked_by as by, taken_over_at is not null as "isTaken"
          from revocation where serial = ${serial}`.execute(rhyzome.db.operator)
      ).rows;
    expect(await rows()).toEqual([]);
    machine.dials(first.listen);
    agent = start('agent', machine.config);
    await until('the database knows again', async () => (await rows()).length === 1);
    expect(await rows()).toEqual([{ by: expect.stringMatching(/^node:node-/), isTaken: true }]);
    expect((await rhyzome.audit('system')).map(({ action }) => action)).toContain('certificate.takeOver');
    expect(
      await watchHealth(first.listen, {
        ca: file('server', 'ca.pem'),
        cert: file('server', 'server-fallen.pem'),
        key: file('server', 'server-fallen-key.pem'),
      }).ended,
    ).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
    await stopped(agent);
  }, 240_000);

  it('is a node’s certificate, too, when the node is removed', async () => {
    const machine = new MachineFolder('m1', first);
    const watch = watchHealth(first.listen, machine.paths);
    await watch.opened;
    await rhyzome.ok('node', 'remove', 'node-1');
    expect(await watch.ended).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
    await until('it stays away', async () => (await stateOf('node-1')) === undefined);
  });
});

describe('a certificate that ends soon', () => {
  it('is renewed by the agent, twice and more, with another key each time; the node stays up', async () => {
    const made = await rhyzome.json('node', 'enroll', 'short');
    const machine = new MachineFolder('m5', second);
    expect(await machine.enroll(...trust(made), '--controller', first.enrollment)).toMatchObject({ status: 0 });
    // As if it had come from the other: thirty days are long.
    const one = await renewCertificate({ target: second.listen }, await loadCredentials(machine.paths));
    start('agent', machine.config);
    await until('the node is up', async () => (await stateOf('short')) === 'up');
    const seen = new Set([one.fingerprint]);
    const keys = new Set([one.key.toString()]);
    await until(
      'two renewals',
      () => {
        seen.add(machine.certificate.fingerprint256);
        keys.add(readFileSync(machine.paths.key, 'utf8'));
        return seen.size >= 3;
      },
      120_000,
    );
    expect(keys.size).toBeGreaterThanOrEqual(3);
    await until('it is up with the last one', async () => (await stateOf('short')) === 'up');
    const rows = await rhyzome.json('pki', 'list', '--all', '--name', 'short');
    expect(rows.at(-1).issuedBy).toMatch(/^token:/);
    expect(rows.slice(0, -1).every(({ issuedBy }: { issuedBy: string }) => issuedBy === 'node:short')).toBe(true);
    expect(rows[0].renews).toBe(rows[1].serial);
  }, 180_000);

  it('is a service’s: the command renews it', async () => {
    const { ca, cert, key } = await issueCertificate({
      dir: file('ca'),
      out: file('hand'),
      type: 'service',
      name: 'metering',
    });
    const files = ['--ca', ca, '--cert', cert, '--key', key];
    await rhyzome.ok('pki', 'renew', '--controller', first.listen, ...files);
    expect((await loadCredentials({ ca, cert, key })).notAfter.getTime()).toBeLessThan(Date.now() + 31 * 86_400_000);
    await rhyzome.ok('service', 'revoke', 'metering');
    await until('it is refused', async () => {
      const { status } = await rhyzome.run('pki', 'renew', '--controller', first.listen, ...files);
      return status === 1;
    });
  });
});
