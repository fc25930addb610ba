/**
 * Lives of machines whose node dies: made on the second node, then evacuated all at once by the administrator's command, each by a
 * job in a tenant of its own. For the end of a stage: the second node is gone after it.
 */
import { expect } from 'vitest';
import type { ChangeResult, KindDefinition } from '#libs/resources';
import { machineOn } from '#libs/testing';
import { openCase } from '#libs/testing/contract';
import { rhyzome } from '../harness/grpc.js';
import { until } from '../harness/until.js';
import { each } from './killing.js';
import { contractOf, type Life } from './lives.js';
import type { Stage } from './stage.js';

export async function openEvacuations(stage: Stage, kind: KindDefinition, count: number): Promise<Life[]> {
  const { stack, platform, nodes } = stage;
  const [first, second] = nodes.map(({ name }) => name) as [string, string];
  const contract = await contractOf(kind);
  await stage.openSecond(true);
  await rhyzome(stack, 'node', 'cordon', first);
  const made = await each(Array.from({ length: count }), async () => {
    const ctx = await openCase(platform, kind, contract);
    return { ctx, id: await ctx.make(kind.name, machineOn('lan')) };
  });
  await rhyzome(stack, 'node', 'uncordon', first);
  await stage.agents[1]!.kill();
  await rhyzome(stack, 'node', 'fence', second, '--confirm-off', '--force');
  let jobs: Promise<Map<string, string>> | undefined;
  const evacuated = async () => {
    const { machines } = await rhyzome(stack, 'node', 'evacuate', second, '--accept-loss');
    return new Map<string, string>(machines.map(({ id, job }: { id: string; job: string }) => [id, job]));
  };
  return made.map(({ ctx, id }) => ({
    kind,
    caller: ctx.caller,
    steps: [
      {
        name: 'evacuate',
        ask: async () => {
          jobs ??= evacuated();
          return { jobId: (await jobs).get(id) } as ChangeResult;
        },
      },
    ],
    expectWhole: async () => {
      const view = async () => (await platform.reader.get(ctx.caller, kind, id)).body;
      await until('it runs', async () => (await view()).powerState === 'running', 60_000);
      expect(await view()).toMatchObject({ node: first, state: 'ready' });
    },
    remove: async () => undefined,
  }));
}
