/** Checks what the controller asks of a migration before any of it reaches a command or a path. */
import type { AbandonArguments, MigrateArguments } from '#libs/drivers/contract';

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function isMigrate(args: unknown): args is MigrateArguments {
  const { operationId, to, mode, disks, shared = [], mayStop } = (args ?? {}) as Partial<MigrateArguments>;
  return (
    isOperation(operationId) &&
    isPeer(to) &&
    (mode === 'live' || mode === 'cold') &&
    typeof mayStop === 'boolean' &&
    Array.isArray(disks) &&
    disks.every((id) => typeof id === 'string' && uuid.test(id)) &&
    Array.isArray(shared) &&
    shared.every((id) => disks.includes(id))
  );
}

export function isAbandon(args: unknown): args is AbandonArguments {
  const { operationId, to, settled = 'here' } = (args ?? {}) as Partial<AbandonArguments>;
  return isOperation(operationId) && (to === undefined || isPeer(to)) && (settled === 'here' || settled === 'there');
}

function isPeer(to: Partial<MigrateArguments['to']> | undefined): boolean {
  return typeof to?.node === 'string' && typeof to.address === 'string';
}

export function isOperation(operationId: unknown): operationId is string {
  return typeof operationId === 'string' && uuid.test(operationId);
}
