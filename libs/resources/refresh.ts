/**
 * Having another kind's resource told to its nodes again. Disks and instances need that of each other, and kinds import
 * each other one way only; the registry makes each kind's `refresh` known here.
 */
import type { Tx } from '#libs/db';
import type { KindDefinition } from './kind.js';

const known = new Map<string, NonNullable<KindDefinition['refresh']>>();

export function knowRefresh(kind: KindDefinition): void {
  if (kind.refresh) known.set(kind.name, kind.refresh);
}

/** Throws Error where the kind has nothing on nodes. */
export async function refreshResource(tx: Tx, kind: string, tenantId: string, id: string): Promise<void> {
  const refresh = known.get(kind);
  if (!refresh) throw new Error(`Kind ${kind} has nothing that could be told to nodes again.`);
  await refresh(tx, tenantId, id);
}
