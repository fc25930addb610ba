/**
 * A sample of crashes with real machines: rhyzome-agent is killed with -9 at points between two of its effects on libvirt, disks,
 * routers and its own records, which a seed chooses; another goes on. Afterwards each change is whole, and when all is
 * removed, no domain, process, file, link or lease is left. `RHYZOME_CRASH_SEED=…` chooses the same again,
 * `RHYZOME_CRASH_LIBVIRT=…` how many lives are led.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost } from '#libs/drivers/host';
import { kinds } from '#libs/kinds';
import type { KindDefinition } from '#libs/resources';
import type { ChangeableKind } from '#libs/testing/contract';
import { canBuildTiny } from '../tools/tiny-image/index.js';
import { Killing } from './crash/killing.js';
import { openLibvirtStage, type Stage } from './crash/stage.js';
import { Chance } from './harness/chance.js';
import { untilWhole } from './harness/invariants.js';
import { NodeHost } from './harness/node-host.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

const missing = [await canHost(), canBuildTiny()].flatMap((ability) => (ability.ok ? [] : [ability.reason]));
if (missing.length > 0) console.warn(`skipped: crashes on libvirt: ${missing.join('; ')}`);

const seed = Number(process.env.RHYZOME_CRASH_SEED ?? Date.now() % 1_000_000);
const lives = Number(process.env.RHYZOME_CRASH_LIBVIRT ?? 6);
/** How many points the longest job of a kind has in the agent. One that is past the end of a job holds nothing there. */
const points = { disk: 5, snapshot: 6, instance: 9, firewallrule: 3, wireguardpeer: 3 };
/** What takes a guest long, and is of no other use here. */
const slow = ['reboot', 'reset', 'migrate', 'stop'];

function narrow(contract: ChangeableKind, { name }: KindDefinition): ChangeableKind {
  const actions = Object.entries(contract.actions ?? {}).filter(([action]) => !slow.includes(action));
  // The guests of this stack's image want some memory.
  const create: ChangeableKind['create'] = (ctx) => ({
    ...contract.create(ctx),
    ...(name === 'instance' && { memoryMiB: 128 }),
  });
  return {
    ...contract,
    create,
    actions: Object.fromEntries(name === 'instance' ? actions.reverse() : actions),
    standing: contract.standing && { ...contract.standing, more: [] },
  };
}

describe.skipIf(missing.length > 0)('on libvirt', () => {
  let stack: Stack;
  let host: NodeHost;
  let stage: Stage;
  let kept: unknown;

  beforeAll(async () => {
    stack = await sharedStack('libvirt');
    host = NodeHost.of(stack);
    stage = await openLibvirtStage(stack);
    kept = (await sql<{ kept: unknown }>`select deleted_disks_kept as kept from installation`.execute(db())).rows[0]!
      .kept;
    await sql`update installation set deleted_disks_kept = null`.execute(db());
  }, 240_000);
  afterAll(async () => {
    if (!stage) return;
    await sql`update installation set deleted_disks_kept = ${kept}`.execute(db());
    await stage.close();
  }, 120_000);
  const db = () => stage.platform.db.operator;

  it('killed at points that a seed chooses, the agent leaves everything whole or undone', async () => {
    console.info(`RHYZOME_CRASH_SEED=${seed} RHYZOME_CRASH_LIBVIRT=${lives}`);
    const all = Object.entries(points).flatMap(([name, most]) =>
      Array.from({ length: most }, (_, at) => ({ kind: kinds.find((kind) => kind.name === name)!, at: at + 1 })),
    );
    const chosen = new Chance(seed).some(all, lives);
    const victims = stage.agents[0]!;
    const killing = new Killing(stage, victims, { narrow, isRefused: false, isRemoved: true });
    const { jobs } = await killing.lead(chosen.map(({ kind, at }) => ({ kind, at: () => at })));
    await untilWhole(stack, []);
    const names = chosen.map(({ kind, at }) => `${kind.name} ${at}`).join(', ');
    console.info(`${jobs} jobs were at their point when the agent was killed, in ${victims.killed} kills: ${names}`);
    expect(jobs).toBeGreaterThanOrEqual(chosen.length);
  }, 900_000);

  it('and leaves nothing of what was removed', async () => {
    const left = (folder: string) => {
      const path = join(stack.data, 'agent', folder);
      return existsSync(path) ? readdirSync(path) : [];
    };
    const things = async () => [
      ...['instance', 'disk', 'snapshot'].flatMap(left),
      ...(await host.domains()),
      ...host.processes('qemu-system').map(({ command }) => command),
    ];
    await until('a node without any of it', async () => (await things()).length === 0, 60_000).catch(async (error) => {
      throw new Error(`${error.message}: ${(await things()).join(', ')}`);
    });
  }, 120_000);
});
