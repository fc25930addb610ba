/**
 * The sweep of accounts as an administrator sees it: what this installation made at the identity provider and nobody owns, what
 * becomes of it, and an administrator's words on it.
 */
import { sql } from 'kysely';
import { printable, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { MOST, MOST_REMOVALS, refuseWhileHeld } from './sweep.js';

/** At the identity provider: made by this installation, and of nobody. */
export interface AccountOrphanView {
  tenant: string;
  /** `realm`: the whole place. */
  kind: 'realm' | 'user' | 'group' | 'serviceaccount';
  name: string;
  at: 'realm' | 'organization';
  firstSeenAt: Date;
  lastSeenAt: Date;
  looks: number;
  /** `noWord`: a place goes only on an administrator's word. */
  fate: 'removing' | 'approved' | 'due' | 'waiting' | 'reported' | 'held' | 'noWord';
  dueAt: Date;
  failure: { code: string; message: string } | null;
}

export interface AccountRemovalView {
  tenant: string;
  kind: string;
  name: string;
  at: string;
  removedAt: Date;
  approvedBy: string | null;
}

const accountFate = sql`case
  when nodes_are_held() then 'held'
  when o.asked_at is not null then 'removing'
  when o.approved_at is not null then 'approved'
  when o.kind = 'realm' then 'noWord'
  when i.sweep_mode = 'report' then 'reported'
  when o.looks >= 2 and o.first_seen_at < now() - i.sweep_after then 'due'
  else 'waiting' end`;

/** The oldest first. */
export async function listAccountOrphans(tx: Tx): Promise<AccountOrphanView[]> {
  const result = await sql<AccountOrphanView>`
    select o.tenant_id as tenant, o.kind, o.name, o.mode as at, o.first_seen_at as "firstSeenAt",
      o.last_seen_at as "lastSeenAt", o.looks, ${accountFate} as fate, o.first_seen_at + i.sweep_after as "dueAt", o.failure
    from account_orphan o cross join installation i
    order by o.tenant_id, o.first_seen_at, o.kind, o.name limit ${MOST}`.execute(tx);
  return result.rows;
}

/** The last ones, the newest first. */
export async function listAccountRemovals(tx: Tx): Promise<AccountRemovalView[]> {
  const result = await sql<AccountRemovalView>`
    select tenant_id as tenant, kind, name, mode as at, removed_at as "removedAt", approved_by as "approvedBy"
    from account_removal order by removed_at desc, kind, name limit ${MOST_REMOVALS}`.execute(tx);
  return result.rows;
}

/** An administrator's word on one. Throws RhyzomeError `not_found`. */
export async function approveAccount(
  tx: Tx,
  { tenant, kind, name }: { tenant: string; kind: string; name: string },
  by: string,
): Promise<void> {
  await refuseWhileHeld(tx);
  const approved = await sql`
    update account_orphan set approved_at = now(), approved_by = ${by}
    where tenant_id = ${tenant} and kind = ${kind} and name = ${name}`.execute(tx);
  if (approved.numAffectedRows === 0n)
    throw new RhyzomeError(
      'not_found',
      `The identity provider has no ${printable(kind)} ${printable(name)} of ${printable(tenant)} that nobody owns. \`rhyzome sweep\` shows what it has.`,
    );
}

/** On all that have waited long enough, however many; never on a whole place. */
export async function approveAccounts(tx: Tx, by: string, all: boolean): Promise<number> {
  await refuseWhileHeld(tx);
  const approved = await sql`
    update account_orphan o set approved_at = now(), approved_by = ${by} from installation i
    where o.kind <> 'realm' and o.approved_at is null
      and (${all} or (o.looks >= 2 and o.first_seen_at < now() - i.sweep_after))`.execute(tx);
  return Number(approved.numAffectedRows ?? 0n);
}
