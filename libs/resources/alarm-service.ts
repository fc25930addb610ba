/** Alarms about a tenant's resources as its users see them: get and list, as far as they may read the resource. */
import { type Selectable, sql } from 'kysely';
import { isAllowed } from '#libs/auth';
import { type AlarmCode, alarmCodes, isUuid, notFound, type Tags } from '#libs/core';
import type { Alarm as AlarmTable, Database } from '#libs/db';
import type { Caller } from './caller.js';
import type { ListShape } from './list-query.js';
import { isReadable, kindsRead } from './readable.js';
import { type Page, readPlainPage } from './reading.js';
import type { KindRegistry } from './registry.js';

export type AlarmRow = Selectable<AlarmTable>;

export interface AlarmView extends Record<string, unknown> {
  id: string;
  code: string;
  state: 'open' | 'cleared';
}

export function alarmView(row: AlarmRow): AlarmView {
  return {
    id: row.id,
    code: row.code,
    severity: row.severity,
    // A newer server may have raised it.
    title: alarmCodes[row.code as AlarmCode]?.title ?? row.code,
    message: row.message,
    state: row.cleared_at === null ? 'open' : 'cleared',
    resource: row.resource_id === null ? null : { kind: row.kind, id: row.resource_id, name: row.resource_name },
    job: row.job_id === null ? null : { id: row.job_id },
    raisedAt: row.raised_at.toISOString(),
    clearedAt: row.cleared_at?.toISOString() ?? null,
    acknowledgedAt: row.acknowledged_at?.toISOString() ?? null,
  };
}

const alarmList: ListShape = {
  filters: {
    state: {
      column: sql`case when r.cleared_at is null then 'open' else 'cleared' end`,
      type: 'text',
      description: 'open or cleared.',
    },
    code: { column: sql.ref('r.code'), type: 'text', description: 'E.g. job_overdue.' },
    kind: { column: sql.ref('r.kind'), type: 'text', description: 'Kind of the resource.' },
    resource: { column: sql.ref('r.resource_id'), type: 'uuid', description: 'Id of the resource.' },
  },
  sorts: {
    raisedAt: {
      column: sql.ref('r.raised_at'),
      cast: 'timestamptz',
      key: (row: AlarmRow) => row.raised_at.toISOString(),
    },
  },
  defaultSort: 'raisedAt',
  hasTags: false,
};

/** The resource as it is decides who may read, or as it was when it is gone. */
interface FoundAlarm extends AlarmRow {
  tags: Tags;
  maker: string | null;
}

const resource = sql`left join lateral (select q.tags, q.created_by from resource q
  where q.tenant_id = r.tenant_id and q.id = r.resource_id offset 0) q on true`;

export class AlarmService {
  constructor(
    private readonly db: Database,
    private readonly registry: KindRegistry,
    private readonly tokenKey: Buffer,
  ) {}

  /** Throws RhyzomeError `not_found`. */
  async get({ actor }: Caller, id: string): Promise<AlarmView> {
    if (!isUuid(id)) throw notFound('alarm', id);
    const query = sql<FoundAlarm>`
      select r.*, coalesce(q.tags, r.resource_tags) as tags, coalesce(q.created_by, r.created_by) as maker
      from alarm r ${resource}
      where r.tenant_id = ${actor.tenantId} and r.id = ${id} and r.resource_id is not null`;
    const [row] = await this.db.tenantRead(actor.tenantId, query.compile(this.db.builder));
    if (!row) throw notFound('alarm', id);
    const { kind, resource_id, tags, maker } = row;
    const core = { tenantId: actor.tenantId, kind: kind!, id: resource_id!, tags, createdBy: maker ?? undefined };
    if (!isAllowed(actor, 'read', core)) throw notFound('alarm', id);
    return alarmView(row);
  }

  async list({ actor }: Caller, raw: Record<string, unknown>): Promise<Page<AlarmView>> {
    const readable = isReadable(kindsRead(actor, this.registry.names), sql.ref('r.kind'), {
      id: sql.ref('r.resource_id'),
      tags: sql`coalesce(q.tags, r.resource_tags)`,
      createdBy: sql`coalesce(q.created_by, r.created_by)`,
    });
    return readPlainPage<AlarmRow, AlarmView>(this.db, this.tokenKey, actor.tenantId, {
      name: 'alarm',
      shape: alarmList,
      raw,
      select: sql<AlarmRow>`select r.* from alarm r ${resource}`,
      base: sql`r.tenant_id = ${actor.tenantId} and r.resource_id is not null and ${readable}`,
      inOrder: true,
      view: alarmView,
    });
  }
}
