/** `rhyzome network`: where networks of all tenants are, and which node has a network's router. */
import { Command } from 'commander';
import type { NetworkOnNodes } from '#libs/kinds/network';
import type { Context } from '../context.js';
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

function moveRouter(context: Context): Command {
  return new Command('move-router')
    .description('move a network’s router to another of its nodes; connections through it break')
    .argument('<tenant/name>', 'whose it is, and its name or id', ofTenant)
    .requiredOption('--to <node>', 'a node that has machines of the network')
    .option('--no-wait', 'tell all nodes at once, and do not wait until they have it so; guests miss it for longer')
    .action(async ({ tenantId, name }: OfTenant, { to, wait }: Flags) => {
      const [{ findNode }, routers] = await Promise.all([import('../nodes.js'), import('../routers.js')]);
      const moved = await context.database(async (db) => {
        const node = await db.operatorTransaction((tx) => findNode(tx, to));
        return routers.moveRouter(context, db, { tenantId, network: name, to: node, wait });
      });
      const what = `the router of ${tenantId}/${moved.name}`;
      const told = moved.changed
        ? `${wait ? 'Moved' : 'Ordered'} ${what} from ${moved.from} to ${moved.to}.`
        : `Node ${moved.to} has ${what} already.`;
      context.show(moved, told);
    });
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
