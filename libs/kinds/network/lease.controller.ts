/** Leases of a network over REST: no kind and no job of their own, answered at once; the nodes follow. */
import { Controller, Delete, Get, Inject, Param, Post, Req, Res } from '@nestjs/common';
import { sql } from 'kysely';
import { authorize, may } from '#libs/auth';
import { type FieldError, invalid, isUuid, normalizeMac, notFound, type ResourceCore, RhyzomeError } from '#libs/core';
import { Database, type Tx } from '#libs/db';
import { annexMac } from '#libs/drivers/contract';
import { validateDto } from '#libs/openapi';
import {
  type AuditTarget,
  auditDone,
  auditingRefusals,
  type Caller,
  type CoreRow,
  coreOf,
  findResource,
  inTransaction,
  KindRegistry,
  lockResource,
  ResourceReader,
  refuseStale,
  runChange,
} from '#libs/resources';
import { callerOf, changeOptionsOf, objectBody, type Reply, type Request, sendPage } from '#libs/rest';
import { claimLease, type LeaseRow } from './leases.js';
import { LeaseCreate } from './network.dto.js';
import type { NetworkRow } from './network.resource.js';
import { refreshNetwork } from './on-nodes.js';
import { addressErrors } from './subnet.js';

const readOnly = ['id', 'ip6', 'automatic', 'instance'];

function leaseView(row: Pick<LeaseRow, 'id' | 'ip' | 'ip6' | 'mac' | 'hostname' | 'automatic' | 'instance_id'>) {
  const { id, ip, mac, hostname, automatic } = row;
  return { id, ip, ip6: row.ip6, mac, hostname, automatic, instance: row.instance_id };
}

@Controller('v1/networks/:network/leases')
export class LeaseController {
  constructor(
    @Inject(Database) private readonly db: Database,
    @Inject(KindRegistry) private readonly registry: KindRegistry,
    @Inject(ResourceReader) private readonly reader: ResourceReader,
  ) {}

  private get kind() {
    return this.registry.get('network');
  }

  @Get()
  async list(@Req() request: Request, @Res() reply: Reply, @Param('network') network: string): Promise<void> {
    const caller = callerOf(request);
    const found = await this.reader.get(caller, this.kind, network);
    const page = await this.reader.page(caller, {
      name: `lease/${found.row.id}`,
      shape: leaseList,
      raw: request.query as Record<string, unknown>,
      select: sql<LeaseRow>`select r.*, host(r.ip) as ip, host(r.ip6) as ip6 from lease r`,
      base: sql`r.tenant_id = ${caller.actor.tenantId} and r.network_id = ${found.row.id}`,
      view: leaseView,
    });
    sendPage(request, reply, page);
  }

  @Post()
  async create(@Req() request: Request, @Res() reply: Reply, @Param('network') network: string): Promise<void> {
    const caller = callerOf(request);
    const outcome = validateDto(LeaseCreate, objectBody(request), { readOnly });
    if (Array.isArray(outcome)) throw invalid(outcome);
    const { ip, hostname } = outcome.value;
    const mac = normalizeMac(outcome.value.mac);
    if (!mac) throw invalid([{ pointer: '/mac', code: 'invalid_value', message: 'must be a unicast MAC address' }]);
    if (mac === annexMac) throw invalid([{ pointer: '/mac', code: 'invalid_value', message: 'is the platform’s own' }]);
    await this.change(request, reply, caller, network, 201, async (tx, row) => {
      const errors: FieldError[] = ip === undefined ? [] : addressErrors(row.subnet, row.gateway, ip, '/ip');
      if (errors.length > 0) throw invalid(errors);
      const core = coreOf(row);
      const lease = await claimLease(tx, {
        tenantId: core.tenantId,
        networkId: core.id,
        ip,
        mac,
        hostname: hostname ?? null,
        pointer: '/ip',
      });
      return leaseView(lease);
    });
  }

