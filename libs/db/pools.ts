/**
 * The process's connections. Each pool takes on one of the three roles when it connects, so that row level security
 * holds even where one login carries them all; with logins of their own (`dbOperator`, `dbOwner`) the login cannot leave
 * its role either.
 */
import pg from 'pg';
import { prepareStatements } from './prepared.js';

export type Role = 'rhyzome_app' | 'rhyzome_operator' | 'rhyzome_owner';

// bigint counts (generations, versions, sizes in MiB) stay below 2^53; the parser refuses what does not.
pg.types.setTypeParser(pg.types.builtins.INT8, (text) => {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new Error(`bigint ${text} does not fit a number`);
  return value;
});
const INET_ARRAY = 1041 as Parameters<typeof pg.types.setTypeParser>[0];
// inet[] has no parser of its own: as text[].
pg.types.setTypeParser(INET_ARRAY, (text) => (text === '{}' ? [] : text.slice(1, -1).split(',')));

export interface PoolLimits {
  max?: number;
  applicationName?: string;
  statementTimeoutMs?: number;
  /** A transaction in which nothing is asked for so long is rolled back, and with it the locks that it holds. */
  idleTransactionMs?: number;
}

/** The settings of a connection that is `role`. */
export function asRole(connection: pg.PoolConfig, role: Role | null, limits: PoolLimits = {}): pg.ClientConfig {
  const settings = [
    ...(role ? [`-c role=${role}`] : []),
    `-c statement_timeout=${limits.statementTimeoutMs ?? 30_000}`,
    '-c lock_timeout=10000',
    `-c idle_in_transaction_session_timeout=${limits.idleTransactionMs ?? 60_000}`,
    '-c timezone=UTC',
    // Compiling takes longer than any of our statements.
    '-c jit=off',
    // What statements are given is keys and lists of them: planning them anew for each costs more than running them.
    '-c plan_cache_mode=force_generic_plan',
  ];
  return {
    ...connection,
    connectionTimeoutMillis: 5_000,
    keepAlive: true,
    application_name: limits.applicationName ?? 'rhyzome',
    options: [connection.options, ...settings].filter(Boolean).join(' '),
  };
}

/** A pool whose connections are `role`. Errors of idle connections are reported and survived. */
export function createPool(
  connection: pg.PoolConfig,
  role: Role | null,
  limits: PoolLimits = {},
  onError: (error: Error) => void = () => undefined,
): pg.Pool {
  const pool = new pg.Pool({
    ...asRole(connection, role, limits),
    max: limits.max ?? 10,
    idleTimeoutMillis: 60_000,
    pipeline: true,
  } as pg.PoolConfig);
  pool.on('error', onError);
  pool.on('connect', (client) => {
    client.on('error', onError);
    if (role) prepareStatements(client);
  });
  return pool;
}
