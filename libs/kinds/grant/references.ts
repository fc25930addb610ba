/** Whom a grant is for and which resources it names, found. What its author may not read is as unknown as what is not there. */
import { sql } from 'kysely';
import type { Reachable } from '#libs/auth';
import { type FieldError, isUuid } from '#libs/core';
import { type Referenced, type RowScope, referencedColumn, usable } from '#libs/resources';
import type { SubjectType } from './rules.js';

interface Subject {
  type: SubjectType;
  /** As permissions are decided on it: an id, or the name that stands in tokens. */
  name: string;
  /** The resource that it is, where there is one: the grant keeps it. */
  resourceId?: string;
}

type Asked = { user?: string; serviceAccount?: string; group?: string; role?: string; sub?: string };

export async function findSubject(scope: RowScope, asked: Asked): Promise<Subject | FieldError[]> {
  const { user, serviceAccount, group, role, sub } = asked;
  if (user !== undefined) return findResourceSubject(scope, 'user', user, '/subject/user', 'user');
  if (serviceAccount !== undefined) {
    return findResourceSubject(scope, 'serviceaccount', serviceAccount, '/subject/serviceAccount', 'service account');
  }
  if (group !== undefined) return findGroup(scope, group);
  return role !== undefined ? { type: 'role', name: role } : { type: 'sub', name: sub! };
}

const named = (reference: string) => (isUuid(reference) ? sql`r.id = ${reference}` : sql`r.name = ${reference}`);

async function findResourceSubject(
  scope: RowScope,
  kind: 'user' | 'serviceaccount',
  reference: string,
  pointer: string,
  noun: string,
): Promise<Subject | FieldError[]> {
  const rows = await scope.rows(
    sql<{ id: string } & Referenced>`select r.id, ${referencedColumn} from resource r
      where r.tenant_id = ${scope.tenantId} and r.kind = ${kind} and r.state <> 'deleting' and ${named(reference)}`.compile(
      scope.builder,
    ),
  );
  const [found] = usable(scope, rows);
  if (!found) return [{ pointer, code: 'not_found', message: `is no ${noun} that you may use` }];
  return { type: kind, name: found.id, resourceId: found.id };
}

/** A name in tokens, whoever gives those out. Where Rhyzome keeps the group, it stays for as long as the grant does. */
async function findGroup(scope: RowScope, name: string): Promise<Subject> {
  const [kept] = await scope.rows(
    sql<{ id: string }>`select r.id from resource r
      where r.tenant_id = ${scope.tenantId} and r.kind = 'group' and r.state <> 'deleting' and r.name = ${name}`.compile(
      scope.builder,
    ),
  );
  return { type: 'group', name, ...(kept && { resourceId: kept.id }) };
}

/** With what permissions on it are decided on. */
export type NamedResource = Reachable & { readonly id: string };

/** The tenant's own resources of a kind, in the order asked for. `kept` stand in the grant already, there or not. */
export async function findNamed(
  scope: RowScope,
  kind: string,
  references: readonly string[],
  kept: readonly string[],
): Promise<NamedResource[] | { errors: FieldError[] }> {
  const ids = references.filter(isUuid);
  const names = references.filter((reference) => !isUuid(reference));
  const rows = await scope.rows(
    sql<{ id: string; name: string; tags: Record<string, string>; createdBy: string } & Referenced>`
      select r.id, r.name, r.tags, r.created_by as "createdBy", ${referencedColumn} from resource r
      where r.tenant_id = ${scope.tenantId} and r.kind = ${kind} and r.state <> 'deleting'
        and (r.id = any(${ids}::uuid[]) or r.name = any(${names}::text[]))`.compile(scope.builder),
  );
  const known = new Map(usable(scope, rows).flatMap((row) => [[row.id, row] as const, [row.name, row] as const]));
  const errors: FieldError[] = [];
  const found = new Map<string, NamedResource>();
  for (const [index, reference] of references.entries()) {
    const resource = known.get(reference) ?? (kept.includes(reference) ? { id: reference } : undefined);
    if (resource) found.set(resource.id, { id: resource.id, ...('tags' in resource && resource) });
    else errors.push({ pointer: `/resources/${index}`, code: 'not_found', message: `is no ${kind} that you may use` });
  }
  return errors.length > 0 ? { errors } : [...found.values()];
}
