/**
 * Kind grant: who may do what with which resources. It has no work outside: it counts from the transaction that claims it
 * on, and no longer from that which asks for its removal.
 */
import { isDeepStrictEqual } from 'node:util';
import { sql } from 'kysely';
import { type Actor, actorNow, type Given, type Role, type Where } from '#libs/auth';
import { type FieldError, invalid, parseSelector, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { JobOutcome } from '#libs/jobs';
import {
  addEdges,
  type Claim,
  type CoreDocument,
  type CoreRow,
  dropEdges,
  type Job,
  RowResource,
} from '#libs/resources';
import { nameErrors } from './names.js';
import { findNamed, findSubject, type NamedResource } from './references.js';
import { refuseNarrowing } from './role-meaning.js';
import { authorOf, putRules, rulesOf, type StoredRule, type SubjectType } from './rules.js';

export interface GrantDocument extends CoreDocument {
  subject: { user?: string; serviceAccount?: string; group?: string; role?: string; sub?: string };
  verbs: string[];
  kinds: string[];
  tagSelector?: string;
  resources?: string[];
}

export interface GrantRow extends CoreRow {
  subject_type: SubjectType;
  subject: string;
  verbs: string[];
  kinds: string[];
  selector: string | null;
  resource_ids: string[] | null;
  rules: StoredRule[];
}

/** Of a tenant. Each of its people has a part of them in every server's memory. */
export const MAX_GRANTS = 1000;

const fields = { user: 'user', serviceaccount: 'serviceAccount', group: 'group', role: 'role', sub: 'sub' } as const;

export function subjectOf(row: Pick<GrantRow, 'subject_type' | 'subject'>): GrantDocument['subject'] {
  return { [fields[row.subject_type]]: row.subject };
}

/** All that the transaction of a claim needs. */
interface Found {
  subject: { type: SubjectType; name: string; resourceId?: string };
  resources: NamedResource[] | null;
  given: Given;
}

export class GrantResource extends RowResource<GrantDocument, GrantRow> {
  private found: Found | undefined;

  protected documentOf(row: GrantRow) {
    return {
      subject: subjectOf(row),
      verbs: row.verbs,
      kinds: row.kinds,
      ...(row.selector !== null && { tagSelector: row.selector }),
      ...(row.resource_ids !== null && { resources: row.resource_ids }),
    };
  }

  /** Throws RhyzomeError `forbidden` where it would give more than its author has. */
  async validate(_isNew: boolean): Promise<FieldError[]> {
    if (this.givesTheSame()) return [];
    const found = await this.find();
    if (Array.isArray(found)) return found;
    this.found = found;
    return [];
  }

  private async find(): Promise<Found | FieldError[]> {
    const { verbs, kinds, tagSelector, resources } = this.asked;
    const errors = nameErrors(this.asked);
    const subject = this.row
      ? { type: this.row.subject_type, name: this.row.subject }
      : await findSubject(this.scope, this.asked.subject);
    if (Array.isArray(subject)) errors.push(...subject);
    if (errors.length > 0 || Array.isArray(subject)) return errors;
    const named = resources ? await findNamed(this.scope, kinds[0]!, resources, this.row?.resource_ids ?? []) : null;
    if (named && 'errors' in named) return named.errors;
    const given: Given = { verbs, kinds, where: whereOf(tagSelector, named) };
    // Whoever has it not is told before anything is written.
    rulesOf(authorOf(this.scope.actor, this.scope.tenantId), given, subject.type);
    return { subject, resources: named, given };
  }

  /** A change of its name or tags gives nothing, and needs no more than the permission for it. */
  private givesTheSame(): boolean {
    if (!this.row) return false;
    const { verbs, kinds, tagSelector, resources } = this.asked;
    const { row } = this;
    return (
      isDeepStrictEqual(verbs, row.verbs) &&
      isDeepStrictEqual(kinds, row.kinds) &&
      (tagSelector ?? null) === row.selector &&
      isDeepStrictEqual(resources ?? null, row.resource_ids)
    );
  }

  async claim(tx: Tx, claim: Claim<GrantDocument>): Promise<void> {
    if (claim.action === 'update') return claim.isRestore ? this.restore(tx) : this.claimUpdate(tx);
    const found = await this.needed();
    const { tenantId, id } = this.core;
    if (!claim.isRetry) {
      await this.refuseMany(tx);
      const { resourceId: targetId } = found.subject;
      const edges = targetId ? [{ targetTenantId: tenantId, targetId, relation: 'gives rights to' }] : [];
      await addEdges(tx, this.core, edges, () => new RhyzomeError('conflict', 'Whom it is for is being removed.'));
    }
    const rules = await this.given(tx, found);
    const { type: subject_type, name: subject } = found.subject;
    if (subject_type === 'role') await refuseNarrowing(tx, this.core, subject as Role, await this.author(tx));
    const columns = { ...this.columns(found), rules: JSON.stringify(rules) };
    if (claim.isRetry) await this.write(tx, columns);
    else {
      await tx
        .insertInto('access_grant')
        .values({ tenant_id: tenantId, id, subject_type, subject, ...columns })
        .execute();
    }
    await putRules(tx, this.core, found.subject, rules);
  }

  private async claimUpdate(tx: Tx): Promise<void> {
    const before = JSON.stringify(this.row!.rules);
    if (this.givesTheSame()) return this.write(tx, { rules_before: before });
    const found = await this.needed();
    const rules = await this.given(tx, found);
    await this.write(tx, { ...this.columns(found), rules: JSON.stringify(rules), rules_before: before });
    await putRules(tx, this.core, found.subject, rules);
  }

  /** What its author has at this moment decides, and not what a server had in memory a moment before. */
  private async given(tx: Tx, { subject, given }: Found): Promise<StoredRule[]> {
    return rulesOf(await this.author(tx), given, subject.type);
  }

  private author(tx: Tx): Promise<Actor> {
    return actorNow(tx, authorOf(this.scope.actor, this.scope.tenantId));
  }

  /** Nobody gives anything: it was its author's to give when it was given. */
  private async restore(tx: Tx): Promise<void> {
    const { tenantId, id } = this.core;
    const { verbs, kinds, tagSelector, resources } = this.asked;
    const row = await tx
      .selectFrom('access_grant')
      .select(['subject_type', 'subject', 'rules_before', 'rules'])
      .where('tenant_id', '=', tenantId)
      .where('id', '=', id)
      .executeTakeFirstOrThrow();
    const rules = (row.rules_before ?? row.rules) as unknown as StoredRule[];
    const columns = { verbs, kinds, selector: tagSelector ?? null, resource_ids: resources ?? null };
    await this.write(tx, { ...columns, rules: JSON.stringify(rules) });
    await putRules(tx, this.core, { type: row.subject_type as SubjectType, name: row.subject }, rules);
  }

  /** A job that is tried again was not validated. */
  private async needed(): Promise<Found> {
    const found = this.found ?? (await this.find());
    if (Array.isArray(found)) throw invalid(found);
    return found;
  }

  private columns({ resources }: Found) {
    const { verbs, kinds, tagSelector } = this.asked;
    return { verbs, kinds, selector: tagSelector ?? null, resource_ids: resources?.map(({ id }) => id) ?? null };
  }

  private async write(
    tx: Tx,
    values: Partial<ReturnType<GrantResource['columns']>> & { rules?: string; rules_before?: string | null },
  ): Promise<void> {
    const { tenantId, id } = this.core;
    await tx.updateTable('access_grant').set(values).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
  }

  /** Throws RhyzomeError `limit_reached`. Two creates of a tenant wait for each other, so that both are counted. */
  private async refuseMany(tx: Tx): Promise<void> {
    const { tenantId } = this.core;
    await sql`select pg_advisory_xact_lock(hashtextextended(${`rhyzome.grants.${tenantId}`}, 0))`.execute(tx);
    const counted = await sql<{ count: number }>`
      select count(*)::int as count from access_grant where tenant_id = ${tenantId}`.execute(tx);
    if (counted.rows[0]!.count < MAX_GRANTS) return;
    throw new RhyzomeError('limit_reached', `A tenant has at most ${MAX_GRANTS} grants; put some together.`);
  }

  async settled(tx: Tx, action: string, outcome: JobOutcome): Promise<void> {
    const { subject_type: type, subject: name, rules } = await this.fresh(tx);
    const subject = { type, name };
    await this.write(tx, { rules_before: null });
    // It stays after all, or was never there.
    if (action === 'delete') await putRules(tx, this.core, subject, rules);
    if (action === 'create' && outcome !== 'succeeded') await putRules(tx, this.core, subject, []);
  }

  async release(tx: Tx): Promise<void> {
    await dropEdges(tx, this.core);
  }

  async create(_core: ResourceCore, _job: Job<Tx>): Promise<void> {}
  async update(_job: Job<Tx>): Promise<void> {}
  async remove(_job: Job<Tx>): Promise<void> {}
}

function whereOf(tagSelector: string | undefined, resources: NamedResource[] | null): Where {
  if (resources) return { is: 'named', resources };
  return tagSelector === undefined ? { is: 'all' } : { is: 'selected', selector: parseSelector(tagSelector) };
}
