/** Reads numbered events of one tenant from a number on. A cursor is that number as text. */

import { type RawBuilder, sql } from 'kysely';
import { RhyzomeError, type Selector, selects, type Tags } from '#libs/core';
import type { Database } from '#libs/db';

export interface TenantEvent {
  number: number;
  type: string;
  kind: string;
  resourceId: string;
  jobId: string | null;
  tagsBefore: Tags | null;
  tagsAfter: Tags | null;
  body: Record<string, unknown>;
  at: Date;
}

export interface EventFilter {
  kind?: string;
  /**
   * SQL of whether the caller may read the resource that an event is about, which had these tags; undefined: all. What
   * leaves that is told as if it had been deleted, and what enters as if it had been made.
   */
  readable?: (row: EventRowColumns) => RawBuilder<unknown>;
  /** Id of a resource. */
  resource?: string;
  selector?: Selector;
}

export interface EventRowColumns {
  kind: RawBuilder<unknown>;
  id: RawBuilder<unknown>;
  tags: RawBuilder<unknown>;
  createdBy: RawBuilder<unknown>;
}

interface EventRow {
  number: number;
  type: string;
  kind: string;
  resource_id: string;
  job_id: string | null;
  tags_before: Tags | null;
  tags_after: Tags | null;
  body: Record<string, unknown>;
  at: Date;
  /** Whether the caller may read the resource as it was before, and as it is after the event. */
  was: boolean;
  is: boolean;
}

const cursorShape = /^\d{1,15}$/;

/** The number of a cursor; throws `invalid` with the parameter or header that it came by. */
export function parseCursor(text: string, where: { parameter: string } | { header: string }): number {
  if (cursorShape.test(text)) return Number(text);
  throw new RhyzomeError('invalid', 'The cursor is not one that an event had.', {
    errors: [{ ...where, code: 'invalid_format', message: 'must be the id of an event' }],
  });
}

export class EventReader {
  constructor(private readonly db: Database) {}

  /** The last number given, and the last one pruned. */
  async head(tenantId: string): Promise<{ last: number; pruned: number }> {
    const rows = await this.db.tenantRead(
      tenantId,
      this.db.builder
        .selectFrom('event_counter')
        .select(['last', 'pruned'])
        .where('tenant_id', '=', tenantId)
        .compile(),
    );
    return rows[0] ?? { last: 0, pruned: 0 };
  }

  /** Where a reader may resume; throws `cursor_too_old` where something after `since` is pruned. */
  async resume(tenantId: string, since: number | undefined): Promise<number> {
    const head = await this.head(tenantId);
    if (since === undefined) return head.last;
    if (since < head.pruned) {
      throw new RhyzomeError(
        'cursor_too_old',
        'Events after this cursor are no longer kept; list anew and watch from now.',
      );
    }
    return Math.min(since, head.last);
  }

  /**
   * Up to `limit` events after `since`, filtered. `upTo` is the number that was looked at last, to go on from even when
   * nothing passed the filter.
   */
  async read(
    tenantId: string,
    since: number,
    filter: EventFilter,
    limit = 200,
  ): Promise<{ events: TenantEvent[]; upTo: number; more: boolean }> {
    const query = eventsQuery(tenantId, since, filter, limit).compile(this.db.builder);
    const rows = await this.db.tenantRead<EventRow>(tenantId, query);
    const upTo = rows.at(-1)?.number ?? since;
    return { events: rows.flatMap((row) => shown(row, filter)), upTo, more: rows.length === limit };
  }
}

/** Of what the caller may not read, the number only. */
function eventsQuery(tenantId: string, since: number, { readable }: EventFilter, limit: number): RawBuilder<EventRow> {
  const next = sql`select e.* from event e where e.tenant_id = ${tenantId} and e.number > ${since}
    order by e.number limit ${limit}`;
  const columns = sql`e.number, e.type, e.kind, e.resource_id, e.job_id, e.tags_before, e.tags_after, e.at`;
  if (!readable) return sql<EventRow>`select ${columns}, e.body, true as was, true as is from (${next}) e`;
  const seen = (tags: RawBuilder<unknown>) => {
    const row = { kind: sql.ref('e.kind'), id: sql.ref('e.resource_id'), createdBy: sql.ref('e.created_by') };
    // A resource has none before it is made and after it is deleted; a job has its resource's, if these are known.
    return sql`((e.job_id is not null or ${tags} is not null) and ${readable({ ...row, tags })})`;
  };
  return sql<EventRow>`select ${columns}, case when v.was or v.is then e.body end as body, v.was, v.is
    from (${next}) e cross join lateral (select ${seen(sql.ref('e.tags_before'))} as was,
      ${seen(sql.ref('e.tags_after'))} as is offset 0) v order by e.number`;
}

function toEvent(row: EventRow): TenantEvent {
  return {
    number: row.number,
    type: row.type,
    kind: row.kind,
    resourceId: row.resource_id,
    jobId: row.job_id,
    tagsBefore: row.tags_before,
    tagsAfter: row.tags_after,
    body: row.body,
    at: row.at,
  };
}

/**
 * As the caller is told of it, if at all. A resource that leaves the selection is told, too: it was selected before or is
 * now, as far as the caller might read it then.
 */
function shown(row: EventRow, filter: EventFilter): TenantEvent[] {
  const { was, is } = row;
  if (!was && !is) return [];
  if (filter.kind !== undefined && row.kind !== filter.kind) return [];
  if (filter.resource !== undefined && row.resource_id !== filter.resource) return [];
  const { selector } = filter;
  const isSelected = (tags: Tags | null) => !selector || (tags !== null && selects(selector, tags));
  if (!(was && isSelected(row.tags_before)) && !(is && isSelected(row.tags_after))) return [];
  const event = toEvent(row);
  if (event.type !== 'resource.updated' || was === is) return [event];
  if (is) return [{ ...event, type: 'resource.created', tagsBefore: null }];
  const { id, kind, name } = row.body;
  return [{ ...event, type: 'resource.deleted', tagsAfter: null, body: { id, kind, name } }];
}
