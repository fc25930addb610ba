/**
 * One PostgreSQL for all tests of a run, started when the first test asks. The runner's global setup serves it over a
 * Unix socket, since the tests run in other threads; it ends with the run, and what a killed run left goes at the next.
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createDatabase, dropDatabase } from './create-database.js';
import { endLeftBehind } from './postmaster.js';
import { isRunning, processIdentity } from './process-identity.js';
import { type RunningPostgres, startPostgres } from './start-postgres.js';

const variable = 'RHYZOME_TEST_CLUSTER';

export interface TestCluster {
  host: string;
  port: number;
  /** Connection URL as user postgres, who may do everything. */
  superuserUrl(database?: string): string;
  /** Connection URL of another login. */
  url(login: { user: string; password?: string; database: string }): string;
  /** False when the database was there already. */
  createDatabase(name: string, template?: string): Promise<boolean>;
  dropDatabase(name: string): Promise<void>;
}

/** For the runner: serves one lazily started server below `cacheDir`. Returns the end of it. */
export async function serveTestCluster(cacheDir: string): Promise<() => Promise<void>> {
  const parent = resolve(cacheDir, 'test-postgres');
  await sweep(parent);
  const self = processIdentity(process.pid);
  const dir = join(parent, `${self?.pid}-${self?.start}`);
  const socketDir = mkdtempSync(join(tmpdir(), 'rhyzome-test-'));
  chmodSync(socketDir, 0o700);
  let cluster: Promise<RunningPostgres> | undefined;
  const server = createServer((socket) => {
    cluster ??= startPostgres({ dir, fast: true });
    cluster.then(
      (running) => socket.end(JSON.stringify({ superuserUrl: running.superuserUrl() })),
      (error: Error) => socket.end(JSON.stringify({ error: error.message })),
    );
  });
  const path = join(socketDir, 'cluster');
  await new Promise<void>((done, fail) => server.once('error', fail).listen(path, done));
  process.env[variable] = path;
  return async () => {
    delete process.env[variable];
    await new Promise((done) => server.close(done));
    const running = await cluster?.catch(() => undefined);
    await running?.stop();
    for (const folder of [dir, socketDir]) rmSync(folder, { recursive: true, force: true });
  };
}

let known: Promise<TestCluster> | undefined;

/** For tests: the server of this run. Throws outside of a run of the project's tests. */
export function testCluster(): Promise<TestCluster> {
  known ??= askForCluster();
  return known;
}

async function askForCluster(): Promise<TestCluster> {
  const path = process.env[variable];
  if (!path) throw new Error('There is no test server: run tests by vitest with this project’s vitest.config.ts');
  let answer = '';
  for await (const chunk of connect(path)) answer += chunk;
  const { superuserUrl, error } = JSON.parse(answer) as { superuserUrl: string; error?: string };
  if (error) throw new Error(error);
  const base = new URL(superuserUrl);
  const withDatabase = (url: URL, database: string) => {
    const changed = new URL(url);
    changed.pathname = `/${encodeURIComponent(database)}`;
    return changed;
  };
  return {
    host: base.hostname,
    port: Number(base.port),
    superuserUrl: (database = 'postgres') => withDatabase(base, database).href,
    url: ({ user, password, database }) => {
      const changed = withDatabase(base, database);
      changed.username = encodeURIComponent(user);
      changed.password = encodeURIComponent(password ?? '');
      return changed.href;
    },
    createDatabase: (name, template) => createDatabase(superuserUrl, name, template),
    dropDatabase: (name) => dropDatabase(superuserUrl, name),
  };
}

/** Ends and removes the servers of runs that are no more. */
async function sweep(parent: string): Promise<void> {
  mkdirSync(parent, { recursive: true, mode: 0o711 });
  for (const name of readdirSync(parent)) {
    const [, pid, start] = /^(\d+)-(\d+)$/.exec(name) ?? [];
    if (pid && start && isRunning({ pid: Number(pid), start })) continue;
    const data = join(parent, name, 'data');
    if (existsSync(data)) await endLeftBehind(data);
    rmSync(join(parent, name), { recursive: true, force: true });
  }
}
