/**
 * The audit trail of the caller's tenant: for its administrators, and for those to whom a grant gives `audit:read`. Pages
 * for people, NDJSON for what keeps it elsewhere.
 */
import { once } from 'node:events';
import { Controller, Get, Inject, Req, Res } from '@nestjs/common';
import { sql } from 'kysely';
import { type Actor, mayAll } from '#libs/auth';
import { invalid, isUuid, RhyzomeError } from '#libs/core';
import { Database } from '#libs/db';
import { type AuditRow, auditView, exportAudit, inRange, ndjson, type TimeRange, timeRangeOf } from '#libs/events';
import { KindRegistry, type ListShape, ResourceReader, readableAudit } from '#libs/resources';
import { callerOf, type Reply, type Request, refuseUnknownParameters, sendPage } from '#libs/rest';

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

/** Rows of one export; a client goes on with `after`. */
const MAX_EXPORTED = 1_000_000;
const DEFAULT_EXPORTED = 100_000;
const MAX_EXPORTS_PER_TENANT = 4;

@Controller('v1/audit')
export class AuditController {
  private readonly exporting = new Map<string, number>();

  constructor(
    @Inject(ResourceReader) private readonly reader: ResourceReader,
    @Inject(Database) private readonly db: Database,
    @Inject(KindRegistry) private readonly registry: KindRegistry,
  ) {}

  /** Of the tenant, within the range, and about nothing that the actor may not read. */
  private visible(actor: Actor, range: TimeRange) {
    return sql`r.tenant_id = ${actor.tenantId} and ${inRange(range)} and ${readableAudit(actor, this.registry.names)}`;
  }

  @Get()
  async list(@Req() request: Request, @Res() reply: Reply): Promise<void> {
    const caller = callerOf(request);
    refuseOthers(caller.actor);
    const { from, to, ...raw } = request.query as Record<string, unknown>;
    const range = timeRangeOf({ from, to });
    const page = await this.reader.page(caller, {
      name: `audit ${range.from?.getTime() ?? ''} ${range.to?.getTime() ?? ''}`,
      shape,
      raw,
      select: sql<AuditRow>`select r.* from audit r`,
      base: this.visible(caller.actor, range),
      inOrder: true,
      view: auditView,
    });
    sendPage(request, reply, page);
  }

  @Get('export')
  async export(@Req() request: Request, @Res() reply: Reply): Promise<void> {
    const { actor } = callerOf(request);
    refuseOthers(actor);
    const query = request.query as Record<string, string | undefined>;
    refuseUnknownParameters(query, ['from', 'to', 'after', 'limit']);
    const options = {
      where: this.visible(actor, timeRangeOf(query)),
      after: afterOf(query.after),
      limit: limitOf(query.limit),
    };
    const { tenantId } = actor;
    const open = this.exporting.get(tenantId) ?? 0;
    if (open >= MAX_EXPORTS_PER_TENANT) {
      throw new RhyzomeError('too_many_requests', `There are ${open} exports of this tenant under way already.`, {
        retryAfterSeconds: 10,
      });
    }
    this.exporting.set(tenantId, open + 1);
    try {
      const pages = exportAudit(
        (page) => this.db.tenantRead(tenantId, page.compile(this.db.builder), inOrder),
        options,
      );
      // What goes wrong before the first row is told as a problem.
      await send(request, reply, await pages.next(), pages);
    } finally {
      this.exporting.set(tenantId, (this.exporting.get(tenantId) ?? 1) - 1);
    }
  }
}

const inOrder = { inOrder: true };

/** A grant gives the audit trail as a whole, or not; what of it is about resources follows what their reader may read. */
function refuseOthers(actor: Actor): void {
  if (mayAll(actor, 'read', 'audit')) return;
  throw new RhyzomeError(
    'forbidden',
    'The audit trail is for the administrators of the tenant, and for those whom a grant gives audit:read.',
  );
}

function afterOf(text: string | undefined): string | undefined {
  if (text === undefined || isUuid(text)) return text;
  throw invalid([{ parameter: 'after', code: 'invalid_format', message: 'must be the id of an entry' }]);
}

function limitOf(text = String(DEFAULT_EXPORTED)): number {
  const limit = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= MAX_EXPORTED) return limit;
  throw invalid([{ parameter: 'limit', code: 'out_of_range', message: `must be 1 to ${MAX_EXPORTED}` }]);
}

type Pages = AsyncGenerator<AuditRow[]>;

/** As fast as the client reads. Where it breaks, the answer breaks off too, so that it is not taken for whole. */
async function send(request: Request, reply: Reply, first: IteratorResult<AuditRow[]>, pages: Pages): Promise<void> {
  const type = 'application/x-ndjson; charset=utf-8';
  if (request.method === 'HEAD') {
    await pages.return(undefined);
    reply.type(type).send();
    return;
  }
  const headers = reply.getHeaders() as Record<string, string>;
  const out = reply.hijack().raw;
  const gone = new AbortController();
  out.once('close', () => gone.abort());
  out.writeHead(200, { ...headers, 'content-type': type });
  try {
    for (let page = first; !page.done && !gone.signal.aborted; page = await pages.next()) {
      if (!out.write(ndjson(page.value))) await once(out, 'drain', { signal: gone.signal }).catch(() => undefined);
    }
    out.end();
  } catch (error) {
    out.destroy();
    if (!(error instanceof RhyzomeError)) throw error;
  } finally {
    await pages.return(undefined);
  }
}
