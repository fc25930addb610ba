/**
 * Starts all of Rhyzome in the order in which the pieces need each other, as much at once as goes, and knows how to stop
 * it in the reverse order. Each piece is a file of its own; here is only the order.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type DevIssuer, type RealmAccess, startIssuer } from '#libs/devissuer';
import { type AdminCommand, adminCommand, CommandFailed } from './admin-command.js';
import { ensureCertificates } from './certificates.js';
import { type Child, keepAlive } from './child-process.js';
import { type DataFolder, lockDataFolder, openDataFolder } from './data-folder.js';
import { startDatabase } from './database.js';
import { type DevJson, publish, withdraw } from './dev-json.js';
import { chooseDriver, cleanLibvirtHost, startLibvirtHost } from './driver.js';
import type { DevOptions } from './options.js';
import { choosePorts, type Ports } from './ports.js';
import { endRecorded, type ProcessName, type ProcessRecord, recordProcesses } from './process-record.js';
import type { Progress } from './progress.js';
import { ensureService, ensureTenants, ensureTiny } from './provision.js';
import { untilNodeIsUp, untilReady } from './readiness.js';
import { writeSettings } from './settings.js';

export interface Stack {
  devJson: DevJson;
  devJsonFile: string;
  /** Of the development users of a tenant. */
  passwordOf: (tenant: string) => string;
}

/** Where the programs lie. */
export interface Checkout {
  root: string;
  dist: string;
}

/** What was started, to be stopped in reverse. */
export type Undo = { what: string; stop: () => Promise<void> | void }[];

/**
 * Starts it. Everything that was started is in `undo` at any moment, also when this throws. `signal` ends waiting.
 */
export async function startStack(
  options: DevOptions,
  checkout: Checkout,
  progress: Progress,
  undo: Undo,
  signal: AbortSignal,
): Promise<Stack> {
  const folder = openDataFolder(options.data);
  const unlock = lockDataFolder(folder.root);
  undo.push({ what: 'lock', stop: unlock });
  withdraw(folder.devJson);
  await endRecorded(folder.processes, progress.say);
  await cleanLibvirtHost(folder.host);
  const choice = await chooseDriver(options.driver);
  if (choice.driver === 'sim') progress.say(choice.why);
  const { ports, release } = await choosePorts(options.ports, folder.ports);
  undo.push({ what: 'claims of ports', stop: release });
  const processes = recordProcesses(folder.processes);
  undo.push({ what: 'process record', stop: () => rmSync(folder.processes, { force: true }) });
  signal.throwIfAborted();

  const [host, database, certificates, issuer] = await allOrNothing([
    choice.driver === 'libvirt' ? startHost(folder, checkout, progress, undo) : Promise.resolve(undefined),
    startPostgres(folder, ports, processes, progress, undo),
    progress.step('certificates', () => ensureCertificates(folder.pki, options.nodesAt)),
    openIssuer(folder, ports, options.tenants, progress, undo),
  ]);
  signal.throwIfAborted();
  const { driver } = choice;
  const { connections } = database;
  const { url, admin: client } = issuer;
  const keycloak = { url, clientId: client.clientId, clientSecretFile: client.secretFile };
  const { nodesAt } = options;
  const libvirtUri = host?.libvirtUri;
  writeSettings(folder, { connections, certificates, ports, driver, libvirtUri, nodesAt, issuer: keycloak });
  const admin = adminCommand(checkout.dist, folder.config);
  await progress.step('database schema', () => migrate(admin, folder));
  signal.throwIfAborted();

  const start = starter(folder, checkout, processes, progress, undo, host?.command);
  const children = [start('grpc'), start('api')];
  const startAgent = () => start('agent');
  const ready = serveAndProvision({
    startAgent,
    ports,
    driver,
    admin,
    issuer,
    tenants: options.tenants,
    checkout,
    progress,
    signal,
  });
  await Promise.race([ready, aborted(signal), ...children.map(({ hopeless }) => hopeless)]);

  const devJson: DevJson = {
    pid: process.pid,
    api: baseUrl(ports.api),
    grpc: `127.0.0.1:${ports.grpc}`,
    issuer: issuer.url,
    database: connections.db,
    driver,
    config: folder.config,
    pki: certificates.service,
    processes: processes.pids,
    tenants: tenantAccess(issuer, options.tenants),
  };
  announce(folder.devJson, devJson, processes, undo);
  const passwordOf = (tenant: string) => accessOf(issuer, tenant).userPassword;
  return { devJson, devJsonFile: folder.devJson, passwordOf };
}

/** Publishes it and keeps it current; it goes before anything else stops. */
function announce(file: string, devJson: DevJson, processes: ProcessRecord, undo: Undo): void {
  let withdrawn = false;
  undo.push({
    what: 'dev.json',
    stop: () => {
      withdrawn = true;
      withdraw(file);
    },
  });
  publish(file, devJson);
  processes.onChange(() => {
    if (!withdrawn) publish(file, devJson);
  });
}

interface Serving {
  startAgent: () => Child;
  ports: Ports;
  driver: 'sim' | 'libvirt';
  admin: AdminCommand;
  issuer: DevIssuer;
  tenants: string[];
  checkout: Checkout;
  progress: Progress;
  signal: AbortSignal;
}

