/**
 * What each tenant's grants give to whom, and which subjects may not come in, kept in memory: one statement when a token
 * is seen for the first time, and none until something of its tenant's permissions changes. Whoever hears of a change
 * calls `forget`; the epochs in the database are compared every few seconds besides, in case a notification was lost.
 */
import { type CompiledQuery, sql } from 'kysely';
import { parseSelector } from '#libs/core';
import type { Database } from '#libs/db';
import type { AccessRule, Actor, Role } from './actor.js';
import { InvalidToken } from './bearer.js';
import { lesserRoles } from './role-order.js';

/** How long a lost notification may go unnoticed. */
const LOOK_MS = 2000;
const MAX_TENANTS = 10_000;
const UNKNOWN = -1;

interface AccessRow {
  epoch: number;
  subject: { resource_id: string; enabled: boolean } | null;
  /** What the user has now, where Rhyzome keeps it. */
  owner: { role: Role | null; groups: string[] } | null;
  redefined: string[] | null;
  rules: {
    subject_type: string;
    subject: string;
    id: string;
    name: string;
    verbs: string[];
    kinds: string[];
    selector: string | null;
    ids: string[] | null;
  }[];
}

interface Known {
  generation: number;
  actor: Promise<Actor>;
}

interface TenantState {
  /** Rises when something has changed, as far as is known here. */
  generation: number;
  /** As last seen in the database. */
  epoch: number;
}

export class AccessDirectory {
  private readonly tenants = new Map<string, TenantState>();
  private readonly actors = new WeakMap<Actor, Known>();
  private timer: NodeJS.Timeout | undefined;
  /** For metrics and tests: statements asked because of a token. */
  lookups = 0;
  /** Rises whenever any tenant's generation does. */
  changes = 0;

  constructor(
    private readonly db: Database,
    private readonly onError: (error: unknown) => void = () => undefined,
  ) {}

  /** Begins to compare epochs; `stop` ends it. */
  start(): void {
    this.timer ??= setInterval(() => void this.compare(), LOOK_MS).unref();
  }

  stop(): void {
    clearInterval(this.timer);
    this.timer = undefined;
  }

  /** Something of a tenant's permissions has changed; null: perhaps of any. */
  forget(tenantId: string | null): void {
    this.changes += 1;
    if (tenantId === null) for (const state of this.tenants.values()) state.generation += 1;
    else this.stateOf(tenantId).generation += 1;
  }

  /** What was read of a tenant's permissions holds as long as this stays the same. */
  generationOf(tenantId: string): number {
    return this.stateOf(tenantId).generation;
  }

  /**
   * The actor with what its tenant's grants give. `base` is what its token says, the same object for the same token.
   * Throws InvalidToken when its subject is disabled or removed.
   */
  async enrich(base: Actor): Promise<Actor> {
    const { generation } = this.stateOf(base.tenantId);
    const known = this.actors.get(base);
    if (known?.generation === generation) return known.actor;
    const actor = this.lookUp(base);
    this.actors.set(base, { generation, actor });
    try {
      return await actor;
    } catch (error) {
      // A refusal holds until something changes; a database that is away is asked again.
      if (!(error instanceof InvalidToken) && this.actors.get(base)?.actor === actor) this.actors.delete(base);
      throw error;
    }
  }

  private async lookUp(base: Actor): Promise<Actor> {
    this.lookups += 1;
    const { builder } = this.db;
    const rows = <Row>(query: CompiledQuery<Row>) => this.db.tenantRead(base.tenantId, query);
    return accessNow({ builder, rows }, base, (epoch) => this.noteEpoch(base.tenantId, epoch));
  }

  /** One statement for all tenants that are known here. */
  private async compare(): Promise<void> {
    if (this.tenants.size === 0) return;
    const names = [...this.tenants.keys()];
    try {
      const query = sql<{ tenant_id: string; epoch: number }>`select * from access_epochs(${names}::text[])`;
      for (const { tenant_id, epoch } of await this.db.unscopedRead(query.compile(this.db.builder))) {
        this.noteEpoch(tenant_id, epoch);
      }
    } catch (error) {
      this.onError(error);
    }
  }

  private stateOf(tenantId: string): TenantState {
    const known = this.tenants.get(tenantId);
    if (known) return known;
    if (this.tenants.size >= MAX_TENANTS) this.tenants.delete(this.tenants.keys().next().value!);
    // A generation that was there before must not come again: actors of then may still be held.
    const state = { generation: Date.now(), epoch: UNKNOWN };
    this.tenants.set(tenantId, state);
    return state;
  }

