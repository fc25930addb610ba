/** `rhyzome network`: where networks of all tenants are, and which node has a network's router. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import type { NetworkOnNodes } from '#libs/kinds/network';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { type OfTenant, ofTenant } from '../option-values.js';
import { table } from '../table.js';

export function networkCommand(context: Context): Command {
  return new Command('network')
    .description('networks of all tenants on the nodes')
    .addCommand(show(context))
    .addCommand(moveRouter(context));
}

function show(context: Context): Command {
  return new Command('show')
    .description('the nodes that a network is on, and which of them has its router')
    .argument('<tenant/name>', 'whose it is, and its name or id', ofTenant)
    .action(async (which: OfTenant) => {
      const network = await look(context, which);
      context.show(network, words(network));
    });
}

interface Flags {
  to: string;
  wait: boolean;
}

const LOOK_MS = 300;
const WAIT_MS = 60_000;

function moveRouter(context: Context): Command {
  return new Command('move-router')
    .description('move a network’s router to another of its nodes; connections through it break')
    .argument('<tenant/name>', 'whose it is, and its name or id', ofTenant)
    .requiredOption('--to <node>', 'a node that has machines of the network')
    .option('--no-wait', 'do not wait until the nodes have it so')
    .action(async (which: OfTenant, { to, wait }: Flags) => {
      const [{ orderRouter }, { actInTenant }, { findNode }] = await Promise.all([
        import('#libs/kinds/network'),
        import('../jobs.js'),
        import('../nodes.js'),
      ]);
      const { network, from, isChange } = await context.change(async ({ tx, audit }) => {
        const node = await findNode(tx, to);
        await actInTenant(tx, which.tenantId);
        const ordered = await orderRouter(tx, which.tenantId, which.name, node.id);
        const { id, name } = ordered.network;
        const details = { from: ordered.from, to: node.name };
        const what = { tenantId: which.tenantId, kind: 'network', resourceId: id, resourceName: name };
        if (ordered.isChange) await audit({ ...what, action: 'network.move-router', details });
        return ordered;
      });
      const now = wait ? await untilCurrent(context, { ...which, name: network.id }) : network;
      const where = now.nodes.find(({ hasRouter }) => hasRouter)?.name;
      const what = `${which.tenantId}/${network.name}`;
      const told = isChange
        ? `${wait ? 'Moved' : 'Ordered'} the router of ${what} from ${from} to ${where}.`
        : `The router of ${what} is on ${where} already.`;
      context.show({ ...now, from, changed: isChange }, told);
    });
}

/** Until all nodes that are heard have made what they are told. Throws CliError with what is missing. */
async function untilCurrent(context: Context, which: OfTenant): Promise<NetworkOnNodes> {
  for (const end = Date.now() + WAIT_MS; ; await sleep(LOOK_MS)) {
    const network = await look(context, which);
    const late = network.nodes.filter(
      ({ isCurrent, state }) => !isCurrent && state !== 'unreachable' && state !== 'gone',
    );
    if (late.length === 0) return network;
    if (Date.now() < end) continue;
    const why = late.map(({ name, failure }) => `${name} (${failure ?? 'no word yet'})`).join(', ');
    throw new CliError(
      exitStatus.refused,
      'node_failed',
      `The order stands, but after a minute these nodes have not made it so: ${why}. They go on trying; \`rhyzome network show ${which.tenantId}/${network.name}\`.`,
    );
  }
}

async function look(context: Context, { tenantId, name }: OfTenant): Promise<NetworkOnNodes> {
  const [{ networkOnNodes }, { actInTenant }] = await Promise.all([
    import('#libs/kinds/network'),
    import('../jobs.js'),
  ]);
  return context.read(async (tx) => {
    await actInTenant(tx, tenantId);
    return networkOnNodes(tx, tenantId, name);
  });
}

function words({ tenant, name, nodes }: NetworkOnNodes): string {
  if (nodes.length === 0) return `Network ${tenant}/${name} is on no node: none of its machines is placed.`;
  const rows = nodes.map((node) => [
    node.name,
    node.state,
    node.hasRouter ? 'router' : node.spans ? 'reaches it' : 'alone',
    node.isCurrent ? 'as told' : (node.failure ?? 'not yet as told'),
  ]);
  return table(['NODE', 'STATE', 'ROUTER', 'HAS MADE IT'], rows);
}
