/** `rhyzome node`: the machines whose agents have registered. */
import { Command } from 'commander';
import type { Context } from '../context.js';
import type { NodeView } from '../nodes.js';
import { wholeNumber } from '../option-values.js';
import { fields, table } from '../table.js';
import { drainCommand } from './node-drain.js';
import { enroll, token } from './node-enroll.js';
import { evacuateCommand } from './node-evacuate.js';
import { fence, fenceView, fenceWords, leftWords } from './node-fence.js';
import { setNode } from './node-set.js';
import { revokeAll, revokeCommand } from './revoke.js';

export function nodeCommand(context: Context): Command {
  return new Command('node')
    .description('the machines that make resources real')
    .addCommand(list(context))
    .addCommand(show(context))
    .addCommand(cordon(context, true))
    .addCommand(cordon(context, false))
    .addCommand(drainCommand(context))
    .addCommand(evacuateCommand(context))
    .addCommand(setNode(context))
    .addCommand(fence(context))
    .addCommand(tombstoneDeadline(context))
    .addCommand(remove(context))
    .addCommand(enroll(context))
    .addCommand(token(context))
    .addCommand(revokeCommand(context, 'node'));
}

function list(context: Context): Command {
  return new Command('list').description('all nodes').action(async () => {
    const { listNodes } = await import('../nodes.js');
    const nodes = await context.read(listNodes);
    const rows = nodes.map((n) => [
      n.name,
      stateWords(n),
      n.driver,
      room(n.reserved.vcpus, n.capacity.vcpus),
      room(n.reserved.memoryMiB, n.capacity.memoryMiB),
      room(n.reserved.diskGiB, n.capacity.diskGiB),
      n.placed,
      `${n.lastSeenSeconds} s ago`,
    ]);
    const headings = ['NAME', 'STATE', 'DRIVER', 'VCPUS', 'MEMORY MIB', 'DISK GIB', 'PLACED', 'LAST SEEN'];
    context.show(nodes, table(headings, rows));
  });
}

function show(context: Context): Command {
  return new Command('show')
    .description('one node, and what is placed on it')
    .argument('<idOrName>')
    .action(async (idOrName: string) => {
      const [{ findNode, leftOn, placedOn }, { listFences }] = await Promise.all([
        import('../nodes.js'),
        import('#libs/nodes'),
      ]);
      const { node, resources, total, fences, left } = await context.read(async (tx) => {
        const found = await findNode(tx, idOrName);
        const { id } = found;
        return {
          node: found,
          ...(await placedOn(tx, id)),
          left: await leftOn(tx, id),
          fences: await listFences(tx, id),
        };
      });
      const rows = resources.map((r) => [r.kind, r.name, r.tenant, r.relation, r.id]);
      const more = total - resources.length;
      const placed =
        rows.length === 0
          ? ''
          : `\n\n${table(['KIND', 'NAME', 'TENANT', 'WHY', 'ID'], rows)}${more > 0 ? `\nand ${more} more` : ''}`;
      const data = { ...node, resources, moreResources: more, ...left, fences: fences.map(fenceView) };
      context.show(data, words(node) + placed + leftWords(left) + fenceWords(fences));
    });
}

function cordon(context: Context, cordoned: boolean): Command {
  const verb = cordoned ? 'cordon' : 'uncordon';
  return new Command(verb)
    .description(
      cordoned ? 'place no new machines on a node; what is there stays' : 'place new machines on a node again',
    )
    .argument('<idOrName>')
    .action(async (idOrName: string) => {
      const { cordonNode, findNode } = await import('../nodes.js');
      const node = await context.change(async ({ tx, audit }) => {
        const { id, name } = await findNode(tx, idOrName);
        if (await cordonNode(tx, id, cordoned)) await audit(auditOf(verb, id, name));
        return findNode(tx, id);
      });
      context.show(node, `Node ${node.name} ${cordoned ? 'gets no new machines' : 'gets new machines again'}.`);
    });
}

function tombstoneDeadline(context: Context): Command {
  return new Command('tombstones')
    .description(
      'how long removals wait for a node that is away before they end without it; without an option, shows it',
    )
    .option('--after <minutes>', 'so many minutes after it went away', wholeNumber(0, 7 * 24 * 60))
    .action(async ({ after }: { after?: number }) => {
      const { readTombstoneMinutes, writeTombstoneMinutes } = await import('../nodes.js');
      const minutes =
        after === undefined
          ? await context.read(readTombstoneMinutes)
          : await context.change(async ({ tx, audit }) => {
              await writeTombstoneMinutes(tx, after);
              await audit({ tenantId: 'system', action: 'node.tombstones', details: { minutes: after } });
              return readTombstoneMinutes(tx);
            });
      context.show({ minutes }, `Removals wait for a node that is away for ${minutes} minutes.`);
    });
}

function remove(context: Context): Command {
  return new Command('remove')
    .description('forget a node on which nothing is placed, and let its certificates in no more')
    .argument('<idOrName>')
    .option('--keep-certificates', 'its agent may register it again')
    .action(async (idOrName: string, { keepCertificates = false }: { keepCertificates?: boolean }) => {
      const { findNode, removeNode } = await import('../nodes.js');
      const node = await context.change(async (change) => {
        const found = await findNode(change.tx, idOrName);
        await removeNode(change.tx, found);
        if (!keepCertificates) await revokeAll(change, 'node', found.name, 'The node was removed.');
        await change.audit(auditOf('remove', found.id, found.name));
        return found;
      });
      const isBack = keepCertificates && node.replica !== null;
      const again = isBack
        ? ' Its agent is connected and registers it again unless it is stopped.'
        : keepCertificates
          ? ''
          : ' Its certificates are revoked.';
      context.show(node, `Removed node ${node.name}.${again}`);
    });
}

function auditOf(verb: string, resourceId: string, resourceName: string) {
  return { tenantId: 'system', action: `node.${verb}`, kind: 'node', resourceId, resourceName };
}

function room(used: number, whole: number): string {
  return `${used}/${whole}`;
}

const units = { vcpus: '', memoryMiB: ' MiB', diskGiB: ' GiB' };

function promised(node: NodeView, key: keyof typeof units, factor: number, more?: string): string {
  const words = [`${node.promisable[key]} may be`, ...(factor === 1 ? [] : [`${factor} times what is there`])];
  if (more && node.memoryReserveMiB > 0) words.push(more);
  return `${room(node.reserved[key], node.capacity[key])}${units[key]} reserved (${words.join(', ')})`;
}

function stateWords(node: NodeView): string {
  const marks = (['draining', 'cordoned'] as const).filter((mark) => node[mark] && mark !== node.state);
  return [node.state, ...marks].join(', ');
}

function words(node: NodeView): string {
  return fields({
    id: node.id,
    name: node.name,
    state: `${stateWords(node)}, since ${node.stateSince.toISOString()}`,
    driver: node.driver,
    agent: node.agentVersion,
    kinds: node.kinds,
    labels: node.labels,
    storage: node.storage ?? 'its own',
    vcpus: promised(node, 'vcpus', node.overcommit.vcpus),
    memory: promised(node, 'memoryMiB', node.overcommit.memory, `${node.memoryReserveMiB} MiB are never promised`),
    disk: promised(node, 'diskGiB', node.overcommit.disk),
    epoch: `${node.epoch}${node.fencedAt ? `, fenced at ${node.fencedAt.toISOString()}` : ''}`,
    replica: node.replica,
    'last seen': `${node.lastSeenAt.toISOString()} (${node.lastSeenSeconds} s ago)`,
    registered: node.createdAt,
  });
}
