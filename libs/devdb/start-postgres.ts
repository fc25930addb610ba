/**
 * A real PostgreSQL of one's own in a folder, for `npm start` and for tests: data kept between starts, loopback and a
 * Unix socket only, passwords everywhere. Not for production: there the settings name a server that somebody runs.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { type Binaries, findBinaries, ownerOf, type RunAs, runAs } from './binaries.js';
import { endLeftBehind, lastLines, serverStatus } from './postmaster.js';
import { endProcess, processIdentity } from './process-identity.js';

export interface PostgresOptions {
  /** Folder of this server alone: data, socket, log and the superuser's password. Made when missing. */
  dir: string;
  /** 0 or missing: any free one. */
  port?: number;
  /** Gives up safety against a crash of the machine for speed. For tests only. */
  fast?: boolean;
  /** Told in words what takes time. */
  log?: (message: string) => void;
}

export interface Login {
  user: string;
  password?: string;
  database: string;
}

export interface RunningPostgres {
  readonly host: string;
  readonly port: number;
  /** The postmaster. */
  readonly pid: number;
  /** Resolves when the server has ended, by stop() or by itself. */
  readonly ended: Promise<void>;
  /** A connection URL over loopback. Holds a secret. */
  url(login: Login): string;
  /** As user postgres, who may do everything. Holds a secret. */
  superuserUrl(database?: string): string;
  /** Ends it as `pg_ctl -m fast stop` does; harmless when it has ended. */
  stop(): Promise<void>;
}

const host = '127.0.0.1';

/** Starts the server in `dir`, after ending one that was left behind there. Throws with the last lines of its log. */
export async function startPostgres(options: PostgresOptions): Promise<RunningPostgres> {
  const dir = resolve(options.dir);
  const binaries = findBinaries();
  mkdirSync(dir, { recursive: true, mode: 0o711 });
  const run = runAs([binaries.postgres, join(dir, 'data')]);
  const data = join(dir, 'data');
  await endLeftBehind(data, options.log);
  const password = superuserPassword(dir);
  if (!existsSync(join(data, 'PG_VERSION'))) {
    options.log?.('making a new PostgreSQL data folder');
    await initialise(binaries, run, dir, password);
  }
  const { child, port } = await startOnFreePort(binaries, run, dir, options);
  const url = (login: Login) => {
    const secret = login.password === undefined ? '' : `:${encodeURIComponent(login.password)}`;
    return `postgresql://${encodeURIComponent(login.user)}${secret}@${host}:${port}/${encodeURIComponent(login.database)}`;
  };
  const ended = new Promise<void>((done) => {
    if (child.exitCode !== null || child.signalCode !== null) done();
    else child.once('exit', () => done());
  });
  return {
    host,
    port,
    pid: child.pid ?? 0,
    ended,
    url,
    superuserUrl: (database = 'postgres') => url({ user: 'postgres', password, database }),
    stop: () => stop(child, ended),
  };
}

/** Made once and kept beside the data, readable by the owner of the folder only. */
function superuserPassword(dir: string): string {
  const file = join(dir, 'superuser-password');
  if (!existsSync(file)) {
    if (existsSync(join(dir, 'data', 'PG_VERSION')))
      throw new Error(`${file} is gone, and with it the way into ${dir}`);
    writeFileSync(file, `${randomBytes(24).toString('base64url')}\n`, { mode: 0o600, flag: 'wx' });
  }
  return readFileSync(file, 'utf8').trim();
}

/** Made aside and renamed, so that a data folder is whole or not there. */
async function initialise(binaries: Binaries, run: RunAs, dir: string, password: string): Promise<void> {
  const fresh = join(dir, 'data.new');
  const passwordFile = join(dir, 'password.new');
  const owner = ownerOf(run);
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { mode: 0o700 });
  writeFileSync(passwordFile, password, { mode: 0o600 });
  if (owner) for (const path of [fresh, passwordFile]) chownSync(path, owner.uid, owner.gid);
  const locale = ['--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'];
  const auth = ['--username=postgres', '--auth=scram-sha-256', `--pwfile=${passwordFile}`];
  // Without syncing: what a crash of the machine leaves half-made here is made anew, it was never used.
  const args = [`--pgdata=${fresh}`, '--data-checksums', '--no-sync', '--no-instructions', ...locale, ...auth];
  try {
    await runToEnd(launch(binaries.initdb, run, args, dir, 'initdb.log'), join(dir, 'initdb.log'));
  } finally {
    rmSync(passwordFile, { force: true });
  }
  renameSync(fresh, join(dir, 'data'));
}

