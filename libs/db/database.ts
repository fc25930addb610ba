/**
 * The only way to the tables. Whatever serves a tenant goes through `tenantRead` or `tenantTransaction`, which set the
 * tenant for row level security in the same round trip as the first statement; `operator` spans tenants and is for
 * claiming jobs, node streams, event numbering and the CLI.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import {
  CompiledQuery,
  type DatabaseConnection,
  Kysely,
  PostgresDialect,
  PostgresDriver,
  type Transaction,
  type TransactionSettings,
} from 'kysely';
import type pg from 'pg';
import { isTenantId } from '#libs/core';
import { translateDatabaseError } from './errors.js';
import type { DB } from './generated/schema.js';
import type { Channel } from './listener.js';
import { asRole, createPool } from './pools.js';
import { Renewals } from './renewals.js';
import { againWhileStale } from './stale-reads.js';
import { Waker } from './waker.js';

/** A transaction; in a tenant's scope it sees that tenant's rows (and global images) only. */
export type Tx = Transaction<DB>;

export interface DatabaseOptions {
  app: pg.PoolConfig;
  /** Absent: `app`'s login takes on the operator's role, if it may. */
  operator?: pg.PoolConfig;
  maxConnections?: number;
  applicationName?: string;
  /** See PoolLimits. */
  idleTransactionMs?: number;
  onError?: (error: Error) => void;
  /** Called for each statement that goes to the server; for counting, and for tests of the walls. */
  onQuery?: (text: string, asked: AskedStatement) => void;
}

/** How a statement went to the server. */
export interface AskedStatement {
  parameters: readonly unknown[];
  /** In whose scope; absent: in none, or as operator. */
  tenantId?: string;
}

interface Scope {
  /** Undefined: the operator's, which spans tenants. */
  tenantId?: string;
  /** Whom to wake once this transaction is committed. */
  wakes: [Channel, string | undefined][];
  /** Its commit went out with its last statement. */
  isEnded?: boolean;
}

const scope = new AsyncLocalStorage<Scope>();

/** Within a transaction: tells `channel` to look again once it is committed, and not if it is rolled back. */
export function wakeAfterCommit(channel: Channel, payload?: string): void {
  const current = scope.getStore();
  if (!current) throw new Error('outside of a transaction there is no commit to wait for');
  current.wakes.push([channel, payload]);
}

/**
 * Sends a transaction's last statement together with its commit: one turn less. Nothing may be asked of `tx` afterwards.
 * Where the statement fails, the server takes the commit for a rollback; what fails only at the commit (deferred
 * constraints) is thrown from here, too.
 */
export async function committingWith<T>(tx: Tx, statement: () => Promise<T>): Promise<T> {
  const current = scope.getStore();
  if (!current) throw new Error('outside of a transaction there is nothing to commit');
  const result = statement();
  const ended = tx.executeQuery(CompiledQuery.raw('commit'));
  current.isEnded = true;
  return (await allInOrder<[T, unknown]>([result, ended]))[0];
}

/** Sends `begin` and the tenant's setting together with the transaction's first statement. */
class ScopedDriver extends PostgresDriver {
  override async beginTransaction(connection: DatabaseConnection, settings: TransactionSettings): Promise<void> {
    const current = scope.getStore();
    if (current?.tenantId === undefined || settings.isolationLevel || settings.accessMode) {
      await super.beginTransaction(connection, settings);
      if (current?.tenantId !== undefined)
        await connection.executeQuery(CompiledQuery.raw(setTenant(current.tenantId)));
      return;
    }
    const begun = connection.executeQuery(CompiledQuery.raw(`begin; ${setTenant(current.tenantId)}`));
    // A failure aborts the transaction, and with it the first statement, which reports it.
    begun.catch(() => undefined);
  }

  override async commitTransaction(connection: Parameters<PostgresDriver['commitTransaction']>[0]): Promise<void> {
    if (!scope.getStore()?.isEnded) await super.commitTransaction(connection);
  }

