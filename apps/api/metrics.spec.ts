/** Metrics of resources as users read them, over real HTTP. */
import 'reflect-metadata';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { recordMetrics } from '#libs/nodes';
import { MetricType } from '#libs/rpc';
import { callerIn, globalImage, type Platform, startPlatform } from '#libs/testing';
import { serve } from './test-server.js';

let platform: Platform;
let app: NestFastifyApplication;
let base: string;
let running: string;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
  for (const id of ['acme', 'globex']) await platform.tenant(id);
  app = await serve(platform);
  base = await app.getUrl();
  const make = async (kind: string, body: object) => {
    const change = await platform.pipeline.create(callerIn('acme'), platform.registry.get(kind), body);
    await platform.done(callerIn('acme'), change);
    return change.body.id;
  };
  await make('network', { name: 'lan', subnet: '10.20.0.0/24' });
  const machine = { name: 'web', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }] };
  running = await make('instance', machine);
});
afterAll(async () => {
  await app?.close();
  await platform?.close();
});

describe('metrics', () => {
  const read = (name: string, accept?: string, token = 'viewer.acme') =>
    fetch(`${base}/v1/instances/${name}/metrics`, {
      headers: { authorization: `Bearer ${token}`, ...(accept && { accept }) },
    });

  test('are there as JSON and as Prometheus text, what the node measured and what others report apart', async () => {
    expect(await (await read('web')).json()).toEqual({
      resource: { kind: 'instance', id: running, name: 'web' },
      builtIn: null,
      custom: [],
    });
    const metric = {
      name: 'cpu_seconds_total',
      type: MetricType.METRIC_TYPE_COUNTER,
      labels: { cpu: '0' },
      value: 2.5,
    };
    const item = { ref: { tenantId: 'acme', kind: 'instance', id: running }, at: new Date(), metrics: [metric] };
    const own = { ...item, custom: true, metrics: [{ ...metric, name: 'jobs', labels: {}, value: 7 }] };
    const session = await platform.db.operator
      .selectFrom('node_session')
      .select(['node_id as nodeId', 'session'])
      .where('node_id', '=', platform.node.id)
      .executeTakeFirstOrThrow();
    await recordMetrics(platform.db, [{ session, report: { items: [{ ...item, custom: false }, own] } }]);
    expect(await (await read('web', 'application/json')).json()).toMatchObject({
      builtIn: {
        ageSeconds: expect.any(Number),
        metrics: [{ name: 'cpu_seconds_total', labels: { cpu: '0' }, value: 2.5 }],
      },
      custom: [{ source: 'guest', metrics: [{ name: 'jobs', value: 7 }] }],
    });
    for (const accept of ['text/plain', 'application/openmetrics-text;q=0.5,text/plain;q=0.3,*/*;q=0.1']) {
      const answer = await read('web', accept);
      expect(answer.headers.get('content-type')).toMatch('text/plain; version=0.0.4');
      const text = await answer.text();
      const labels = `instance="${running}",name="web"`;
      expect(text).toContain(
        `# TYPE rhyzome_instance_cpu_seconds_total counter\nrhyzome_instance_cpu_seconds_total{${labels},cpu="0"} 2.5\n`,
      );
      expect(text).toContain(`jobs{${labels},source="guest"} 7\n`);
      expect(text).toMatch(/rhyzome_instance_sample_age_seconds\{.*source="node"\} \d/);
    }
  });

  test('are nobody else’s, and nobody’s to write', async () => {
    expect((await read('web', undefined, 'admin.globex')).status).toBe(404);
    expect((await read('web', 'image/png')).status).toBe(406);
    expect((await read('nobody')).status).toBe(404);
    const headers = { authorization: 'Bearer admin.acme', 'content-type': 'application/json' };
    const written = await fetch(`${base}/v1/instances/web/metrics`, { method: 'POST', headers, body: '{}' });
    expect([404, 405]).toContain(written.status);
  });

  test('are there of every kind', async () => {
    const answer = await fetch(`${base}/v1/networks/lan/metrics`, { headers: { authorization: 'Bearer admin.acme' } });
    expect(await answer.json()).toMatchObject({ resource: { kind: 'network' }, builtIn: null, custom: [] });
  });
});
