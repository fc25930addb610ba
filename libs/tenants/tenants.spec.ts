/** Tenants and services on a real database: races, what a deletion takes with it, and who may not touch any of it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectionOf } from '#libs/config';
import { newId } from '#libs/core';
import { Database, migrate } from '#libs/db';
import { testCluster } from '#libs/devdb';
import {
  createService,
  createTenant,
  deleteTenant,
  findService,
  findTenant,
  removeService,
  type TenantIssuer,
  updateTenant,
} from './index.js';

const name = `tenants_${process.pid}_${newId().slice(-6)}`;
let db: Database;

beforeAll(async () => {
  const cluster = await testCluster();
  await cluster.createDatabase(name);
  const connection = connectionOf(cluster.superuserUrl(name), process.cwd());
  await migrate(connection, 'sql/migrations');
  db = new Database({ app: connection, operator: connection, maxConnections: 4 });
});
afterAll(async () => {
  await db?.close();
  await (await testCluster()).dropDatabase(name);
});

const issuer = (realm: string): TenantIssuer => ({
  issuer: `https://id.example/realms/${realm}`,
  audience: null,
  jwksUri: null,
});
const make = (id: string, issuers: TenantIssuer[] = []) =>
  db.operatorTransaction((tx) => createTenant(tx, { id, displayName: id, issuers }));

describe('tenants', () => {
  it('give an issuer to exactly one of many that want it', async () => {
    const ids = ['r1', 'r2', 'r3', 'r4'];
    const outcomes = await Promise.allSettled(ids.map((id) => make(id, [issuer('race')])));
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected');
    expect(refused).toHaveLength(3);
    for (const { reason } of refused) expect(reason).toMatchObject({ code: 'already_exists' });
    const left = await db.operator.selectFrom('tenant').select('id').where('id', 'in', ids).execute();
    expect(left).toHaveLength(1);
  });

  it('make an id exactly once', async () => {
    const outcomes = await Promise.allSettled([1, 2, 3].map(() => make('once')));
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected', 'rejected']);
  });

  it('swap issuers in one change, and keep the old ones when it is refused', async () => {
    await make('swap', [issuer('a'), issuer('b')]);
    await make('other', [issuer('taken')]);
    const change = (issuers: TenantIssuer[]) => db.operatorTransaction((tx) => updateTenant(tx, 'swap', { issuers }));
    await change([issuer('b'), { ...issuer('c'), audience: 'urn:c' }]);
    await expect(change([issuer('taken')])).rejects.toMatchObject({ code: 'already_exists' });
    await expect(change([issuer('d'), issuer('d')])).rejects.toMatchObject({ code: 'invalid' });
    const { issuers } = await db.operatorTransaction((tx) => findTenant(tx, 'swap'));
    expect(issuers).toEqual([issuer('b'), { ...issuer('c'), audience: 'urn:c' }]);
  });

  it('leave nothing that a later tenant of the same id could use', async () => {
    await make('gone', [issuer('gone')]);
    await db.operator.insertInto('event_counter').values({ tenant_id: 'gone', last: 7 }).execute();
    await db.operatorTransaction(async (tx) => {
      await createService(tx, { name: 'svc', tenants: ['gone', 'once'], verbs: ['*'] });
      await createService(tx, { name: 'only', tenants: ['gone'], verbs: ['*'] });
    });
    await db.operatorTransaction((tx) => deleteTenant(tx, 'gone'));
    await make('gone', [issuer('gone')]);
    await db.operatorTransaction(async (tx) => {
      expect((await findService(tx, 'svc')).tenants).toEqual(['once']);
      expect((await findService(tx, 'only')).tenants).toEqual([]);
      await removeService(tx, 'only');
    });
    const counter = db.operator.selectFrom('event_counter').select(['last', 'pruned']).where('tenant_id', '=', 'gone');
    expect(await counter.executeTakeFirst()).toEqual({ last: 7, pruned: 7 });
  });

  it('cannot be changed by the servers that serve them', async () => {
    await make('served');
    for (const work of [
      () => db.tenantTransaction('served', (tx) => updateTenant(tx, 'served', { displayName: 'x' })),
      () => db.tenantTransaction('served', (tx) => deleteTenant(tx, 'served')),
      () => db.tenantTransaction('served', (tx) => createService(tx, { name: 's', tenants: ['*'], verbs: ['*'] })),
    ])
      await expect(work()).rejects.toMatchObject({ code: '42501' });
  });
});
