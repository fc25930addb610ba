/** The databases of a server process, from its configuration. */

import { Kysely, PostgresDialect } from 'kysely';
import type { PoolConfig } from 'pg';
import { connectionOf } from '#libs/config';
import { Database } from './database.js';
import type { DB } from './generated/schema.js';
import { Listener } from './listener.js';
import { createPool } from './pools.js';

interface OpenLog {
  warn(message: string): void;
  warn(fields: object, message: string): void;
}

export interface DatabaseSettings {
  file: string;
  db: string;
  dbOperator?: string;
}

export interface Databases {
  db: Database;
  listener: Listener;
  operator: PoolConfig;
  /** Statements sent so far, begin and commit not counted. */
  readonly statements: number;
  close(): Promise<void>;
}

/**
 * As long as a job's lease: a server that was stopped in the middle of a transaction, or whose machine is gone, must not
 * keep its jobs and resources locked for longer than it keeps their leases.
 */
const IDLE_TRANSACTION_MS = 8_000;

/** Connects lazily; says where the walls in the database rest on one login only. */
export function openDatabases(
  program: string,
  settings: DatabaseSettings,
  log: OpenLog,
  needsOperator: boolean,
): Databases {
  const app = connectionOf(settings.db, settings.file) as PoolConfig;
  const operator = settings.dbOperator ? (connectionOf(settings.dbOperator, settings.file) as PoolConfig) : app;
  if (needsOperator && !settings.dbOperator) {
    log.warn(
      '“dbOperator” is not configured: one login carries all roles, so the walls in the database rest on it not leaving its role',
    );
  }
  const onError = (error: Error) => log.warn({ err: error.message }, 'a database connection broke');
  let statements = 0;
  const onQuery = () => {
    statements += 1;
  };
  const idleTransactionMs = IDLE_TRANSACTION_MS;
  const db = new Database({ app, operator, applicationName: program, idleTransactionMs, onError, onQuery });
  const listener = new Listener(
    needsOperator ? operator : app,
    needsOperator ? 'rhyzome_operator' : 'rhyzome_app',
    onError,
  );
  return {
    db,
    listener,
    operator,
    get statements() {
      return statements;
    },
    close: async () => {
      await listener.close();
      await db.close();
    },
  };
}

/** As rhyzome_owner, for the few things that only the owner of the tables may do. Whoever opens it destroys it. */
export function openOwner(connection: PoolConfig): Kysely<DB> {
  const pool = createPool(connection, 'rhyzome_owner', { max: 2, statementTimeoutMs: 0 });
  return new Kysely<DB>({ dialect: new PostgresDialect({ pool }) });
}

const RETRY_MS = 500;

/** Tries until the database answers: a server that starts before its database waits for it. */
export async function whenReachable<T>(log: OpenLog, work: () => Promise<T>): Promise<T> {
  for (let told = false; ; ) {
    try {
      return await work();
    } catch (error) {
      if ((error as { code?: string }).code !== 'database_unavailable') throw error;
      if (!told) log.warn('the database does not answer yet; waiting');
      told = true;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}
