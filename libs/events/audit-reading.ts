/** Reading audit rows: by time, page by page in the order of their ids, and how one looks to whoever asks. */
import { type RawBuilder, type Selectable, sql } from 'kysely';
import { type FieldError, invalid } from '#libs/core';
import type { DB } from '#libs/db';

export type AuditRow = Selectable<DB['audit']>;

/** One entry as REST, exports and the command show it. */
export function auditView(row: AuditRow) {
  return {
    id: row.id,
    at: row.at.toISOString(),
    actor: row.actor,
    action: row.action,
    resource: row.kind === null ? null : { kind: row.kind, id: row.resource_id, name: row.resource_name },
    result: row.result,
    code: row.code,
    requestId: row.request_id,
    source: row.source,
    details: row.details,
  };
}

/** From one time on, and before another. */
export interface TimeRange {
  from?: Date;
  to?: Date;
}

/** RFC 3339 §5.6; a time without an offset would be somebody's local one. */
const timeShape = /^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$/;

const YEAR_10000 = Date.UTC(10_000);

/** The parameters `from` and `to`. Throws RhyzomeError `invalid`. */
export function timeRangeOf(query: { from?: unknown; to?: unknown }): TimeRange {
  const errors: FieldError[] = [];
  const timeOf = (parameter: 'from' | 'to'): Date | undefined => {
    const text = query[parameter];
    if (text === undefined) return undefined;
    const time = typeof text === 'string' && timeShape.test(text) ? new Date(text) : undefined;
    if (time && time.getTime() >= 0 && time.getTime() < YEAR_10000) return time;
    errors.push({ parameter, code: 'invalid_format', message: 'must be a time like 2026-11-22T08:00:00Z' });
    return undefined;
  };
  const range = { from: timeOf('from'), to: timeOf('to') };
  if (errors.length > 0) throw invalid(errors);
  if (range.from && range.to && range.from >= range.to) {
    throw invalid([{ parameter: 'to', code: 'out_of_range', message: 'must be after “from”' }]);
  }
  return range;
}

/** Ids have the clock of whoever made them (RFC 9562 §5.7), `at` has the database's: apart by less than this. */
const CLOCKS_MS = 10 * 60_000;

/** The condition of a range on `r`; the index of ids finds it. */
export function inRange({ from, to }: TimeRange): RawBuilder<boolean> {
  const lower =
    from && sql`r.at >= ${from.toISOString()}::timestamptz and r.id >= ${firstId(from.getTime() - CLOCKS_MS)}::uuid`;
  const upper =
    to && sql`r.at < ${to.toISOString()}::timestamptz and r.id < ${firstId(to.getTime() + CLOCKS_MS)}::uuid`;
  return sql<boolean>`${lower ?? sql`true`} and ${upper ?? sql`true`}`;
}

/** Below all UUIDv7 of a millisecond. */
function firstId(ms: number): string {
  const hex = Math.min(Math.max(0, ms), 2 ** 48 - 1)
    .toString(16)
    .padStart(12, '0');
  return `${hex.slice(0, 8)}-${hex.slice(8)}-0000-0000-000000000000`;
}

const PAGE = 1_000;

export interface AuditExport {
  /** Over `r`. */
  where: RawBuilder<unknown>;
  /** Only what comes after this id. */
  after?: string;
  /** Rows at most. */
  limit: number;
}

/** Rows in the order of their ids, a page at a time, so that memory does not grow with what there is. */
export async function* exportAudit(
  read: (page: RawBuilder<AuditRow>) => Promise<AuditRow[]>,
  { where, after, limit }: AuditExport,
): AsyncGenerator<AuditRow[]> {
  let last = after ?? '00000000-0000-0000-0000-000000000000';
  for (let left = limit; left > 0; ) {
    const size = Math.min(PAGE, left);
    const rows = await read(sql<AuditRow>`select r.* from audit r where ${where} and r.id > ${last}::uuid
      order by r.id limit ${size}`);
    if (rows.length > 0) yield rows;
    if (rows.length < size) return;
    left -= rows.length;
    last = rows.at(-1)!.id;
  }
}

/** Lines of JSON (NDJSON), each ended by a line feed. */
export function ndjson(rows: readonly AuditRow[]): string {
  return rows.map((row) => `${JSON.stringify(auditView(row))}\n`).join('');
}
