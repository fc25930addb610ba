/** Alarms on a real database: one for each cause, told as events and on their resource, gone with what they were about. */
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '#libs/core';
import type { Tx } from '#libs/db';
import { clearAlarm, jobValues, type NewAlarm, raiseAlarm } from '#libs/jobs';
import { type TestDatabase, testDatabase } from '#libs/testing';

const TENANT = 'acme';
let database: TestDatabase;

beforeAll(async () => {
  database = await testDatabase();
  await sql`insert into tenant (id, display_name) values (${TENANT}, 'A'), ('globex', 'G')`.execute(
    database.db.operator,
  );
});
afterAll(() => database?.close());

const inTenant = <T>(work: (tx: Tx) => Promise<T>) => database.db.tenantTransaction(TENANT, work);
const asOperator = <T>(work: (tx: Tx) => Promise<T>) => database.db.operatorTransaction(work);

async function resource(own: object[] = [{ type: 'Ready', status: 'true' }]): Promise<string> {
  const id = newId();
  const conditions = JSON.stringify(own);
  await inTenant((tx) =>
    sql`insert into resource (tenant_id, id, kind, name, tags, state, conditions, created_by)
      values (${TENANT}, ${id}, 'thing', ${`thing-${id}`}, '{"tier": "front"}', 'ready', ${conditions}::jsonb, 'alice')`.execute(
      tx,
    ),
  );
  return id;
}

async function conditionsOf(id: string): Promise<{ type: string; reason?: string; message?: string }[]> {
  const query = database.db.operator.selectFrom('resource').select('conditions').where('id', '=', id);
  return (await query.executeTakeFirstOrThrow()).conditions as never;
}

const about = (id: string, more: Partial<NewAlarm> = {}): NewAlarm => ({
  tenantId: TENANT,
  code: 'job_overdue',
  cause: id,
  message: 'It is late.',
  resource: { kind: 'thing', id },
  ...more,
});

test('one cause raises one alarm, which watchers and the resource tell of until it is cleared', async () => {
  const id = await resource();
  expect(await inTenant((tx) => raiseAlarm(tx, about(id)))).toBe(true);
  expect(await inTenant((tx) => raiseAlarm(tx, about(id, { message: 'It is very late.' })))).toBe(false);
  expect(await conditionsOf(id)).toEqual([
    { type: 'Ready', status: 'true' },
    expect.objectContaining({ type: 'Alarm', status: 'true', reason: 'job_overdue', message: 'It is very late.' }),
  ]);
  expect(await inTenant((tx) => clearAlarm(tx, about(id)))).toBe(true);
  expect(await inTenant((tx) => clearAlarm(tx, about(id)))).toBe(false);
  expect(await conditionsOf(id)).toEqual([{ type: 'Ready', status: 'true' }]);
  expect(await inTenant((tx) => raiseAlarm(tx, about(id)))).toBe(true);
  const events = await database.db.operator
    .selectFrom('event')
    .select(['type', 'tags_after', 'created_by'])
    .where('resource_id', '=', id)
    .where('type', 'like', 'alarm.%')
    .orderBy('id')
    .execute();
  expect(events.map(({ type }) => type)).toEqual(['alarm.raised', 'alarm.cleared', 'alarm.raised']);
  expect(events[0]).toMatchObject({ tags_after: { tier: 'front' }, created_by: 'alice' });
});

test('is the one condition of a resource that has no other', async () => {
  const id = await resource([]);
  await inTenant((tx) => raiseAlarm(tx, about(id)));
  expect(await conditionsOf(id)).toEqual([expect.objectContaining({ type: 'Alarm', reason: 'job_overdue' })]);
  await inTenant((tx) => clearAlarm(tx, about(id)));
  expect(await conditionsOf(id)).toEqual([]);
});

test('of several the resource shows the worst, and the other one when that is gone', async () => {
  const id = await resource();
  await inTenant((tx) => raiseAlarm(tx, about(id)));
  await inTenant((tx) => raiseAlarm(tx, about(id, { code: 'undo_stuck', message: 'Stuck.' })));
  expect((await conditionsOf(id))[1]).toMatchObject({ reason: 'undo_stuck' });
  await inTenant((tx) => clearAlarm(tx, about(id, { code: 'undo_stuck' })));
  expect((await conditionsOf(id))[1]).toMatchObject({ reason: 'job_overdue' });
});

test('the end of the job that it names clears it, also where the resource went with it', async () => {
  const id = await resource();
  const jobId = newId();
  const job = { tenantId: TENANT, id: jobId, resourceId: id, kind: 'thing', resourceName: 'thing' };
  const values = jobValues({ ...job, resourceTags: { tier: 'back' }, action: 'delete', request: {}, createdBy: 'bob' });
  await inTenant(async (tx) => {
    await tx.insertInto('job').values(values).execute();
    await raiseAlarm(tx, about(id, { jobId }));
    await tx.deleteFrom('resource').where('id', '=', id).execute();
    await raiseAlarm(tx, about(id, { jobId, code: 'undo_stuck' }));
    await tx.updateTable('job').set({ state: 'succeeded', finished_at: new Date() }).where('id', '=', jobId).execute();
  });
  const rows = await asOperator((tx) =>
    tx.selectFrom('alarm').selectAll().where('job_id', '=', jobId).orderBy('raised_at').execute(),
  );
  expect(rows.map((row) => [row.code, row.resource_name, row.cleared_at !== null])).toEqual([
    ['job_overdue', `thing-${id}`, true],
    ['undo_stuck', 'thing', true],
  ]);
});

test('many who raise the same at once raise one', async () => {
  const id = await resource();
  const raised = await Promise.all(Array.from({ length: 8 }, () => inTenant((tx) => raiseAlarm(tx, about(id)))));
  expect(raised.filter(Boolean)).toHaveLength(1);
});

test('the platform’s own are the operator’s, and a tenant sees its own only', async () => {
  const nodeId = newId();
  const alarm: NewAlarm = { tenantId: null, code: 'outcome_unclear', cause: nodeId, message: 'A node.', nodeId };
  expect(await asOperator((tx) => raiseAlarm(tx, alarm))).toBe(true);
  await expect(inTenant((tx) => raiseAlarm(tx, { ...alarm, cause: 'other' }))).rejects.toThrow(/row-level security/);
  const seen = await database.db.tenantTransaction('globex', (tx) => tx.selectFrom('alarm').selectAll().execute());
  expect(seen).toEqual([]);
  expect(await asOperator((tx) => clearAlarm(tx, alarm))).toBe(true);
});