  override async rollbackTransaction(connection: Parameters<PostgresDriver['rollbackTransaction']>[0]): Promise<void> {
    if (!scope.getStore()?.isEnded) await super.rollbackTransaction(connection);
  }
}

class ScopedDialect extends PostgresDialect {
  constructor(private readonly options: { pool: pg.Pool }) {
    super(options);
  }
  override createDriver(): PostgresDriver {
    return new ScopedDriver(this.options);
  }
}

function setTenant(tenantId: string): string {
  if (!isTenantId(tenantId)) throw new Error('not a tenant id');
  return `select set_config('rhyzome.tenant_id', '${tenantId}', true)`;
}

/** Columns of the statement that begins a transaction. */
const inOrder = [
  ...['seqscan', 'bitmapscan', 'sort', 'hashjoin', 'mergejoin'].map((way) => [`enable_${way}`, 'off']),
  ['plan_cache_mode', 'force_generic_plan'],
]
  .map(([name, value]) => `set_config('${name}', '${value}', true)`)
  .join(', ');
const inOrderOnly = `${inOrder}, set_config('enable_incremental_sort', 'off', true)`;

/** One statement in a transaction of its own that begins with settings. */
async function inOneTrip<Row>(pool: pg.Pool, setting: string, query: CompiledQuery<Row>): Promise<Row[]> {
  try {
    const client = await pool.connect();
    let failure: Error | undefined;
    try {
      const begun = client.query(`begin; ${setting}`);
      const result = client.query(query.sql, query.parameters as unknown[]);
      const ended = client.query('commit');
      const outcomes = await Promise.allSettled([begun, result, ended]);
      for (const outcome of outcomes) if (outcome.status === 'rejected') failure ??= outcome.reason as Error;
      if (failure) throw failure;
      return (await result).rows as Row[];
    } finally {
      // A broken connection is thrown away; an ordinary SQL error leaves it usable, as commit ended the transaction.
      client.release(failure !== undefined && !('severity' in failure));
    }
  } catch (error) {
    throw translateDatabaseError(error);
  }
}

export class Database {
  private readonly appPool: pg.Pool;
  private readonly operatorPool: pg.Pool;
  private readonly waker: Waker;
  private readonly operatorWaker: Waker;
  private readonly app: Kysely<DB>;
  /** Spans tenants. */
  readonly operator: Kysely<DB>;

  constructor(private readonly options: DatabaseOptions) {
    const { maxConnections: max, applicationName, idleTransactionMs } = options;
    const limits = { max, applicationName, idleTransactionMs };
    this.appPool = createPool(options.app, 'rhyzome_app', limits, options.onError);
    this.operatorPool = createPool(options.operator ?? options.app, 'rhyzome_operator', limits, options.onError);
    const onError = options.onError ?? (() => undefined);
    this.waker = new Waker(this.appPool, onError);
    this.operatorWaker = new Waker(this.operatorPool, onError);
    const { onQuery } = options;
    const log = onQuery
      ? ({ query }: { query: CompiledQuery }) =>
          onQuery(query.sql, { parameters: query.parameters, tenantId: scope.getStore()?.tenantId })
      : undefined;
    this.app = new Kysely<DB>({ dialect: new ScopedDialect({ pool: this.appPool }), ...(log && { log }) });
    this.operator = new Kysely<DB>({ dialect: new PostgresDialect({ pool: this.operatorPool }), ...(log && { log }) });
  }

  /** Only for building queries; executing on it throws. */
  get builder(): Kysely<DB> {
    return this.app;
  }

  /**
   * Runs one reading statement in the tenant's scope: one round trip. `inOrder`: along an index in the order of the
   * answer, by one plan for all tenants. The planner thinks in average tenants, for which sorting all that they have is
   * cheaper; for a large one it costs a hundred times as much (docs/performance.md).
   */
  async tenantRead<Row>(
    tenantId: string,
    query: CompiledQuery<Row>,
    options: { inOrder?: boolean } = {},
  ): Promise<Row[]> {
    const setting = options.inOrder ? `${setTenant(tenantId)}, ${inOrder}` : setTenant(tenantId);
    this.options.onQuery?.(query.sql, { parameters: query.parameters, tenantId });
    return againWhileStale(() => inOneTrip(this.appPool, setting, query));
  }

