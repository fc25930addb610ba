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
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { ensureIssuer, initPki, issueCertificate } from '#libs/pki';
import { TestInstallation } from '../apps/cli/test-harness.js';
import { until } from './harness/until.js';

const root = resolve(import.meta.dirname, '..');
const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
if (!hasOpenssl) console.warn('skipped: what needs the command openssl (Debian package openssl)');

let rhyzome: TestInstallation;
let first: Server;
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
  first = await startServer('first', '30d');
}, 120_000);
afterAll(async () => {
  for (const child of children) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await rhyzome?.remove();
});

/** A rhyzome-grpc, whose certificates hold for so long. */
async function startServer(name: string, validity: string): Promise<Server> {
  const [port, enrollmentPort, monitoring] = await freePorts(3);
  const listen = `localhost:${port}`;
  const enrollment = `localhost:${enrollmentPort}`;
  const settings = {
    ...rhyzome.connections,
    pki: {
      ca: file('server', 'ca.pem'),
      cert: file('server', 'server-grpc.pem'),
      key: file('server', 'server-grpc-key.pem'),
      issuer: { cert: file('ca', 'issuer.pem'), key: file('ca', 'issuer-key.pem'), validity },
    },
    grpc: { listen: [listen], monitoring: `127.0.0.1:${monitoring}`, enrollment: { listen: enrollment } },
  };
  rhyzome.settings(settings); // The command tells machines of this one.
  start('grpc', rhyzome.settings(settings, `${name}.json`));
  await until(`${name} serves`, async () => {
    const answer = await fetch(`http://127.0.0.1:${monitoring}/readyz`).catch(() => undefined);
    return answer?.ok;
  });
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
});
