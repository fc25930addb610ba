/** Metrics that nodes send: which of them are kept, and for how long, on a real database. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { desire, Metrics, type NodeSession, recordMetrics } from '#libs/nodes';
import { MetricType, type ResourceMetrics } from '#libs/rpc';
import { TENANT, type TestDatabase, type TwoNodes, twoNodes } from '#libs/testing';

let database: TestDatabase;
let node: NodeSession;
let otherNode: NodeSession;
let inTenant: TwoNodes['inTenant'];

beforeAll(async () => {
  ({ database, node, otherNode, inTenant } = await twoNodes());
});
afterAll(() => database?.close());

describe('metrics', () => {
  const cpu = { name: 'cpu_seconds_total', type: MetricType.METRIC_TYPE_COUNTER, labels: {}, value: 1.5 };
  const kind = { kind: 'network', id: '', tenantId: TENANT };

  async function resource(on: NodeSession | null = node): Promise<typeof kind> {
    const ref = { ...kind, id: newId() };
    await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
      values (${TENANT}, ${ref.id}, 'network', ${`n${ref.id.slice(-12)}`}, 'ready', 't')`.execute(database.db.operator);
    if (on) await inTenant((tx) => desire(tx, ref, on.nodeId, { generation: 1, spec: {} }));
    return ref;
  }

  const send = (items: Partial<ResourceMetrics>[], by = node) =>
    recordMetrics(database.db, [
      {
        session: by,
        report: {
          items: items.map((item) => ({ ref: undefined, at: new Date(), metrics: [cpu], custom: false, ...item })),
        },
      },
    ]);

  const stored = (id: string) =>
    inTenant(async (tx) => {
      const query = sql<{ source: string; metrics: unknown[]; at: Date }>`
        select source, metrics, at from metric_sample where resource_id = ${id} order by source`;
      return (await query.execute(tx)).rows;
    });

  test('of what is placed on the node are kept, the last of each source, until the resource goes', async () => {
    const [one, two] = [await resource(), await resource()];
    await send([{ ref: one }, { ref: two, metrics: [] }]);
    await send([
      { ref: one, metrics: [{ ...cpu, value: 2 }] },
      { ref: one, custom: true },
    ]);
    const metric = { name: 'cpu_seconds_total', type: 'counter', labels: {} };
    expect(await stored(one.id)).toMatchObject([
      { source: 'guest', metrics: [{ ...metric, value: 1.5 }] },
      { source: 'node', metrics: [{ ...metric, value: 2 }] },
    ]);
    expect(await stored(two.id)).toMatchObject([{ source: 'node', metrics: [] }]);
    await sql`delete from resource where id = ${one.id}`.execute(database.db.operator);
    await send([{ ref: one }, { ref: two }]);
    expect(await stored(one.id)).toEqual([]);
    expect(await stored(two.id)).toMatchObject([{ metrics: [{ value: 1.5 }] }]);
  });

  test('of several nodes are stored together, and of what stands on two the last', async () => {
    const [here, there] = [await resource(), await resource(otherNode)];
    const both = await resource();
    await inTenant((tx) => desire(tx, both, otherNode.nodeId, { generation: 1, spec: {} }));
    const told = (ref: typeof kind, value: number): ResourceMetrics => ({
      ...{ ref, at: new Date(), custom: false },
      metrics: [{ ...cpu, value }],
    });
    const metrics = new Metrics(database.db, 20);
    await Promise.all([
      metrics.record(node, { items: [told(here, 1), told(both, 2)] }),
      metrics.record(otherNode, { items: [told(there, 3), told(both, 4)] }),
    ]);
    const values = await Promise.all([here, there, both].map(async ({ id }) => (await stored(id))[0]!.metrics));
    expect(values).toMatchObject([[{ value: 1 }], [{ value: 3 }], [{ value: 4 }]]);
  });

  test('of anything else, of another node, tenant, kind or stream, or that are ill-formed, are none', async () => {
    const [mine, elsewhere, nowhere] = [await resource(), await resource(otherNode), await resource(null)];
    await send([
      { ref: elsewhere },
      { ref: nowhere },
      { ref: { ...mine, tenantId: 'globex' } },
      { ref: { ...mine, kind: 'instance' } },
      { ref: { ...mine, id: 'x' } },
      { ref: undefined },
      { ref: mine, metrics: [{ ...cpu, name: 'a\0' }] },
      { ref: mine, at: new Date(Number.NaN) },
    ]);
    await send([{ ref: mine }], { ...node, session: node.session - 1 });
    for (const { id } of [mine, elsewhere, nowhere]) expect(await stored(id)).toEqual([]);
    await send([{ ref: mine, at: new Date(Date.now() + 3_600_000) }]);
    expect((await stored(mine.id))[0]!.at.getTime()).toBeLessThanOrEqual(Date.now());
  });
});
