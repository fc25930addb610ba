/**
 * Whether somebody may give another what that other then has: a role, the grants of a group, a way to log in as a user or
 * as a service account. Nobody gives more than what he has himself at that moment; what cannot be shown is refused.
 */
import { type CompiledQuery, sql } from 'kysely';
import { parseSelector, RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { administration, confidential } from './access.js';
import { accessNow } from './access-directory.js';
import type { Actor, Role } from './actor.js';
import { type Given, shortfalls } from './coverage.js';

/** What comes with what is given. */
export interface Holding {
  roles?: readonly Role[];
  /** Names of groups. */
  groups?: readonly string[];
  /** Ids of users and service accounts, for the grants that name them or a `sub` of theirs. */
  holders?: readonly string[];
}

/** Kinds that `*` stands for beside all others, because operators and viewers have less of them. */
const kinds = [...administration, ...confidential].map((name) => ({ name, actions: [] }));
const all: Given = { verbs: ['*'], kinds: ['*'], where: { is: 'all' } };

/**
 * Throws RhyzomeError `forbidden` where the actor lacks something of it.
 * @param what for the message: what was to be given.
 */
export async function refuseGivingMore(tx: Tx, asker: Actor, holding: Holding, what: string): Promise<void> {
  const actor = await actorNow(tx, asker);
  if (shortfalls(actor, all, kinds).length === 0) return;
  const isWhole = actor.scopes === null;
  const lacking = (holding.roles ?? []).find((role) => !isWhole || !['admin', role].some((one) => hasRole(actor, one)));
  if (lacking) throw tooMuch(what, `the role ${lacking}`);
  for (const { name, given } of await rulesOf(tx, actor.tenantId, holding)) {
    const [missing] = shortfalls(actor, given, kinds);
    if (missing) throw tooMuch(what, `${missing.kind}:${missing.verb} as the grant “${name}” gives it`);
  }
}

/**
 * The actor with what the tenant's grants give to it in this transaction, whatever a server had in memory a moment before;
 * who takes it away waits, or is waited for. Throws InvalidToken when its subject is disabled or removed.
 */
export async function actorNow(tx: Tx, actor: Actor): Promise<Actor> {
  await sql`select hold_access()`.execute(tx);
  const rows = async <Row>(query: CompiledQuery<Row>) => (await tx.executeQuery(query)).rows;
  return accessNow({ builder: tx as unknown as Database['builder'], rows }, actor);
}

function hasRole(actor: Actor, role: string): boolean {
  return (actor.roles as readonly string[]).includes(role);
}

function tooMuch(what: string, missing: string): RhyzomeError {
  return new RhyzomeError(
    'forbidden',
    `You may not ${what}: it comes with ${missing}, which you do not have yourself.`,
  );
}

interface RuleRow {
  name: string;
  verbs: string[];
  kinds: string[];
  selector: string | null;
  ids: string[] | null;
}

async function rulesOf(tx: Tx, tenantId: string, { groups = [], holders = [] }: Holding) {
  if (groups.length === 0 && holders.length === 0) return [];
  const { rows } = await sql<RuleRow>`
    select g.name, r.verbs, r.kinds, r.selector, r.resource_ids as ids
    from access_rule r join resource g on g.tenant_id = r.tenant_id and g.id = r.grant_id
    where r.tenant_id = ${tenantId} and ((r.subject_type = 'group' and r.subject = any (${groups}::text[]))
      or (r.subject_type in ('user', 'serviceaccount') and r.subject = any (${holders}::text[]))
      or (r.subject_type = 'sub' and r.subject in (select s.subject from subject s
        where s.tenant_id = ${tenantId} and s.resource_id = any (${holders}::uuid[]))))
    order by g.name, r.ordinal`.execute(tx);
  return rows.map(({ name, verbs, kinds: named, selector, ids }) => {
    const given: Given = {
      verbs,
      kinds: named,
      where: ids
        ? { is: 'named', resources: ids.map((id) => ({ id })) }
        : selector === null
          ? { is: 'all' }
          : { is: 'selected', selector: parseSelector(selector) },
    };
    return { name, given };
  });
}
