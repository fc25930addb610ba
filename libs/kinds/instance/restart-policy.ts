/** What becomes of a machine whose guest switched itself off: by its restart policy it stays off or is started again. */
import type { ResourceCore } from '#libs/core';
import type { Tx } from '#libs/db';
import { updateResource } from '#libs/resources';

export interface LeftMachine {
  generation: number;
  restart_policy: 'stay' | 'always';
}

/** Decides and writes; `tellNode` writes what the node should make of it. Only while no job changes the machine. */
export async function obeyRestartPolicy(
  tx: Tx,
  core: Pick<ResourceCore, 'tenantId' | 'id'>,
  machine: LeftMachine,
  tellNode: (tx: Tx) => Promise<void>,
): Promise<void> {
  if (machine.restart_policy === 'stay') {
    await tx
      .updateTable('instance')
      .set({ desired_power_state: 'stopped' })
      .where('tenant_id', '=', core.tenantId)
      .where('id', '=', core.id)
      .execute();
    await updateResource(tx, core, { raiseGeneration: true, observedGeneration: machine.generation + 1 });
  }
  await tellNode(tx);
}