  /** Runs one statement that spans tenants, along indexes in its own orders whatever the planner believes. */
  async operatorInOrder<Row>(query: CompiledQuery<Row>): Promise<Row[]> {
    return againWhileStale(() => inOneTrip(this.operatorPool, `select ${inOrderOnly}`, query));
  }

  /** Runs `work` in one transaction in the tenant's scope; a throw rolls back. */
  async tenantTransaction<T>(tenantId: string, work: (tx: Tx) => Promise<T>): Promise<T> {
    try {
      const current: Scope = { tenantId, wakes: [['rhyzome_event', undefined]] };
      const result = await scope.run(current, () => this.app.transaction().execute(work));
      for (const [channel, payload] of current.wakes) this.waker.wake(channel, payload);
      return result;
    } catch (error) {
      throw translateDatabaseError(error);
    }
  }

  /** As app without a tenant: nodes, the installation, the issuers' directory. */
  async unscopedRead<Row>(query: CompiledQuery<Row>): Promise<Row[]> {
    this.options.onQuery?.(query.sql, { parameters: query.parameters });
    return againWhileStale(async () => {
      try {
        return (await this.appPool.query(query.sql, query.parameters as unknown[])).rows as Row[];
      } catch (error) {
        throw translateDatabaseError(error);
      }
    });
  }

  /** Runs `work` in one transaction that spans tenants. */
  async operatorTransaction<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    try {
      const current: Scope = { wakes: [['rhyzome_event', undefined]] };
      const result = await scope.run(current, () => this.operator.transaction().execute(work));
      for (const [channel, payload] of current.wakes) this.operatorWaker.wake(channel, payload);
      return result;
    } catch (error) {
      throw translateDatabaseError(error);
    }
  }

  /** Resolves when the server answers; throws RhyzomeError `database_unavailable`. */
  async ping(): Promise<void> {
    try {
      await this.appPool.query('select 1');
    } catch (error) {
      throw translateDatabaseError(error);
    }
  }

  /** Keeps leases that span tenants by a statement that runs every so often in a thread of its own. */
  renewals(statement: string, everyMs: number): Renewals {
    const { options } = this;
    const onError = (message: string) => options.onError?.(new Error(`renewing leases failed: ${message}`));
    const limits = {
      applicationName: `${options.applicationName ?? 'rhyzome'} leases`,
      statementTimeoutMs: everyMs * 2,
    };
    const connection = asRole(options.operator ?? options.app, 'rhyzome_operator', limits);
    return new Renewals({ connection, statement, everyMs, onError });
  }

  /** Tells others to look again, after a single statement that was a transaction of its own. */
  wake(channel: Channel): void {
    this.operatorWaker.wake(channel);
  }

  /** Connections in use and waiting, for metrics. */
  stats(): { total: number; idle: number; waiting: number } {
    const { totalCount, idleCount, waitingCount } = this.appPool;
    return { total: totalCount, idle: idleCount, waiting: waitingCount };
  }

  async close(): Promise<void> {
    await Promise.all([this.waker.flush(), this.operatorWaker.flush()]);
    await Promise.all([this.app.destroy(), this.operator.destroy()]);
  }
}

/**
 * Awaits statements of one transaction that were sent together (they are pipelined on its connection), and throws the
 * first failure in their order: what fails after it fails because of it.
 */
export async function allInOrder<T extends readonly unknown[]>(
  statements: readonly [...{ [K in keyof T]: Promise<T[K]> }],
): Promise<T> {
  const outcomes = await Promise.allSettled(statements);
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  return outcomes.map((outcome) => (outcome as PromiseFulfilledResult<unknown>).value) as unknown as T;
}