/** Until all servers serve, and what they serve is there. */
async function serveAndProvision(serving: Serving): Promise<void> {
  const { startAgent, ports, driver, admin, issuer, tenants, checkout, progress, signal } = serving;
  const readyz = (port: number) => `${baseUrl(port)}/readyz`;
  const apiUrls = [readyz(ports.apiMonitoring), `${baseUrl(ports.api)}/v1/openapi.json`];
  await Promise.all([
    progress.step(`rhyzome-grpc and its node (${driver})`, async () => {
      await untilReady('rhyzome-grpc', [readyz(ports.grpcMonitoring)], signal);
      // Not before: an agent that finds nobody waits longer and longer between its tries.
      signal.throwIfAborted();
      const agent = startAgent();
      await Promise.race([untilNodeIsUp(admin, signal), agent.hopeless]);
    }),
    progress.step('rhyzome-api', () => untilReady('rhyzome-api', apiUrls, signal)),
    progress.step(`tenants ${tenants.join(', ')}`, async () => {
      const issuers = new Map(tenants.map((tenant) => [tenant, accessOf(issuer, tenant).issuer]));
      await Promise.all([ensureTenants(admin, issuers), ensureService(admin)]);
    }),
    progress.step('image tiny', () => ensureTiny(admin, driver, checkout.root, progress)),
  ]);
}

function baseUrl(port: number): string {
  return `http://127.0.0.1:${port}`;
}

/** Rejects when the stop is asked for. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

/** All of them done before a failure of one is told: whatever started has put itself into undo by then. */
async function allOrNothing<T extends readonly unknown[]>(work: [...{ [K in keyof T]: Promise<T[K]> }]): Promise<T> {
  const settled = await Promise.allSettled(work);
  for (const result of settled) if (result.status === 'rejected') throw result.reason;
  return settled.map((result) => (result as PromiseFulfilledResult<unknown>).value) as unknown as T;
}

function startHost(folder: DataFolder, checkout: Checkout, progress: Progress, undo: Undo) {
  return progress.step('libvirt in a host of its own', async () => {
    const host = await startLibvirtHost(folder.host, checkout.root);
    undo.push({ what: 'libvirt host', stop: () => host.stop() });
    return host;
  });
}

function startPostgres(folder: DataFolder, ports: Ports, processes: ProcessRecord, progress: Progress, undo: Undo) {
  return progress.step('PostgreSQL', async () => {
    const database = await startDatabase({
      dir: folder.postgres,
      port: ports.database,
      onPid: (pid) => processes.set('database', pid),
      say: progress.say,
    });
    undo.push({ what: 'PostgreSQL', stop: () => database.stop() });
    return database;
  });
}

function openIssuer(
  folder: DataFolder,
  ports: Ports,
  tenants: string[],
  progress: Progress,
  undo: Undo,
): Promise<DevIssuer> {
  return progress.step('token issuer', async () => {
    mkdirSync(folder.issuer, { recursive: true, mode: 0o700 });
    const issuer = await startIssuer({ port: ports.issuer, tenants, dataDir: folder.issuer });
    undo.push({ what: 'token issuer', stop: () => issuer.stop() });
    return issuer;
  });
}

/** Starts a program of the stack as a child that is kept alive; the agent in the host's namespaces where there is one. */
function starter(
  folder: DataFolder,
  checkout: Checkout,
  processes: ProcessRecord,
  progress: Progress,
  undo: Undo,
  insideHost: (argv: readonly string[]) => string[] = (argv) => [...argv],
): (name: ProcessName) => Child {
  const endWithParent = join(checkout.dist, 'apps', 'dev', 'end-with-parent.js');
  return (name) => {
    const main = join(checkout.dist, 'apps', name, 'main.js');
    const node = [process.execPath, '--enable-source-maps', '--import', endWithParent];
    const argv = [...node, main, '--config', folder.config];
    const child = keepAlive({
      name,
      argv: name === 'agent' ? insideHost(argv) : argv,
      cwd: checkout.root,
      logFolder: folder.logs,
      onPid: (pid) => processes.set(name, pid),
      say: progress.say,
    });
    undo.push({ what: name, stop: () => child.stop() });
    return child;
  };
}

function tenantAccess(issuer: DevIssuer, tenants: string[]): DevJson['tenants'] {
  return Object.fromEntries(
    tenants.map((tenant) => {
      const { issuer: url, clientId, clientSecret } = accessOf(issuer, tenant);
      return [tenant, { issuer: url, clientId, clientSecret }];
    }),
  );
}

function accessOf(issuer: DevIssuer, tenant: string): RealmAccess {
  const access = issuer.tenants[tenant];
  if (!access) throw new Error(`the token issuer has no realm ${tenant}`);
  return access;
}

/** Brings the schema up to date. Data of another state of this checkout may not fit: then it says what to do. */
async function migrate(admin: AdminCommand, folder: DataFolder): Promise<void> {
  try {
    await admin(['db', 'migrate']);
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    throw new Error(`${error.message}\nTo start anew, without what is there: rm -r ${folder.root}`, { cause: error });
  }
}
