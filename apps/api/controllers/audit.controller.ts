/** The audit trail of the caller's tenant; for its administrators. */
import { Controller, Get, Inject, Req, Res } from '@nestjs/common';
import { type Selectable, sql } from 'kysely';
import { may } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import type { DB } from '#libs/db';
import { type ListShape, ResourceReader } from '#libs/resources';
import { callerOf, type Reply, type Request, sendPage } from '#libs/rest';

type AuditRow = Selectable<DB['audit']>;

const shape: ListShape = {
  filters: {
    actor: { column: sql.ref('r.actor'), type: 'text', description: 'Who.' },
    action: { column: sql.ref('r.action'), type: 'text', description: 'E.g. network.create.' },
    kind: { column: sql.ref('r.kind'), type: 'text', description: 'Kind of the resource.' },
    resource: { column: sql.ref('r.resource_id'), type: 'uuid', description: 'Id of the resource.' },
    result: { column: sql.ref('r.result'), type: 'text', description: 'done or refused.' },
    requestId: { column: sql.ref('r.request_id'), type: 'text', description: 'Id of the request.' },
  },
  // Ids are UUIDv7: their order is that of time.
  sorts: { at: { column: sql.ref('r.id'), cast: 'uuid', key: (row: AuditRow) => row.id } },
  defaultSort: 'at',
  hasTags: false,
};

@Controller('v1/audit')
export class AuditController {
  constructor(@Inject(ResourceReader) private readonly reader: ResourceReader) {}

  @Get()
  async list(@Req() request: Request, @Res() reply: Reply): Promise<void> {
    const caller = callerOf(request);
    const { actor } = caller;
    if (!actor.roles.includes('admin') || !may(actor, 'read', 'audit')) {
      throw new RhyzomeError('forbidden', 'The audit trail is for the administrators of the tenant.');
    }
    const page = await this.reader.page(caller, {
      name: 'audit',
      shape,
      raw: request.query as Record<string, unknown>,
      select: sql<AuditRow>`select r.* from audit r`,
      base: sql`r.tenant_id = ${actor.tenantId}`,
      inOrder: true,
      view,
    });
    sendPage(request, reply, page);
  }
}

function view(row: AuditRow) {
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
