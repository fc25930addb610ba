/** References between resources: their shape in a body, and finding what they name. */
import { type RawBuilder, sql } from 'kysely';
import { type AuthorizationTarget, isAllowed } from '#libs/auth';
import { isName, isUuid, parseSelector, type ResourceCore, SelectorError } from '#libs/core';
import { Check } from '#libs/openapi';
import type { RowScope } from './kind.js';

/** The id or the name of a resource. */
export function IsReference(): PropertyDecorator {
  return Check<string>(
    'isReference',
    (value) =>
      typeof value !== 'string' || isUuid(value) || isName(value)
        ? []
        : [{ code: value === '' ? 'empty' : 'invalid_format', message: 'must be an id or a name' }],
    { minLength: 1, maxLength: 63 },
  );
}

/** Each item the id or the name of a resource. */
export function AreReferences(): PropertyDecorator {
  return Check<unknown[]>(
    'areReferences',
    (value) =>
      (Array.isArray(value) ? value : []).flatMap((item, index) => {
        const pointer = `/${index}`;
        if (typeof item !== 'string') return [{ pointer, code: 'wrong_type', message: 'must be a string' }];
        return isUuid(item) || isName(item)
          ? []
          : [{ pointer, code: 'invalid_format', message: 'must be an id or a name' }];
      }),
    { items: { type: 'string', minLength: 1, maxLength: 63 } },
  );
}

/** The part of a core that names a row. */
export type Who = Pick<ResourceCore, 'tenantId' | 'id'>;

/** A selector of tags. */
export function IsTagSelector(maxLength: number): PropertyDecorator {
  return Check<string>(
    'isTagSelector',
    (value) => {
      if (typeof value !== 'string') return [];
      try {
        return parseSelector(value).length > 0 ? [] : [{ code: 'empty', message: 'must select something' }];
      } catch (error) {
        if (!(error instanceof SelectorError)) throw error;
        return [{ code: 'invalid_format', message: error.message }];
      }
    },
    { minLength: 1, maxLength },
  );
}

/** What `usable` decides on; to be selected beside whatever a reference is looked up for. */
export interface Referenced {
  referenced: AuthorizationTarget;
}

/** The column of `Referenced`, over `r`, a row of `resource`. */
export const referencedColumn: RawBuilder<AuthorizationTarget> = sql<AuthorizationTarget>`
  jsonb_build_object('tenantId', r.tenant_id, 'kind', r.kind, 'id', r.id, 'tags', r.tags, 'createdBy', r.created_by)
    as referenced`;

/**
 * Of the rows that a reference has found, those that whoever asks may read: others are as unknown as what does not exist,
 * after the same statement. `kept`: the id that stands in the resource already, and may stay whoever changes the rest.
 */
export function usable<Row extends Referenced>(
  { actor, tenantId }: Pick<RowScope, 'actor' | 'tenantId'>,
  rows: readonly Row[],
  kept?: string | null,
): Omit<Row, 'referenced'>[] {
  const isUsable = (core: AuthorizationTarget) =>
    !actor || core.id === kept || isAllowed(actor, 'read', { ...core, isPublic: core.tenantId !== tenantId });
  return rows.flatMap(({ referenced, ...row }) => (isUsable(referenced) ? [row] : []));
}