  @Delete(':lease')
  async remove(
    @Req() request: Request,
    @Res() reply: Reply,
    @Param('network') network: string,
    @Param('lease') id: string,
  ): Promise<void> {
    await this.change(request, reply, callerOf(request), network, 204, (tx, row) => removeLease(tx, coreOf(row), id));
  }

  /** Checks, permission, one transaction, answer. Leases are part of their network: changing them is updating it. */
  private async change(
    request: Request,
    reply: Reply,
    caller: Caller,
    network: string,
    status: number,
    work: (tx: Tx, row: NetworkRow) => Promise<unknown>,
  ): Promise<void> {
    const options = changeOptionsOf(request, caller);
    const { tenantId } = caller.actor;
    const target: AuditTarget = { kind: 'network', resourceName: network.slice(0, 63) };
    const replay = may(caller.actor, 'update', this.kind.name) && {
      authorize: async (tx: Tx) => void (await this.authorized(tx, caller, network)),
    };
    const answer = await auditingRefusals(this.db, caller, 'update', target, () =>
      runChange(this.db, tenantId, options, replay, async (tx) => {
        const found = await this.authorized(tx, caller, network, target);
        const row = (await lockResource(tx, this.kind, coreOf(found))) as NetworkRow | undefined;
        if (!row) throw notFound('network', network);
        refuseStale(options.ifMatch, row);
        if (row.state === 'deleting') throw new RhyzomeError('conflict', 'The network is being removed.');
        const body = await work(tx, row);
        await refreshNetwork(tx, tenantId, row.id);
        await auditDone(tx, caller, 'update', target, { changed: ['leases'] });
        return { status, headers: {}, body: body ?? null };
      }),
    );
    if (answer.isReplay) reply.header('idempotency-replayed', 'true');
    reply.status(answer.status).send(answer.status === 204 ? undefined : answer.body);
  }

  /** Throws RhyzomeError `not_found`, `forbidden`. */
  private async authorized(tx: Tx, caller: Caller, network: string, target?: AuditTarget): Promise<CoreRow> {
    const found = await findResource(inTransaction(tx, caller.actor.tenantId), this.kind, network);
    if (!found) throw notFound('network', network);
    if (target) Object.assign(target, { resourceId: found.id, resourceName: found.name });
    authorize(caller.actor, 'update', coreOf(found), network);
    return found;
  }
}

async function removeLease(tx: Tx, network: ResourceCore, id: string): Promise<undefined> {
  const lease = isUuid(id)
    ? await tx
        .selectFrom('lease')
        .select(['automatic', 'instance_id', 'hostname'])
        .where('tenant_id', '=', network.tenantId)
        .where('network_id', '=', network.id)
        .where('id', '=', id)
        .executeTakeFirst()
    : undefined;
  if (!lease) throw notFound('lease', id);
  if (lease.automatic) {
    throw new RhyzomeError('managed', 'The lease came with an instance and leaves with it.', {
      blockers: [{ kind: 'instance', id: lease.instance_id!, name: lease.hostname ?? '', relation: 'has the lease' }],
    });
  }
  await tx.deleteFrom('lease').where('tenant_id', '=', network.tenantId).where('id', '=', id).execute();
  return undefined;
}

const leaseList = {
  filters: {
    automatic: { column: sql.ref('r.automatic'), type: 'boolean' as const, description: 'Came with an instance.' },
    instance: { column: sql.ref('r.instance_id'), type: 'uuid' as const, description: 'Id of the instance.' },
  },
  sorts: {
    ip: { column: sql.ref('r.ip'), cast: 'inet' as const, key: (row: LeaseRow) => row.ip },
    createdAt: {
      column: sql.ref('r.created_at'),
      cast: 'timestamptz' as const,
      key: (row: LeaseRow) => row.created_at.toISOString(),
    },
  },
  defaultSort: 'ip',
  hasTags: false,
};
