/**
 * For the test of the walls in the database: statements that were made for one tenant, as they may be made in another's
 * scope, and a laboratory that makes them as rhyzome_app and takes everything back.
 */
import type pg from 'pg';
import { createPool } from '#libs/db';
import type { KindDefinition } from '#libs/resources';

/** A statement as it was made for a tenant. */
export interface Asked {
  text: string;
  parameters: readonly unknown[];
  tenantId: string;
}

/** Two tenants in which the same was done with a kind. */
export interface Pair {
  kind: KindDefinition;
  own: string;
  foreign: string;
}

const filter =
  /((?:"?\w+"?\.)?"?(?:target_)?tenant_id"?)\s*(=|<>|in|not in)\s*(any\s*\([^()]*\)|<?all\s*\([^()]*\)|\$\d+|'\w+'|\([^()]*\))/gi;

/** The statement without its conditions on the tenant; what they were asked with stays, so that the numbers fit. */
function withoutFilters(text: string): string {
  return text.replace(filter, (_, _column, _operator, value: string) => {
    if (/^(any|all)/i.test(value)) return `(${value.replace(/^\w+\s*/, '')} is not null or true)`;
    return value.startsWith('(')
      ? `(array[${value.slice(1, -1)}]::text[] is not null or true)`
      : `(${value}::text is not null or true)`;
  });
}

/** What all tenants take from: the next one free depends on what others have. */
export const isShared = (text: string) => /^select claim_wireguard_port\(\)/.test(text);

export const isWrite = (text: string) => /\b(insert into|update\s+"?\w+"?\s+(\w+\s+)?set|delete from)\b/i.test(text);

export interface Variant {
  text: string;
  parameters: readonly unknown[];
}

/** What was asked for one tenant of a pair, as it may be asked in the other's scope. */
export function variantsOf(pair: Pair, asked: Iterable<Asked>): Variant[] {
  const found = new Map<string, Variant>();
  const add = (text: string, parameters: readonly unknown[]) => {
    for (const one of [text, withoutFilters(text)]) {
      found.set(
        JSON.stringify([one, parameters], (_, value) => (typeof value === 'bigint' ? String(value) : value)),
        {
          text: one,
          parameters,
        },
      );
    }
  };
  for (const { text, parameters, tenantId } of asked) {
    if (tenantId === pair.foreign) add(text, parameters);
    if (tenantId !== pair.own) continue;
    add(text, parameters);
    add(
      text,
      parameters.map((value) => (value === pair.own ? pair.foreign : value)),
    );
  }
  return [...found.values()];
}

/** SQLSTATE of this test's own. */
const FOREIGN_WRITE = 'RZ999';

/** In a transaction of the superuser's, which is rolled back. */
export class Lab {
  constructor(
    private readonly client: pg.PoolClient,
    private readonly tables: string[],
  ) {}

  async query(text: string, parameters: readonly unknown[] = []): Promise<any[]> {
    return (await this.client.query(text, parameters as unknown[])).rows;
  }

  /**
   * Whoever writes a row of another tenant than this is stopped by a state of its own; and what is charged when a
   * transaction ends is charged with each statement.
   */
  async stopForeignWrites(tenantId: string): Promise<void> {
    await this.query(`create function stop_foreign() returns trigger language plpgsql as $$ begin
      raise exception 'a row of another tenant in %', tg_table_name using errcode = '${FOREIGN_WRITE}'; end $$`);
    for (const table of this.tables) {
      for (const [deed, rows] of [
        ['insert', ['new']],
        ['update', ['old', 'new']],
        ['delete', ['old']],
      ] as const) {
        await this.query(`create trigger stop_foreign_${deed} after ${deed} on ${table} for each row
          when (${rows.map((row) => `${row}.tenant_id <> '${tenantId}'`).join(' or ')}) execute function stop_foreign()`);
      }
    }
  }

  /** As the application in a tenant's scope; rows as text, or the SQLSTATE. Leaves nothing. */
  async asApp(tenantId: string, { text, parameters }: Variant): Promise<string[] | string> {
    await this.query('savepoint one');
    try {
      await this.query(`select set_config('rhyzome.tenant_id', '${tenantId}', true)`);
      await this.query('set local role rhyzome_app');
      const rows = await this.query(text, parameters);
      await this.query('set constraints all immediate');
      return rows.map((row) => JSON.stringify(row)).sort();
    } catch (error) {
      const { code, message } = error as { code?: string; message: string };
      if (code === undefined) throw error;
      if (code === FOREIGN_WRITE) throw new Error(`${message}: ${text} ${JSON.stringify(parameters)}`);
      return code;
    } finally {
      await this.query('rollback to savepoint one');
    }
  }

  async removeOthers(tenantId: string): Promise<void> {
    await this.query('set local session_replication_role = replica');
    for (const table of this.tables)
      await this.query(`delete from ${table} where tenant_id not in ('${tenantId}', 'system')`);
    await this.query(`delete from tenant where id not in ('${tenantId}', 'system')`);
    await this.query('set local session_replication_role = origin');
  }
}

export async function inLab<T>(connection: pg.PoolConfig, work: (lab: Lab) => Promise<T>): Promise<T> {
  const pool = createPool(connection, null, { max: 1 });
  const client = await pool.connect();
  try {
    const { rows } = await client.query<{ name: string }>(
      `select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
       where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace and not a.attisdropped order by 1`,
    );
    await client.query('begin isolation level repeatable read');
    return await work(
      new Lab(
        client,
        rows.map(({ name }) => name),
      ),
    );
  } finally {
    await client.query('rollback');
    client.release();
    await pool.end();
  }
}
