/** A console of a real machine: two watch, one types; and what the guest is told and tells over the metadata address. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost } from '#libs/drivers/host';
import { canBuildTiny } from '../tools/tiny-image/index.js';
import { apiOf, type Client } from './harness/client.js';
import { ConsoleClient } from './harness/console.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

const missing = [await canHost(), canBuildTiny()].flatMap((ability) => (ability.ok ? [] : [ability.reason]));
if (missing.length > 0) console.warn(`skipped: consoles on libvirt: ${missing.join('; ')}`);

describe.skipIf(missing.length > 0)('the console of a machine on libvirt', () => {
  let stack: Stack;
  let api: Client;
  let viewer: Client;
  let machine: any;

  beforeAll(async () => {
    stack = await sharedStack('libvirt');
    [api, viewer] = [await apiOf(stack), await apiOf(stack, 'acme', 'viewer')];
    await api.make('networks', { name: 'voices', subnet: '10.36.0.0/24' });
    const size = { image: 'tiny', vcpus: 1, memoryMiB: 128 };
    const more = { tags: { role: 'voice' }, interfaces: [{ network: 'voices' }] };
    machine = await api.make('instances', { name: 'voice', ...size, ...more });
  }, 300_000);
  afterAll(async () => {
    if (!machine) return;
    await api.remove('instances', 'voice');
    await api.remove('networks', 'voices');
  }, 120_000);

  const attach = (client: Client, query = '') => ConsoleClient.attach(stack.dev.api, client.token, 'voice', query);
  const seen = (who: ConsoleClient, text: string | RegExp) =>
    until(String(text), () => (typeof text === 'string' ? who.text.includes(text) : text.test(who.text)), 90_000, 200);

  it('is seen by two and typed into by one; the guest learns who it is, and what it reports is read', async () => {
    const typist = await attach(api);
    const watcher = await attach(viewer, '?watch=true');
    await seen(typist, 'tiny: ready');
    await until(
      'a prompt',
      () => {
        typist.type('\r');
        return typist.text.endsWith('tiny# ');
      },
      60_000,
      1_000,
    );
    typist.type('echo $((6 * 7))-is-said\r');
    for (const one of [typist, watcher]) await seen(one, '42-is-said');
    typist.type('wget -q -O - http://169.254.169.254/v1/identity; echo asked-$?\r');
    await seen(watcher, 'asked-0');
    const [told] = /\{\s*"id".*\n\}/s.exec(watcher.text.replaceAll('\r', '')) ?? [];
    expect(JSON.parse(told!)).toMatchObject({
      id: machine.id,
      name: 'voice',
      tenant: 'acme',
      tags: { role: 'voice' },
      interfaces: [{ ip: machine.interfaces[0].ip }],
    });
    typist.type(
      "wget -q -O /dev/null --post-data='temperature 21.5' http://169.254.169.254/v1/metrics; echo sent-$?\r",
    );
    await seen(watcher, 'sent-0');
    const { body } = await until(
      'the metrics',
      async () => {
        const answer = await viewer.get('/v1/instances/voice/metrics');
        return answer.body.builtIn && answer.body.custom.length > 0 && answer;
      },
      60_000,
      500,
    );
    expect(body.custom).toMatchObject([{ source: 'guest', metrics: [{ name: 'temperature', value: 21.5 }] }]);
    const cpu = body.builtIn.metrics.find(({ name }: { name: string }) => name === 'cpu_seconds_total');
    expect(cpu.value).toBeGreaterThan(0);
    typist.type('poweroff -f\r');
    for (const one of [typist, watcher]) await until('the end', () => one.code !== 0, 60_000);
    expect([typist.code, watcher.reason]).toEqual([1000, expect.stringMatching(/^machine_off: /)]);
  }, 300_000);
});
