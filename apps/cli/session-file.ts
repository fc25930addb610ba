/**
 * The logins of the user who runs the command, by API, in a file that only that user can read. Every change is made under
 * a lock and written aside, then renamed: two commands at once neither lose a login nor use up one refresh token twice.
 */
import { randomUUID } from 'node:crypto';
import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  type Stats,
  writeFileSync,
} from 'node:fs';
import { homedir, hostname } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CliError, exitStatus } from './exit-status.js';

export interface Session {
  /** Base URL without a slash at its end. */
  api: string;
  issuer: string;
  clientId: string;
  /** Words that were asked for beside `openid`. */
  scope: string[];
  /** A secret. */
  accessToken: string;
  /** A secret; null: there is none. */
  refreshToken: string | null;
  /** RFC 3339. */
  expiresAt: string;
}

export interface Sessions {
  /** The API that commands mean which name none. */
  current: string | null;
  byApi: Record<string, Session>;
}

interface Holder {
  id: string;
  /** Home directories are shared, process ids are not. */
  host: string;
  pid: number;
  at: number;
}

/** Longer than a refresh can take with its timeouts. */
const LOCK_STALE_MS = 60_000;
const LOCK_WAIT_MS = 75_000;
const LOCK_LOOK_MS = 50;

export class SessionFile {
  private readonly file: string;
  private readonly lock: string;

  constructor(readonly folder: string) {
    this.file = join(folder, 'sessions.json');
    this.lock = join(folder, 'sessions.lock');
  }

  /** `$XDG_CONFIG_HOME/rhyzome`, else `~/.config/rhyzome` (XDG Base Directory Specification; a relative path counts as none). */
  static ofUser(env: NodeJS.ProcessEnv = process.env): SessionFile {
    const configured = env.XDG_CONFIG_HOME ?? '';
    return new SessionFile(join(isAbsolute(configured) ? configured : join(homedir(), '.config'), 'rhyzome'));
  }

  /** Throws CliError where others can read it or it cannot be understood. */
  read(): Sessions {
    const folder = stateOf(this.folder);
    if (!folder) return { current: null, byApi: {} };
    refuseShared(this.folder, folder, 'directory');
    const state = stateOf(this.file);
    if (!state) return { current: null, byApi: {} };
    refuseShared(this.file, state, 'file');
    try {
      const { current, byApi } = JSON.parse(readFileSync(this.file, 'utf8')) as Sessions;
      return { current: current ?? null, byApi: { ...byApi } };
    } catch (cause) {
      if (!(cause instanceof SyntaxError)) throw cause;
      throw refused(`${this.file} is not JSON. Delete it and log in again.`, cause);
    }
  }

  /** Changes it under the lock; what `work` gives is written before this returns. Nobody else changes it meanwhile. */
  async change<T>(work: (sessions: Sessions) => Promise<T> | T): Promise<T> {
    this.makeFolder();
    const release = await this.acquire();
    try {
      const sessions = this.read();
      const result = await work(sessions);
      this.write(sessions);
      return result;
    } finally {
      release();
    }
  }

  private makeFolder(): void {
    mkdirSync(this.folder, { recursive: true, mode: 0o700 });
    const state = stateOf(this.folder);
    if (state) refuseShared(this.folder, state, 'directory');
  }

  private write(sessions: Sessions): void {
    const aside = `${this.file}.${process.pid}.new`;
    try {
      writeFileSync(aside, `${JSON.stringify(sessions, null, 2)}\n`, { mode: 0o600, flush: true });
      // The mode above counts for a new file only, and is narrowed by nothing.
      chmodSync(aside, 0o600);
      renameSync(aside, this.file);
    } catch (error) {
      rmSync(aside, { force: true });
      throw error;
    }
  }

  /** Throws CliError where somebody holds it for too long. */
  private async acquire(): Promise<() => void> {
    const self: Holder = { id: randomUUID(), host: hostname(), pid: process.pid, at: Date.now() };
    const aside = `${this.lock}.${process.pid}.${self.id}`;
    writeFileSync(aside, JSON.stringify(self), { mode: 0o600 });
    try {
      const until = Date.now() + LOCK_WAIT_MS;
      for (;;) {
        if (linked(aside, this.lock)) return () => this.release(self);
        const holder = this.holder();
        if (holder && isGone(holder)) this.takeAway(holder);
        if (Date.now() > until) throw refused(`Another command holds ${this.lock}. Try again.`);
        await sleep(LOCK_LOOK_MS);
      }
    } finally {
      rmSync(aside, { force: true });
    }
  }

  private release({ id }: Holder): void {
    if (this.holder()?.id === id) rmSync(this.lock, { force: true });
  }

  private holder(): Holder | undefined {
    try {
      return JSON.parse(readFileSync(this.lock, 'utf8')) as Holder;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** A dead holder's lock, and no other's: of two that rename it one gets it, and puts back what is not the dead one's. */
  private takeAway(dead: Holder): void {
    const taken = `${this.lock}.${process.pid}.taken`;
    try {
      renameSync(this.lock, taken);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      throw error;
    }
    const holder = JSON.parse(readFileSync(taken, 'utf8')) as Holder;
    if (holder.id !== dead.id) linked(taken, this.lock);
    rmSync(taken, { force: true });
  }
}

/** A link is made whole or not at all, and by one alone. */
function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function isGone({ host, pid, at }: Holder): boolean {
  if (Date.now() - at > LOCK_STALE_MS) return true;
  if (host !== hostname()) return false;
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

function stateOf(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

/** Tokens are worth what their owner may do: whoever else can read or replace them has them. */
function refuseShared(path: string, state: Stats, kind: 'file' | 'directory'): void {
  if (kind === 'file' ? !state.isFile() : !state.isDirectory()) throw refused(`${path} is no ${kind}.`);
  const self = process.getuid?.();
  if (self !== undefined && state.uid !== self) throw refused(`${path} belongs to another user.`);
  if ((state.mode & 0o077) === 0) return;
  const mode = kind === 'file' ? '600' : '700';
  throw refused(`${path} can be read by others, and holds tokens: chmod ${mode} ${path}, and log in again.`);
}

function refused(message: string, cause?: unknown): CliError {
  return new CliError(exitStatus.configuration, 'sessions_refused', message, { cause });
}
