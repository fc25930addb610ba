/** The one way to the tables: scope and round trips, what is told when the server is gone, and how connections come back. */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createPool, Database, isDatabaseAway, Listener, translateDatabaseError } from '#libs/db';
import { testCluster } from '#libs/devdb';
import { type TestDatabase, testDatabase } from '#libs/testing';

let database: TestDatabase;

beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database?.close());

const tenantNow = sql<{ tenant: string | null }>`select current_tenant() as tenant`;

/** A way to the server that counts what the client sends, and that can be cut. */
async function countingWay() {
  const cluster = await testCluster();
  let turns = 0;
  const sockets = new Set<Socket>();
  const target = /^\//.test(cluster.host)
    ? { path: `${cluster.host}/.s.PGSQL.${cluster.port}` }
    : { host: cluster.host, port: cluster.port };
  const server: Server = createServer((socket) => {
    const up = connect(target as { host: string; port: number });
    let isAnswered = true;
    sockets.add(socket).add(up);
    socket.on('data', (chunk) => {
      // What is sent before an answer to the last came belongs to the same round trip.
      if (isAnswered) turns++;
      isAnswered = false;
      up.write(chunk);
    });
    up.on('data', (chunk) => {
      isAnswered = true;
      socket.write(chunk);
    });
    for (const [one, other] of [
      [socket, up],
      [up, socket],
    ] as const) {
      one.on('error', () => other.destroy());
      one.on('close', () => other.destroy());
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(database.url);
  url.hostname = '127.0.0.1';
  url.port = String((server.address() as { port: number }).port);
  return {
    url: url.href,
    turns: () => turns,
    cut: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

describe('the tenant’s scope', () => {
  test('holds for its statements and for nothing after them', async () => {
    const { db } = database;
    expect(await db.tenantRead('a', tenantNow.compile(db.builder))).toEqual([{ tenant: 'a' }]);
    expect(await db.tenantTransaction('b', (tx) => tenantNow.execute(tx).then(({ rows }) => rows))).toEqual([
      { tenant: 'b' },
    ]);
    const after = await Promise.all(Array.from({ length: 20 }, () => db.unscopedRead(tenantNow.compile(db.builder))));
    expect(after.flat()).toEqual(Array.from({ length: 20 }, () => ({ tenant: null })));
  });

  test('is not mixed up by many at once', async () => {
    const { db } = database;
    const tenants = Array.from({ length: 60 }, (_, i) => `t${i}`);
    const seen = await Promise.all(
      tenants.map((tenant, i) =>
        i % 2 === 0
          ? db.tenantRead(tenant, tenantNow.compile(db.builder))
          : db.tenantTransaction(tenant, async (tx) => {
              await sql`select pg_sleep(0.01)`.execute(tx);
              return (await tenantNow.execute(tx)).rows;
            }),
      ),
    );
    expect(seen.map(([row]) => row?.tenant)).toEqual(tenants);
  });

  test.each([['A'], ["a'; drop table x"], [''], ['a b']])('refuses %j, which is no tenant’s id', async (tenant) => {
    const { db } = database;
    await expect(db.tenantRead(tenant, tenantNow.compile(db.builder))).rejects.toThrow('not a tenant id');
    await expect(db.tenantTransaction(tenant, (tx) => tenantNow.execute(tx))).rejects.toThrow('not a tenant id');
  });

  test('a failing read leaves a connection that serves the next', async () => {
    const db = new Database({ app: database.connection, maxConnections: 1 });
    const wrong = sql`select 1 / 0`.compile(db.builder);
    await expect(db.tenantRead('a', wrong)).rejects.toMatchObject({ code: '22012' });
    await expect(db.tenantTransaction('a', (tx) => sql`select 1 / 0`.execute(tx))).rejects.toThrow('division');
    expect(await db.tenantRead('b', tenantNow.compile(db.builder))).toEqual([{ tenant: 'b' }]);
    expect(db.stats()).toMatchObject({ total: 1, waiting: 0 });
    await db.close();
  });

  test('costs a read no round trip of its own', async () => {
    const way = await countingWay();
    const db = new Database({ app: { connectionString: way.url }, maxConnections: 1 });
    const read = () => db.tenantRead('a', tenantNow.compile(db.builder));
    await read();
    const before = way.turns();
    for (let i = 0; i < 10; i++) await read();
    expect(way.turns() - before).toBe(10);
    await db.close();
    await way.cut();
  });
});

describe('when the server is gone', () => {
  test('every way in says so, as something that may be tried again', async () => {
    const way = await countingWay();
    const db = new Database({ app: { connectionString: way.url }, maxConnections: 2 });
    await db.ping();
    await way.cut();
    const gone = { code: 'database_unavailable', details: { retryAfterSeconds: 2 } };
    await expect(db.ping()).rejects.toMatchObject(gone);
    await expect(db.tenantRead('a', tenantNow.compile(db.builder))).rejects.toMatchObject(gone);
    await expect(db.tenantTransaction('a', (tx) => tenantNow.execute(tx))).rejects.toMatchObject(gone);
    await expect(db.operatorTransaction((tx) => tenantNow.execute(tx))).rejects.toMatchObject(gone);
    await db.close();
  });

  test('in the middle of a transaction, it is told the same and nothing was done', async () => {
    const db = new Database({ app: database.connection });
    const work = db.tenantTransaction('a', async (tx) => {
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(tx);
      await sql`insert into audit (tenant_id, id, actor, action, result) values ('a', gen_random_uuid(), 'x', 'x', 'done')`.execute(
        tx,
      );
      await killBackend(rows[0]!.pid);
      await tenantNow.execute(tx);
    });
    await expect(work).rejects.toMatchObject({ code: 'database_unavailable' });
    expect(await db.tenantRead('a', sql`select 1 from audit`.compile(db.builder))).toEqual([]);
    await db.close();
  });

  test('a pool goes on with new connections when its own were ended', async () => {
    const errors: Error[] = [];
    const db = new Database({
      app: database.connection,
      applicationName: 'killed',
      maxConnections: 3,
      onError: (e) => errors.push(e),
    });
    await Promise.all([1, 2, 3].map(() => db.ping()));
    await killNamed('killed');
    await expect.poll(() => db.stats().total).toBe(0);
    expect(errors.length).toBeGreaterThan(0);
    expect(await db.tenantRead('a', tenantNow.compile(db.builder))).toEqual([{ tenant: 'a' }]);
    await db.close();
  });

  test('an error that is not of absence stays what it is; a deadlock or a lock’s timeout is overload', () => {
    const error = (code: string) => Object.assign(new Error(code), { code });
    for (const code of ['57P01', '53300', '08006', 'ECONNREFUSED', 'ECONNRESET', 'ENOENT']) {
      expect(isDatabaseAway(error(code)), code).toBe(true);
    }
    for (const code of ['40P01', '40001', '55P03', '57014']) {
      expect(translateDatabaseError(error(code)), code).toMatchObject({ code: 'overloaded' });
    }
    for (const code of ['23505', '42501', '22P02', '42P01']) {
      expect(translateDatabaseError(error(code)), code).toMatchObject({ code });
    }
  });
});

describe('Listener', () => {
  test('calls back on notifications, and once after each reconnect, since something may have been missed', async () => {
    const errors: Error[] = [];
    const listener = new Listener(database.connection, 'rhyzome_app', (error) => errors.push(error));
    const heard: (string | null)[] = [];
    const off = listener.on('rhyzome_node', (payload) => heard.push(payload));
    await listener.start();
    expect(heard).toEqual([null]);
    await notify('rhyzome_node', 'one');
    await expect.poll(() => heard).toEqual([null, 'one']);
    await killNamed('rhyzome listen');
    await expect.poll(() => heard, { timeout: 5_000 }).toEqual([null, 'one', null]);
    expect(errors.length).toBeGreaterThan(0);
    await notify('rhyzome_node', 'two');
    await expect.poll(() => heard).toEqual([null, 'one', null, 'two']);
    // A channel that is asked for later is listened to as well.
    const late: (string | null)[] = [];
    listener.on('rhyzome_tenant', (payload) => late.push(payload));
    off();
    await notify('rhyzome_node', 'three');
    await notify('rhyzome_tenant', 'four');
    await expect.poll(() => late).toEqual(['four']);
    expect(heard).toHaveLength(4);
    await listener.close();
  });
});

async function asSuperuser(text: string, values: unknown[]): Promise<void> {
  const pool = createPool(database.connection, null, { max: 1, applicationName: 'killer' });
  await pool.query(text, values);
  await pool.end();
}

const killBackend = (pid: number) => asSuperuser('select pg_terminate_backend($1)', [pid]);
const killNamed = (name: string) =>
  asSuperuser(
    `select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and datname = current_database()`,
    [name],
  );
const notify = (channel: string, payload: string) => asSuperuser('select pg_notify($1, $2)', [channel, payload]);
