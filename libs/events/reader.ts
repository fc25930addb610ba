/** Reads numbered events of one tenant from a number on. A cursor is that number as text. */

import { sql } from 'kysely';
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
  /** Kinds that the caller may read; undefined: all. */
  readableKinds?: readonly string[];
  /** Id of a resource. */
  resource?: string;
  selector?: Selector;
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
    const rows = await this.db.tenantRead<EventRow>(
      tenantId,
      sql<EventRow>`
        select number, type, kind, resource_id, job_id, tags_before, tags_after, body, at from event
        where tenant_id = ${tenantId} and number > ${since} order by number limit ${limit}`.compile(this.db.builder),
    );
    const upTo = rows.at(-1)?.number ?? since;
    return { events: rows.map(toEvent).filter((event) => passes(event, filter)), upTo, more: rows.length === limit };
  }
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

/** A resource that leaves the selection is told too: it was selected before or is now. */
function passes(event: TenantEvent, filter: EventFilter): boolean {
  if (filter.kind !== undefined && event.kind !== filter.kind) return false;
  if (filter.readableKinds && !filter.readableKinds.includes(event.kind)) return false;
  if (filter.resource !== undefined && event.resourceId !== filter.resource) return false;
  if (!filter.selector) return true;
  return [event.tagsBefore, event.tagsAfter].some((tags) => tags !== null && selects(filter.selector!, tags));
}
