/** Deeds: asked once, done once, unclear until somebody says; on a real database. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId, Waiting } from '#libs/core';
import { askDeed, type NodeSession, probeDeed, recordDeed, resolveDeed, withdrawDeed } from '#libs/nodes';
import { DeedOutcome } from '#libs/rpc';
import { TENANT, type TestDatabase, type TwoNodes, twoNodes } from '#libs/testing';

let database: TestDatabase;
let node: NodeSession;
let otherNode: NodeSession;
let inTenant: TwoNodes['inTenant'];

beforeAll(async () => {
  ({ database, node, otherNode, inTenant } = await twoNodes());
});
afterAll(() => database?.close());

describe('deeds', () => {
  const core = { tenantId: TENANT, id: newId(), kind: 'instance', name: 'vm', tags: {} };
  const ask = async () => {
    const id = newId();
    await inTenant((tx) => askDeed(tx, core, { id, nodeId: node.nodeId, verb: 'reboot', repeatable: false }));
    return id;
  };
  const say = (
    id: string,
    outcome: DeedOutcome,
    by = node,
    failure?: { code: string; message: string },
    resultJson = '',
  ) => recordDeed(database.db, by, { operationId: id, outcome, failure, resultJson });
  const probe = (id: string) => inTenant((tx) => probeDeed(tx, core, id));

  test('asked twice are asked once, and are done when their node says so', async () => {
    const id = await ask();
    await inTenant((tx) => askDeed(tx, core, { id, nodeId: otherNode.nodeId, verb: 'reset', repeatable: true }));
    expect(await probe(id)).toMatchObject({ outside: false });
    await say(id, DeedOutcome.DEED_OUTCOME_DONE, otherNode);
    await say(newId(), DeedOutcome.DEED_OUTCOME_DONE);
    await say('nonsense', DeedOutcome.DEED_OUTCOME_DONE);
    expect(await probe(id)).toBeInstanceOf(Waiting);
    await say(id, DeedOutcome.DEED_OUTCOME_DONE, node, undefined, '{"sizeBytes":5}');
    expect(await probe(id)).toEqual({ result: { sizeBytes: 5 } });
    await say(id, DeedOutcome.DEED_OUTCOME_FAILED);
    expect(await probe(id)).toEqual({ result: { sizeBytes: 5 } });
  });

  test('count only from the stream that the node has now', async () => {
    const id = await ask();
    await say(id, DeedOutcome.DEED_OUTCOME_DONE, { ...node, session: node.session - 1 });
    expect(await probe(id)).toBeInstanceOf(Waiting);
    await say(id, DeedOutcome.DEED_OUTCOME_DONE);
    expect(await probe(id)).toEqual({ result: null });
  });

  test('that failed say why; that are unclear wait for an operator’s word', async () => {
    const failed = await ask();
    await say(failed, DeedOutcome.DEED_OUTCOME_FAILED, node, { code: 'stopped', message: 'It is off.' });
    await expect(probe(failed)).rejects.toMatchObject({ code: 'job_failed', message: 'It is off.' });
    for (const [word, after] of [
      ['done', { result: null }],
      ['redo', expect.any(Waiting)],
    ] as const) {
      const id = await ask();
      await say(id, DeedOutcome.DEED_OUTCOME_UNCLEAR);
      expect(await probe(id)).toMatchObject({ outside: true });
      await database.db.operatorTransaction((tx) => resolveDeed(tx, TENANT, { id }, word));
      expect(await probe(id)).toEqual(after);
      const again = database.db.operatorTransaction((tx) => resolveDeed(tx, TENANT, { id }, word));
      await expect(again).rejects.toMatchObject({ code: 'conflict' });
    }
  });

  test('are withdrawn while they are not done', async () => {
    const [open, done] = [await ask(), await ask()];
    await say(done, DeedOutcome.DEED_OUTCOME_DONE);
    await inTenant((tx) => withdrawDeed(tx, core, open));
    await inTenant((tx) => withdrawDeed(tx, core, done));
    const left = await sql<{ id: string }>`select id from deed where id in (${open}, ${done})`.execute(
      database.db.operator,
    );
    expect(left.rows).toEqual([{ id: done }]);
  });
});
