/** What a node's report makes of an instance: the power state as seen, and the restart policy when a guest left by itself. */
import type { Tx } from '#libs/db';
import { unendedJob } from '#libs/jobs';
import {
  inTransaction,
  type KindDefinition,
  lockResource,
  type PlacementReport,
  updateResource,
} from '#libs/resources';
import { InstanceResource, type InstanceRow } from './instance.resource.js';

export async function observed(kind: KindDefinition, tx: Tx, tenantId: string, report: PlacementReport): Promise<void> {
  const core = { id: report.resourceId, tenantId, kind: kind.name, name: '', tags: {} };
  const row = (await lockResource(tx, kind, core, 'no key update')) as InstanceRow | undefined;
  if (!row || row.node_id !== report.nodeId) return;
  const seen = report.phase === 'absent' ? 'stopped' : String(report.status?.powerState ?? row.power_state);
  const leftByItself =
    report.isCurrent && report.phase === 'ready' && seen === 'stopped' && row.desired_power_state === 'running';
  const acts = leftByItself && !(await unendedJob(tx, tenantId, row.id));
  if (seen === row.power_state && !acts) return;
  const stays = acts && row.restart_policy === 'stay';
  await tx
    .updateTable('instance')
    .set({ power_state: seen, ...(stays && { desired_power_state: 'stopped' }) })
    .where('tenant_id', '=', tenantId)
    .where('id', '=', row.id)
    .execute();
  await updateResource(tx, core, stays ? { raiseGeneration: true, observedGeneration: row.generation + 1 } : {});
  if (!acts) return;
  const resource = await new InstanceResource(inTransaction(tx, tenantId), kind).load(core);
  await resource.tellNode(tx, true);
}
