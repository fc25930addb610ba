/** What a node's report makes of an instance: the power state as seen, and the restart policy when a guest left by itself. */
import type { Tx } from '#libs/db';
import { unendedJob } from '#libs/jobs';
import { type KindDefinition, lockResource, type PlacementReport, updateResource } from '#libs/resources';
import { tellInstance } from './on-node.js';
import { obeyRestartPolicy } from './restart-policy.js';
import type { InstanceRow } from './rows.js';

export async function observed(kind: KindDefinition, tx: Tx, tenantId: string, report: PlacementReport): Promise<void> {
  const core = { id: report.resourceId, tenantId, kind: kind.name, name: '', tags: {} };
  const row = (await lockResource(tx, kind, core, 'no key update')) as InstanceRow | undefined;
  if (!row || row.node_id !== report.nodeId) return;
  // A machine that has just come to this node was the copy that waited for it, and paused, in what the node was told before.
  if (!report.isCurrent) return;
  const seen = report.phase === 'absent' ? 'stopped' : String(report.status?.powerState ?? row.power_state);
  const leftByItself = report.phase === 'ready' && seen === 'stopped' && row.desired_power_state === 'running';
  // While a job is under way, its end decides.
  const acts = leftByItself && !(await unendedJob(tx, tenantId, row.id));
  if (seen === row.power_state && !acts) return;
  await tx
    .updateTable('instance')
    .set({ power_state: seen })
    .where('tenant_id', '=', tenantId)
    .where('id', '=', row.id)
    .execute();
  await updateResource(tx, core, {});
  if (!acts) return;
  await obeyRestartPolicy(tx, core, row, () => tellInstance(tx, core, true));
}
