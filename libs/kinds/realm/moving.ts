/**
 * What of a tenant goes along when its login place moves. The kinds that keep people and programs there register how they
 * are made anew at another place; this kind knows none of them by name.
 */
import type { Tx } from '#libs/db';
import type { AccountSort, LoginPlace } from '#libs/identity';
import type { RowScope } from '#libs/resources';

/** One that was made at the new place. Stored with the job's step: no secrets. */
export interface Moved {
  id: string;
  /** Its tokens' `sub` there; absent for what gets no tokens. */
  subject?: string;
  clientId?: string;
}

export interface Mover {
  kind: string;
  /** What one of them is at the identity provider. */
  account: AccountSort;
  /** Groups (1) before the users that are in them (2). */
  order: number;
  /** Makes all of the tenant's at the place; repeatable, and takes nothing from where they are now. */
  put(scope: RowScope, place: LoginPlace, signal: AbortSignal): Promise<Moved[]>;
  /** In the transaction after which their tokens come from the new place. */
  note(tx: Tx, tenantId: string, moved: Moved): Promise<void>;
}

const movers = new Map<string, Mover>();

/** Once, by the kind's own module. */
export function movesAlong(mover: Mover): void {
  movers.set(mover.kind, mover);
}

/** The kind whose resources are accounts of that sort. */
export function kindOfAccount(sort: AccountSort): string | undefined {
  return [...movers.values()].find(({ account }) => account === sort)?.kind;
}

export function moversInOrder(): Mover[] {
  return [...movers.values()].sort((a, b) => a.order - b.order);
}

/** The mover of a kind that has gone along. */
export function moverOf(kind: string): Mover | undefined {
  return movers.get(kind);
}