/** A port that was free can be taken a moment later; and what is left of a killed server needs a moment to go. */
async function startOnFreePort(
  binaries: Binaries,
  run: RunAs,
  dir: string,
  options: PostgresOptions,
): Promise<{ child: ChildProcess; port: number }> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const port = options.port || (await freePort());
    const child = launch(binaries.postgres, run, serverArguments(dir, port, options), dir, 'postgres.log');
    const status = await serverStatus(child, join(dir, 'data'), 60_000);
    if (status === 'ready') return { child, port };
    if (status === 'timeout') child.kill('SIGQUIT');
    const log = lastLines(join(dir, 'postgres.log'));
    const passing = /could not bind|shared memory block.*still in use|lock file "postmaster.pid" already exists/.test(
      log,
    );
    if (!passing || Date.now() > deadline) throw new Error(`PostgreSQL in ${dir} does not start:\n${log}`);
    await new Promise((done) => setTimeout(done, 200));
  }
}

function serverArguments(dir: string, port: number, options: PostgresOptions): string[] {
  const socketDir = join(dir, 'socket');
  // sun_path of unix(7) holds 107 bytes.
  const fits = Buffer.byteLength(join(socketDir, `.s.PGSQL.${port}`)) <= 107;
  const settings = {
    listen_addresses: host,
    unix_socket_directories: fits ? socketDir : '',
    max_connections: '100',
    shared_buffers: '64MB',
    max_wal_size: '256MB',
    jit: 'off',
    timezone: 'UTC',
    log_timezone: 'UTC',
    log_line_prefix: '%m [%p] %q%u@%d ',
    ...(options.fast ? { fsync: 'off', full_page_writes: 'off' } : {}),
  };
  const flags = Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${value}`]);
  return ['-D', join(dir, 'data'), '-p', String(port), ...flags];
}

/** Starts a binary in a process group of its own, so that Ctrl-C reaches only whoever stops it in order. */
function launch(binary: string, run: RunAs, args: string[], dir: string, logName: string): ChildProcess {
  const socketDir = join(dir, 'socket');
  const owner = ownerOf(run);
  mkdirSync(socketDir, { recursive: true });
  if (owner) chownSync(socketDir, owner.uid, owner.gid);
  const log = openSync(join(dir, logName), 'w', 0o600);
  try {
    const [command = binary, ...rest] = [...run.prefix, binary, ...args];
    return spawn(command, rest, {
      uid: run.uid,
      gid: run.gid,
      cwd: '/',
      // Nothing of the caller's PG… variables and language may reach the server.
      env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' },
      stdio: ['ignore', log, log],
      detached: true,
    });
  } finally {
    closeSync(log);
  }
}

async function runToEnd(child: ChildProcess, logFile: string): Promise<void> {
  const status = await new Promise<number | string | null>((done, fail) => {
    child.once('error', fail);
    child.once('exit', (code, signal) => done(code ?? signal));
  });
  if (status !== 0) throw new Error(`initdb failed (${status}):\n${lastLines(logFile)}`);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done, fail) => server.once('error', fail).listen(0, host, done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return address.port;
}

async function stop(child: ChildProcess, ended: Promise<void>): Promise<void> {
  const identity = child.pid ? processIdentity(child.pid) : undefined;
  if (identity && child.exitCode === null && child.signalCode === null)
    await endProcess(identity, [
      ['SIGINT', 20_000],
      ['SIGQUIT', 5_000],
      ['SIGKILL', 5_000],
    ]);
  await ended;
}
