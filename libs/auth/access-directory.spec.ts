/** What actors get from their tenant's grants, as it changes in a real database; one statement a token and no more. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { AccessDirectory } from './access-directory.js';
import type { Actor } from './actor.js';
import { may } from './permission.js';

let database: TestDatabase;
let access: AccessDirectory;
const nora: Actor = Object.freeze({
  tenantId: 'acme',
  subject: 'nora',
  roles: [],
  groups: ['ops'],
  scopes: null,
  via: 'token',
});

beforeAll(async () => {
  database = await testDatabase();
  await database.listener.start();
  database.listener.on('rhyzome_access', (tenantId) => access.forget(tenantId));
  await database.db.operator
    .insertInto('tenant')
    .values([
      { id: 'acme', display_name: 'A' },
      { id: 'globex', display_name: 'G' },
    ])
    .execute();
});
afterAll(() => database?.close());
beforeEach(() => {
  access = new AccessDirectory(database.db);
});

async function give(tenant: string, subjectType: 'group' | 'sub' | 'role' | 'user', subject: string): Promise<string> {
  const id = newId();
  await database.db.tenantTransaction(tenant, async (tx) => {
    const core = { tenant_id: tenant, id, kind: 'grant', name: `g-${id}`, state: 'ready', created_by: 'test' };
    await tx.insertInto('resource').values(core).execute();
    await tx
      .insertInto('access_rule')
      .values({
        tenant_id: tenant,
        grant_id: id,
        ordinal: 0,
        subject_type: subjectType,
        subject,
        verbs: ['read'],
        kinds: ['network'],
      })
      .execute();
  });
  return id;
}

const take = (tenant: string, id: string) =>
  database.db.tenantTransaction(tenant, (tx) =>
    tx.deleteFrom('access_rule').where('tenant_id', '=', tenant).where('grant_id', '=', id).execute(),
  );

const reads = async () => may(await access.enrich(nora), 'read', 'network');

describe('what a tenant’s grants give', () => {
  test('is asked once, until something changes', async () => {
    expect(await reads()).toBe(false);
    await Promise.all([reads(), reads(), reads()]);
    expect(access.lookups).toBe(1);
    const id = await give('acme', 'group', 'ops');
    await expect.poll(reads, { timeout: 3000 }).toBe(true);
    await take('acme', id);
    await expect.poll(reads, { timeout: 3000 }).toBe(false);
    expect(access.lookups).toBe(3);
  });

  test('is noticed also when the notification is lost', async () => {
    const lost = new AccessDirectory(database.db);
    const readsThere = async () => may(await lost.enrich(nora), 'read', 'network');
    lost.start();
    try {
      expect(await readsThere()).toBe(false);
      const id = await give('acme', 'sub', 'nora');
      await expect.poll(readsThere, { timeout: 6000 }).toBe(true);
      await take('acme', id);
      await expect.poll(readsThere, { timeout: 6000 }).toBe(false);
    } finally {
      lost.stop();
    }
  });

  test('is never another tenant’s', async () => {
    await give('globex', 'group', 'ops');
    await give('globex', 'sub', 'nora');
    expect(await reads()).toBe(false);
    expect(may(await access.enrich({ ...nora, tenantId: 'globex' }), 'read', 'network')).toBe(true);
  });

  test('says which roles the tenant’s grants have given a meaning', async () => {
    const id = await give('acme', 'role', 'operator');
    const operator = await access.enrich({ ...nora, groups: [], roles: ['operator'] });
    expect(operator.redefinedRoles).toEqual(['operator']);
    expect(may(operator, 'read', 'network')).toBe(true);
    expect(may(operator, 'delete', 'network')).toBe(false);
    await take('acme', id);
  });
});

test('a user that Rhyzome keeps has no more than it has now, whatever its token says', async () => {
  const { db } = database;
  const [user, ops] = [newId(), newId()];
  await db.operatorTransaction(async (tx) => {
    const core = { tenant_id: 'acme', state: 'ready', created_by: 'test' };
    const resources = [
      { ...core, id: user, kind: 'user', name: 'olga' },
      { ...core, id: ops, kind: 'group', name: 'ops' },
    ];
    await tx.insertInto('resource').values(resources).execute();
    await tx.insertInto('tenant_user').values({ tenant_id: 'acme', id: user, role: 'operator' }).execute();
    await tx.insertInto('tenant_group').values({ tenant_id: 'acme', id: ops }).execute();
    await tx.insertInto('group_member').values({ tenant_id: 'acme', group_id: ops, user_id: user }).execute();
    const subject = { tenant_id: 'acme', subject: 'olga', kind: 'user', resource_id: user };
    await tx.insertInto('subject').values(subject).execute();
  });
  const grant = await give('acme', 'group', 'ops');
  const token: Actor = { ...nora, subject: 'olga', roles: ['admin'], groups: ['ops', 'made-up'] };
  const now = async () => {
    const { roles, groups, rules } = await access.enrich(token);
    return { roles, groups, rules: rules?.length };
  };
  expect(await now()).toEqual({ roles: ['operator'], groups: ['ops'], rules: 1 });
  await db.operator.deleteFrom('group_member').where('user_id', '=', user).execute();
  await db.operator.updateTable('tenant_user').set({ role: null }).where('id', '=', user).execute();
  await expect.poll(now, { timeout: 3000 }).toEqual({ roles: [], groups: [], rules: 0 });
  await take('acme', grant);
});

test('a subject that is disabled is refused from then on, and comes in again when it is enabled', async () => {
  const row = { tenant_id: 'acme', subject: 'nora', kind: 'user', resource_id: newId() };
  await database.db.operator.insertInto('subject').values(row).execute();
  expect((await access.enrich(nora)).resourceId).toBe(row.resource_id);
  const enable = (enabled: boolean) =>
    database.db.operator.updateTable('subject').set({ enabled }).where('subject', '=', 'nora').execute();
  await enable(false);
  const outcome = () =>
    access.enrich(nora).then(
      () => 'welcome',
      (error: { reason: string }) => error.reason,
    );
  await expect.poll(outcome, { timeout: 3000 }).toBe('subject_disabled');
  await enable(true);
  await expect.poll(outcome, { timeout: 3000 }).toBe('welcome');
  await database.db.operator.deleteFrom('subject').execute();
});