  /** Two that see different epochs cannot both be up to date: all of the tenant's are looked up again. */
  noteEpoch(tenantId: string, epoch: number): void {
    const state = this.stateOf(tenantId);
    if (state.epoch === epoch) return;
    if (state.epoch !== UNKNOWN) {
      state.generation += 1;
      this.changes += 1;
    }
    state.epoch = Math.max(state.epoch, epoch);
  }
}

/**
 * An actor with what its tenant's grants give at this moment, in one statement. Of the roles and groups that its token says,
 * a user that Rhyzome keeps has no more than it has now: what was taken away counts no longer, however long the token lives.
 * Throws InvalidToken when its subject is disabled or removed.
 * @param noted is told the tenant's epoch as of then.
 */
export async function accessNow(
  scope: { builder: Database['builder']; rows<Row>(query: CompiledQuery<Row>): Promise<Row[]> },
  base: Actor,
  noted: (epoch: number) => void = () => undefined,
): Promise<Actor> {
  const [row] = await scope.rows(accessQuery(base).compile(scope.builder));
  if (!row) throw new Error('a statement without from gave no row');
  noted(row.epoch);
  const { owner } = row;
  if (row.subject && !row.subject.enabled) {
    throw new InvalidToken('subject_disabled', 'The owner of this token is disabled or removed.');
  }
  const roles = owner ? lesserRoles(base.roles, owner.role === null ? [] : [owner.role]) : base.roles;
  const groups = (base.groups ?? []).filter((group) => !owner || owner.groups.includes(group));
  const has: Record<string, readonly string[]> = { role: roles, group: groups };
  const rules = row.rules.filter(({ subject_type: type, subject }) => has[type]?.includes(subject) ?? true);
  return Object.freeze({
    ...base,
    roles: Object.freeze(roles),
    groups: Object.freeze(groups),
    rules: Object.freeze(rules.map(ruleOf)),
    redefinedRoles: Object.freeze(row.redefined ?? []),
    ...(row.subject && { resourceId: row.subject.resource_id }),
  });
}

function accessQuery({ tenantId, subject, roles, groups = [], resourceId }: Actor) {
  return sql<AccessRow>`
    with me as (select s.resource_id, s.kind, s.enabled from subject s
      where s.tenant_id = ${tenantId} and s.subject = ${subject}),
    owner as (select u.role, array(select g.name from group_member m
        join resource g on g.tenant_id = m.tenant_id and g.id = m.group_id
        where m.tenant_id = u.tenant_id and m.user_id = u.id) as groups
      from me join tenant_user u on u.tenant_id = ${tenantId} and u.id = me.resource_id where me.kind = 'user')
    select
      coalesce((select a.epoch from tenant_access a where a.tenant_id = ${tenantId}), 0) as epoch,
      (select to_jsonb(me) from me) as subject,
      (select to_jsonb(owner) from owner) as owner,
      (select array_agg(distinct r.subject) from access_rule r
        where r.tenant_id = ${tenantId} and r.subject_type = 'role') as redefined,
      (select coalesce(jsonb_agg(jsonb_build_object('subject_type', r.subject_type, 'subject', r.subject, 'id', r.grant_id,
          'name', g.name, 'verbs', r.verbs, 'kinds', r.kinds, 'selector', r.selector, 'ids', r.resource_ids)
          order by g.name, r.ordinal), '[]')
        from access_rule r join resource g on g.tenant_id = r.tenant_id and g.id = r.grant_id
        where r.tenant_id = ${tenantId} and (
          (r.subject_type = 'sub' and r.subject = ${subject})
          or (r.subject_type = 'group' and r.subject = any (${groups}::text[]))
          or (r.subject_type = 'role' and (r.subject = any (${roles}::text[]) or r.subject = (select owner.role from owner)))
          or (r.subject_type in ('user', 'serviceaccount') and r.subject = ${resourceId ?? null}::text)
          or (r.subject_type, r.subject) in (select me.kind, me.resource_id::text from me))) as rules`;
}

function ruleOf({ id, name, verbs, kinds, selector, ids }: AccessRow['rules'][number]): AccessRule {
  return Object.freeze({
    grant: Object.freeze({ id, name }),
    verbs,
    kinds,
    selector: selector === null ? null : parseSelector(selector),
    ids,
  });
}
