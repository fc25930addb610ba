/** `rhyzome node evacuate`: what a node had that is gone comes up on others, as far as anything is left of it. */
import { Command } from 'commander';
import type { Rescue } from '#libs/kinds/instance';
import { administrator, type Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { table } from '../table.js';

interface Flags {
  acceptLoss?: boolean;
  lossless?: boolean;
}

export function evacuateCommand(context: Context): Command {
  return new Command('evacuate')
    .description('make the machines of a node that is gone anew on others; says first what is lost')
    .argument('<idOrName>')
    .option('--accept-loss', 'do it, also where something is lost')
    .option(
      '--lossless',
      'do it where nothing is lost: all disks lie on shared storage; with neither of both, only show',
    )
    .action(async (idOrName: string, flags: Flags) => {
      const [{ findNode }, { planEvacuation }] = await Promise.all([
        import('../nodes.js'),
        import('#libs/kinds/instance'),
      ]);
      const { node, plan } = await context.read(async (tx) => {
        const found = await findNode(tx, idOrName);
        if (found.state !== 'gone') {
          throw new CliError(
            exitStatus.refused,
            'conflict',
            `Node ${found.name} is ${found.state}. Only a node behind a fence is evacuated, since else its machines may ` +
              `run twice: \`rhyzome node fence ${found.name}\`. One that is up is drained.`,
          );
        }
        return { node: found, plan: await planEvacuation(tx, found.id) };
      });
      const { losesAnything } = await import('#libs/kinds/instance');
      const chosen = plan.filter((rescue) => flags.acceptLoss || (flags.lossless && !losesAnything(rescue)));
      if (!flags.acceptLoss && !flags.lossless) {
        context.show({ node: node.name, plan }, planWords(node.name, plan));
        if (plan.length > 0) context.status = exitStatus.refused;
        return;
      }
      const outcomes = [];
      for (const rescue of chosen) outcomes.push(await rescued(context, rescue, node));
      for (const rescue of plan.filter((one) => !chosen.includes(one))) outcomes.push(spared(rescue));
      if (outcomes.some(({ job }) => job === null)) context.status = exitStatus.refused;
      const rows = outcomes.map(({ tenant, name, job, why }) => [tenant, name, job ?? `stays: ${why}`]);
      context.show({ node: node.name, machines: outcomes }, table(['TENANT', 'INSTANCE', 'JOB'], rows));
    });
}

function spared({ tenantId: tenant, name, id }: Rescue): Outcome {
  return { tenant, name, id, job: null, why: 'something on its disks would be lost; --accept-loss does it' };
}

interface Outcome {
  tenant: string;
  name: string;
  id: string;
  job: string | null;
  why: string | null;
}

async function rescued(context: Context, rescue: Rescue, node: { id: string; name: string }): Promise<Outcome> {
  const { tenantId, name, id, obstacle } = rescue;
  const told = { tenant: tenantId, name, id };
  if (obstacle) return { ...told, job: null, why: obstacle };
  const [{ evacuate, instance }, { actInTenant }, { adminActor }, { newId, RhyzomeError }] = await Promise.all([
    import('#libs/kinds/instance'),
    import('../jobs.js'),
    import('#libs/auth'),
    import('#libs/core'),
  ]);
  const caller = { actor: adminActor(tenantId, administrator()), requestId: newId() };
  try {
    const job = await context.change(async ({ tx }) => {
      await actInTenant(tx, tenantId);
      return evacuate(tx, instance, caller, rescue, node);
    });
    return { ...told, job, why: null };
  } catch (error) {
    if (!(error instanceof RhyzomeError)) throw error;
    return { ...told, job: null, why: error.message };
  }
}

function planWords(nodeName: string, plan: readonly Rescue[]): string {
  if (plan.length === 0) return `Node ${nodeName} has no machines.`;
  const rows = plan.flatMap(({ tenantId, name, disks, obstacle }) =>
    disks.map(({ name: disk, from, storage, image, lostSince, lostSnapshots }) => [
      tenantId,
      name,
      disk,
      from === 'shared'
        ? `its file, on ${storage}`
        : from === 'nothing'
          ? 'empty'
          : `${from === 'snapshot' ? 'last image of a snapshot' : 'its image'} “${image?.name}”`,
      obstacle ? `stays: ${obstacle}` : lostSince ? `all since ${lostSince.toISOString()}` : 'nothing',
      lostSnapshots.join(', '),
    ]),
  );
  const headings = ['TENANT', 'INSTANCE', 'DISK', 'MADE FROM', 'LOST', 'LOST SNAPSHOTS'];
  return `${table(headings, rows)}\n\nNothing was done. --accept-loss does it, --lossless only where nothing is lost.`;
}
