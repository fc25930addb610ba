/** From a service's certificate to the actor that it may be in the tenant that it names. */

import type * as grpc from '@grpc/grpc-js';
import { sql } from 'kysely';
import { type Actor, actorForService } from '#libs/auth';
import { isTenantId, notFound, RhyzomeError, SYSTEM_TENANT } from '#libs/core';
import type { Database } from '#libs/db';
import type { Caller } from '#libs/resources';
import { requestIdOf, requirePeer } from '#libs/rpc';

export class ServiceCallers {
  constructor(private readonly db: Database) {}

  /** Throws RhyzomeError: unauthenticated, forbidden, not_found (the tenant). */
  async callerOf(
    call: grpc.ServerUnaryCall<any, any> | grpc.ServerWritableStream<any, any>,
    tenantId: string,
  ): Promise<Caller> {
    const peer = requirePeer(call, 'service');
    // What is the administrators' own is no service's, not even one for all tenants.
    if (!isTenantId(tenantId) || tenantId === SYSTEM_TENANT) throw notFound('tenant', tenantId);
    const result = await sql<{ tenants: string[]; verbs: string[]; tenant: string | null }>`
      select s.tenants, s.verbs, (select t.id from tenant t where t.id = ${tenantId}) as tenant
      from service s where s.name = ${peer.name}`.execute(this.db.operator);
    const row = result.rows[0];
    if (!row) {
      throw new RhyzomeError(
        'forbidden',
        `The service ${peer.name} is not registered; an administrator does it by “rhyzome service create”.`,
      );
    }
    const tenants = row.tenants.includes('*') ? '*' : row.tenants;
    const verbs = row.verbs.map((verb) => (verb === '*' ? '*:*' : verb));
    const actor: Actor = actorForService({ name: peer.name, tenants, verbs }, tenantId);
    if (row.tenant === null) throw notFound('tenant', tenantId);
    return { actor, requestId: requestIdOf(call.metadata), source: call.getPeer() };
  }
}
