/**
 * What every subcommand works with: the settings, the database as the role that the subcommand needs, the terminal, and
 * who is asking. Heavy libraries are loaded when they are used, so that `--help` starts at once.
 */
import { userInfo } from 'node:os';
import type { ConnectionOptions, RhyzomeConfig } from '#libs/config';
import type { Database, Tx } from '#libs/db';
import type { AuditEntry } from '#libs/events';
import { CliError, type ExitStatus, exitStatus } from './exit-status.js';

export interface Terminal {
  out(text: string): void;
  err(text: string): void;
  /** Absent where nobody can be asked. */
  ask?(question: string): Promise<string>;
}

export interface Globals {
  config?: string;
  json?: boolean;
}

/** What a change leaves in the audit; who did it is added. */
export type AdminAudit = Omit<AuditEntry, 'actor' | 'result' | 'source'>;

/** A transaction that spans tenants, with the audit rows of what is done in it. */
export interface Change {
  tx: Tx;
  audit(entry: AdminAudit): Promise<void>;
}

export class Context {
  private warned = false;
  /** What the command ends with although nothing went wrong. */
  status: ExitStatus = exitStatus.ok;

  constructor(
    private readonly terminal: Terminal,
    private readonly globals: () => Globals,
  ) {}

  /** The data with `--json`, else the text. */
  show(data: unknown, text: string): void {
    this.terminal.out(`${this.globals().json ? JSON.stringify(data, null, 2) : text}\n`);
  }

  /** Straight to standard output, with or without `--json`. */
  write(text: string): void {
    this.terminal.out(text);
  }

  /** What goes on meanwhile: to standard error, so that results stay alone. */
  tell(text: string): void {
    this.terminal.err(`${text}\n`);
  }

  warn(message: string): void {
    this.terminal.err(`rhyzome: ${message}\n`);
  }

  /** Throws CliError where nobody can be asked. */
  async ask(question: string): Promise<string> {
    if (!this.terminal.ask || this.globals().json)
      throw new CliError(exitStatus.usage, 'not_confirmed', 'Nobody can be asked here; --force goes without asking.');
    return this.terminal.ask(question);
  }

  /** The settings and their file. Throws ConfigError. */
  async settings<const K extends keyof RhyzomeConfig = never>(needs: readonly K[] = []) {
    const { findConfig, loadConfig } = await import('#libs/config');
    const file = findConfig(this.globals().config);
    return { file, settings: loadConfig(needs, { file }) };
  }

  /** The connection for a role, or `db` where none is set up for it. */
  async connection(wanted: 'dbOperator' | 'dbOwner'): Promise<ConnectionOptions> {
    const { file, settings } = await this.settings();
    const { ConfigError, connectionOf } = await import('#libs/config');
    const text = settings[wanted] ?? settings.db;
    if (text === undefined)
      throw new ConfigError('config_invalid', file, 'the settings are wrong', [
        { pointer: `/${wanted}`, message: 'is missing, and so is /db' },
      ]);
    if (settings[wanted] === undefined && !this.warned) {
      this.warned = true;
      this.warn(
        `warning: no ${wanted} in the settings: with one login the walls between tenants rest on SET ROLE only.`,
      );
    }
    return connectionOf(text, file);
  }

  /** Runs `work` with the database as operator, which spans tenants, and closes it. */
  async database<T>(work: (db: Database) => Promise<T>): Promise<T> {
    const connection = await this.connection('dbOperator');
    const [{ Database }, { connectionOf }] = await Promise.all([import('#libs/db'), import('#libs/config')]);
    const { file, settings } = await this.settings();
    const db = new Database({
      // A login of the operator's own cannot take on the other role.
      app: settings.db === undefined ? connection : connectionOf(settings.db, file),
      operator: connection,
      maxConnections: 2,
      applicationName: 'rhyzome admin',
    });
    try {
      return await this.reach(connection, () => work(db));
    } finally {
      await db.close();
    }
  }

  /** Runs `work` on a connection; throws CliError with where the database should be when it is away. */
  async reach<T>(connection: ConnectionOptions, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const { isDatabaseAway } = await import('#libs/db');
      const cause = error instanceof Error && error.name === 'RhyzomeError' ? error.cause : error;
      if (!isDatabaseAway(cause)) throw error;
      const { describeConnection } = await import('#libs/config');
      const why = (cause as NodeJS.ErrnoException).code ?? (cause as Error).message;
      throw new CliError(
        exitStatus.databaseAway,
        'database_unavailable',
        `the ${describeConnection(connection)} is away (${why}). Is the server running, and are host and port right?`,
        { cause: error },
      );
    }
  }

  /** Reads in one transaction that spans tenants. */
  async read<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.database((db) => db.operatorTransaction(work));
  }

  /** Changes in one transaction that spans tenants; its audit rows stand or fall with it. */
  async change<T>(work: (change: Change) => Promise<T>): Promise<T> {
    return this.database((db) => this.changeOn(db, work));
  }

  /** As `change`, on a database that is open. */
  async changeOn<T>(db: Database, work: (change: Change) => Promise<T>): Promise<T> {
    const { writeAudit } = await import('#libs/events');
    const actor = administrator();
    return db.operatorTransaction((tx) =>
      work({ tx, audit: (entry) => writeAudit(tx, { ...entry, actor, result: 'done' }) }),
    );
  }
}

/** `admin:LOGIN` of whoever runs this. */
export function administrator(): string {
  try {
    return `admin:${userInfo().username}`;
  } catch (error) {
    // A uid without an entry in passwd, as in containers.
    if ((error as NodeJS.ErrnoException).code === 'ERR_SYSTEM_ERROR') return `admin:uid-${process.getuid?.()}`;
    throw error;
  }
}
