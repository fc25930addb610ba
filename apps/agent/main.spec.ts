/** The agent as a process of its own, built as an operator runs it: killed in the middle of a deed, ended, misconfigured. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmod, copyFile, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { desired, FakeController, makeTestPki, type TestPki } from '#libs/agent/testing';
import { issueCertificate } from '#libs/pki';
import { DeedOutcome, Phase } from '#libs/rpc';

const run = promisify(execFile);
const root = resolve(import.meta.dirname, '../..');
let dir: string;
let pki: TestPki;
let controller: FakeController;
const children: ChildProcess[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-agent-main-'));
  pki = await makeTestPki(dir);
  const sources = [
    'apps/agent',
    'libs/agent',
    'libs/config',
    'libs/core',
    'libs/drivers',
    'libs/pki',
    'libs/process',
    'libs/rpc',
  ];
  const swc = join(root, 'node_modules/@swc/cli/bin/swc.js');
  await run(process.execPath, [swc, ...sources, '--out-dir', join(dir, 'dist'), '--copy-files', '--quiet'], {
    cwd: root,
  });
  await copyFile(join(root, 'package.json'), join(dir, 'package.json'));
  await symlink(join(root, 'node_modules'), join(dir, 'node_modules'));
});
afterEach(async () => {
  await Promise.all(children.splice(0).map((child) => end(child, 'SIGKILL')));
  await controller?.stop();
});
afterAll(() => rm(dir, { recursive: true }));

async function setUp() {
  controller = await FakeController.start(pki);
  const stateDir = await mkdtemp(join(dir, 'state-'));
  const file = join(stateDir, 'rhyzome-api.json');
  const { paths } = pki.node.current;
  const agent = { controller: controller.address, stateDir, driver: 'sim', pki: paths };
  await writeFile(file, JSON.stringify({ agent, log: { level: 'warn' } }));
  return { stateDir, file };
}

function start(file: string): ChildProcess & { text: () => string } {
  const child = spawn(process.execPath, [join(dir, 'dist/apps/agent/main.js'), '--config', file], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (text += data));
  children.push(child);
  return Object.assign(child, { text: () => text });
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | string | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode ?? child.signalCode;
  const ended = new Promise<number | string | null>((done) => child.once('exit', (code, name) => done(code ?? name)));
  child.kill(signal);
  return ended;
}

function hello(): Promise<unknown> {
  return controller.until('a hello with kinds', () => controller.all('hello').some(({ kinds }) => kinds.length > 0));
}

const network = { tenantId: 'acme', kind: 'network', id: randomUUID() };
const vm = { tenantId: 'acme', kind: 'instance', id: randomUUID() };
const networkSpec = { subnet: '10.0.0.0/24', leases: [] };

/** Without a disk, which is enough for a simulated machine. */
const diskless = {
  name: 'web',
  vcpus: 1,
  memoryMiB: 64,
  disks: [],
  interfaces: [],
  powerState: 'running',
  restartPolicy: 'stay',
  guest: { hostname: 'web', tags: {}, userData: null, sshKeys: [] },
};

async function boots(stateDir: string): Promise<number> {
  const { instances } = JSON.parse(await readFile(join(stateDir, 'sim-state.json'), 'utf8'));
  return new Map<string, { boots: number }>(instances).get(vm.id)?.boots ?? 0;
}

function askFor(operationId: string, repeatable: boolean): void {
  controller.send({ $case: 'deed', value: { operationId, ref: vm, verb: 'reboot', argumentsJson: '', repeatable } });
}

test.each([
  { repeatable: false, outcome: DeedOutcome.DEED_OUTCOME_UNCLEAR, bootsAfter: 1 },
  { repeatable: true, outcome: DeedOutcome.DEED_OUTCOME_DONE, bootsAfter: 2 },
])(
  'killed in the middle of a deed, repeatable: $repeatable; machines run on',
  async ({ repeatable, outcome, bootsAfter }) => {
    const { stateDir, file } = await setUp();
    controller.snapshot = [desired(network, 1n, networkSpec), desired(vm, 1n, diskless)];
    const first = start(file);
    await controller.reached(vm.id, Phase.PHASE_READY, 1n);
    const faults = join(stateDir, 'sim-faults.json');
    await writeFile(faults, JSON.stringify([{ operation: 'operate', delayMs: 60_000, times: 1 }]));
    askFor('op-a', repeatable);
    const beats = controller.all('heartbeat').length;
    await controller.until('a moment later', () => controller.all('heartbeat').length > beats + 2);
    expect(JSON.parse(await readFile(join(stateDir, 'deeds', 'op-a.json'), 'utf8')).state).toBe('started');
    expect(await end(first, 'SIGKILL')).toBe('SIGKILL');
    controller.received.length = 0;
    await rm(faults);
    start(file);
    await controller.reached(vm.id, Phase.PHASE_READY, 1n);
    expect(await boots(stateDir)).toBe(1);
    askFor('op-a', repeatable);
    const [result] = await controller.until(
      'the outcome',
      () => controller.all('deedResult').length > 0 && controller.all('deedResult'),
    );
    expect(result?.outcome).toBe(outcome);
    expect(await boots(stateDir)).toBe(bootsAfter);
  },
);

test('SIGTERM ends it with 0 in a moment', async () => {
  const { file } = await setUp();
  const child = start(file);
  await hello();
  const before = Date.now();
  expect(await end(child, 'SIGTERM')).toBe(0);
  expect(Date.now() - before).toBeLessThan(3000);
  expect(child.text()).not.toContain('"level":50');
});

test('credentials that cannot be used end it with 78 and the reason', async () => {
  const { file, stateDir } = await setUp();
  const issued = await issueCertificate({ dir: pki.dir, out: stateDir, type: 'node', name: 'exposed' });
  await chmod(issued.key, 0o640);
  const config = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(
    file,
    JSON.stringify({
      ...config,
      agent: { ...config.agent, pki: { ca: issued.ca, cert: issued.cert, key: issued.key } },
    }),
  );
  const child = start(file);
  const code = await new Promise((done) => child.once('exit', done));
  expect(code).toBe(78);
  expect(child.text()).toContain(`chmod 600 ${issued.key}`);
  await writeFile(file, JSON.stringify({ ...config, agent: { ...config.agent, pki: pki.server.current.paths } }));
  const other = start(file);
  expect(await new Promise((done) => other.once('exit', done))).toBe(78);
  expect(other.text()).toContain('needs that of a node');
});
