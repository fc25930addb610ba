/** The development database: its logins have their roles and no more, and it comes back after a kill. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { createPool } from '#libs/db';
import { type DevDatabase, startDatabase } from './database.js';
import { choosePorts } from './ports.js';

async function one(connectionString: string, sql: string): Promise<unknown> {
  const pool = createPool({ connectionString }, null, { max: 1 });
  try {
    return Object.values((await pool.query(sql)).rows[0] ?? {})[0];
  } finally {
    await pool.end();
  }
}

describe('startDatabase', () => {
  it('has a login for each role, and starts again on the same port after a kill', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'rhyzome-devdatabase-'));
    chmodSync(dir, 0o755);
    const pids: number[] = [];
    let database: DevDatabase | undefined;
    try {
      const { ports, release } = await choosePorts({}, join(dir, 'ports.json'));
      release();
      const port = ports.database;
      const options = {
        dir: join(dir, 'postgres'),
        port,
        onPid: (pid: number) => pids.push(pid),
        say: () => undefined,
      };
      database = await startDatabase(options);
      const { db, dbOperator, dbOwner } = database.connections;
      expect(
        await one(db, "select pg_has_role('rhyzome_app', 'set') and not pg_has_role('rhyzome_operator', 'set')"),
      ).toBe(true);
      expect(
        await one(
          dbOperator,
          "select pg_has_role('rhyzome_operator', 'set') and not pg_has_role('rhyzome_app', 'set')",
        ),
      ).toBe(true);
      expect(
        await one(
          dbOwner,
          "select pg_has_role('rhyzome_owner', 'set') and has_database_privilege(current_database(), 'create')",
        ),
      ).toBe(true);
      for (const url of [db, dbOperator, dbOwner])
        expect(await one(url, 'select rolsuper or rolbypassrls from pg_roles where rolname = current_user')).toBe(
          false,
        );
      process.kill(database.pid, 'SIGKILL');
      await vi.waitFor(() => expect(pids).toHaveLength(2), 20_000);
      expect(await one(db, 'select 1')).toBe(1);
      expect(database.pid).toBe(pids[1]);
    } finally {
      await database?.stop();
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
