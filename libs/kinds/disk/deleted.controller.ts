/** Deleted disks over REST: no kind and no job of their own, answered at once. */
import { Controller, Delete, Get, Inject, Param, Post, Req, Res } from '@nestjs/common';
import { IsString } from 'class-validator';
import { sql } from 'kysely';
import { authorize, isAllowed, may, reachOf } from '#libs/auth';
import { invalid, isName, isUuid, notFound, RhyzomeError } from '#libs/core';
import { Database, type Tx } from '#libs/db';
import { Check, Describe, Optional, validateDto } from '#libs/openapi';
import {
  type AuditTarget,
  auditDone,
  auditingRefusals,
  authorizeReplay,
  type Caller,
  etagOf,
  findResource,
  inTransaction,
  isReached,
  KindRegistry,
  ResourceReader,
  reachedAs,
  resourceView,
  runChange,
  type StoredAnswer,
} from '#libs/resources';
import { callerOf, changeOptionsOf, objectBody, type Reply, type Request, sendPage } from '#libs/rest';
import { type DeletedDiskRow, lockDeleted, purgeDeleted, restoreDeleted } from './deleted.js';

/** The name must be one; whether it is free, the database says. */
function IsFreeName(): PropertyDecorator {
  return Check<string>('isFreeName', (value) =>
    typeof value !== 'string' || isName(value) ? [] : [{ code: 'invalid_format', message: 'must be a name' }],
  );
}

export class RestoreBody {
  @Describe('What it is called from now on; default: as before.', { example: 'data-1' })
  @Optional()
  @IsString()
  @IsFreeName()
  name?: string;
}

export function deletedDiskView(row: DeletedDiskRow) {
  return {
    id: row.id,
    name: row.name,
    tags: row.tags,
    sizeGiB: row.size_gib,
    image: row.image_id,
    createdAt: row.created_at.toISOString(),
    deletedAt: row.deleted_at.toISOString(),
    expiresAt: row.expires_at.toISOString(),
  };
}

@Controller('v1/deleted-disks')
export class DeletedDiskController {
  constructor(
    @Inject(Database) private readonly db: Database,
    @Inject(KindRegistry) private readonly registry: KindRegistry,
    @Inject(ResourceReader) private readonly reader: ResourceReader,
  ) {}

  @Get()
  async list(@Req() request: Request, @Res() reply: Reply): Promise<void> {
    const caller = callerOf(request);
    if (!may(caller.actor, 'read', 'disk')) {
      throw new RhyzomeError('forbidden', 'You may not list disks: the permission disk:read is missing.');
    }
    const page = await this.reader.page(caller, {
      name: 'deleted-disk',
      shape: deletedList,
      raw: request.query as Record<string, unknown>,
      select: sql<DeletedDiskRow>`select r.* from deleted_disk r`,
      base: sql`r.tenant_id = ${caller.actor.tenantId}
        and ${isReached(reachOf(caller.actor, 'read', 'disk'), reachedAs('r'))}`,
      view: deletedDiskView,
    });
    sendPage(request, reply, page);
  }

  @Post(':id/restore')
  async restore(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    const body = request.body === undefined || request.body === null ? {} : objectBody(request);
    const outcome = validateDto(RestoreBody, body, {});
    if (Array.isArray(outcome)) throw invalid(outcome);
    const kind = this.registry.get('disk');
    await this.change(request, reply, 'create', id, async (tx, row) => {
      const core = await restoreDeleted(tx, row, outcome.value.name ?? row.name);
      const disk = await findResource(inTransaction(tx, core.tenantId), kind, core.id);
      return { status: 200, headers: { etag: etagOf(disk!) }, body: resourceView(kind, disk!) };
    });
  }

  @Delete(':id')
  async purge(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    await this.change(request, reply, 'delete', id, async (tx, row) => {
      await purgeDeleted(tx, { tenantId: row.tenant_id, id: row.id });
      return { status: 204, headers: {}, body: null };
    });
  }

  /** Permission, one transaction, answer. Who may read disks may know of deleted ones. */
  private async change(
    request: Request,
    reply: Reply,
    verb: 'create' | 'delete',
    id: string,
    work: (tx: Tx, row: DeletedDiskRow) => Promise<{ status: number; headers: Record<string, string>; body: unknown }>,
  ): Promise<void> {
    const caller: Caller = callerOf(request);
    const options = changeOptionsOf(request, caller);
    const { tenantId } = caller.actor;
    const target: AuditTarget = { kind: 'disk', resourceName: id.slice(0, 63) };
    const action = verb === 'create' ? 'restore' : 'purge';
    const replay = may(caller.actor, verb, 'disk') && {
      authorize: async (tx: Tx, stored: StoredAnswer) => {
        if (stored.body) await authorizeReplay(tx, caller.actor, verb, stored, id);
      },
    };
    const answer = await auditingRefusals(this.db, caller, action, target, () =>
      runChange(this.db, tenantId, options, replay, async (tx) => {
        const row = isUuid(id) ? await lockDeleted(tx, { tenantId, id }) : undefined;
        const core = row && { ...row, tenantId, kind: 'disk', createdBy: row.created_by };
        if (!row || !core || !isAllowed(caller.actor, 'read', core)) throw notFound('deleted disk', id);
        Object.assign(target, { resourceId: row.id, resourceName: row.name });
        authorize(caller.actor, verb, core, id);
        const done = await work(tx, row);
        await auditDone(tx, caller, action, target);
        return done;
      }),
    );
    if (answer.isReplay) reply.header('idempotency-replayed', 'true');
    reply
      .status(answer.status)
      .headers(answer.headers)
      .send(answer.status === 204 ? undefined : answer.body);
  }
}

const deletedList = {
  filters: { name: { column: sql.ref('r.name'), type: 'text' as const, description: 'Exactly this name.' } },
  sorts: {
    deletedAt: {
      column: sql.ref('r.deleted_at'),
      cast: 'timestamptz' as const,
      key: (row: DeletedDiskRow) => row.deleted_at.toISOString(),
    },
  },
  defaultSort: 'deletedAt',
  hasTags: false,
};
