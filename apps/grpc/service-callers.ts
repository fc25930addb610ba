/** From a service's certificate to the actor that it may be in the tenant that it names. */

import type * as grpc from '@grpc/grpc-js';
import { sql } from 'kysely';
import { type Actor, actorForService } from '#libs/auth';
import { isTenantId, notFound, RhyzomeError, SYSTEM_TENANT } from '#libs/core';
import type { Database } from '#libs/db';
import type { RefusedReads, UnauthenticatedLog } from '#libs/events';
import type { Caller } from '#libs/resources';
import { peerOf, requestIdOf, requirePeer } from '#libs/rpc';

type Call = grpc.ServerUnaryCall<any, any> | grpc.ServerWritableStream<any, any>;

export class ServiceCallers {
  constructor(
    private readonly db: Database,
    /** Where refused certificates are written down. */
    private readonly refusals?: UnauthenticatedLog,
    /** Where refused reads are written down. */
    private readonly reads?: RefusedReads,
  ) {}

  /** Runs a reading call, whose refusal stands in the tenant's audit. */
  async reading<T>(caller: Caller, kind: string, asked: string | undefined, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof RhyzomeError && ['forbidden', 'not_found'].includes(error.code)) {
        this.reads?.tell({
          tenantId: caller.actor.tenantId,
          actor: caller.actor.subject,
          action: `${kind}.read`,
          kind,
          resourceName: asked?.slice(0, 63),
          code: error.code,
          requestId: caller.requestId,
          source: caller.source,
        });
      }
      throw error;
    }
  }

  /** Throws RhyzomeError: unauthenticated, forbidden, not_found (the tenant). */
  async callerOf(call: Call, tenantId: string): Promise<Caller> {
    const { caller } = await this.known(call, tenantId);
    return caller;
  }

  /**
   * The caller of a stream that goes on. A suspended tenant has none: throws RhyzomeError `unauthenticated` then, and for
   * a service that lost its rights, besides what `callerOf` throws.
   */
  async streamerOf(call: Call, tenantId: string, hasBegun = false): Promise<Caller> {
    try {
      const { caller, isSuspended } = await this.known(call, tenantId);
      if (isSuspended) throw new RhyzomeError('unauthenticated', 'The tenant is suspended.');
      return caller;
    } catch (error) {
      const isLost = error instanceof RhyzomeError && ['forbidden', 'not_found'].includes(error.code);
      throw hasBegun && isLost ? new RhyzomeError('unauthenticated', error.message, { cause: error }) : error;
    }
  }

  private async known(call: Call, tenantId: string): Promise<{ caller: Caller; isSuspended: boolean }> {
    const { name } = this.noting(call, () => requirePeer(call, 'service'));
    // What is the administrators' own is no service's, not even one for all tenants.
    if (!isTenantId(tenantId) || tenantId === SYSTEM_TENANT) throw notFound('tenant', tenantId);
    const result = await sql<{ tenants: string[]; verbs: string[]; state: string | null }>`
      select s.tenants, s.verbs, (select t.state from tenant t where t.id = ${tenantId}) as state
      from service s where s.name = ${name}`.execute(this.db.operator);
    const actor = this.noting(call, () => actorOf(name, result.rows[0], tenantId));
    const { state } = result.rows[0]!;
    if (state === null) throw notFound('tenant', tenantId);
    const caller = { actor, requestId: requestIdOf(call.metadata), source: call.getPeer() };
    return { caller, isSuspended: state !== 'active' };
  }

  /** A certificate that may not be here is no tenant's matter; it goes into the operators' record. */
  private noting<T>(call: Call, work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (error instanceof RhyzomeError) {
        this.refusals?.tell({
          reason: error.code === 'unauthenticated' ? 'certificate' : 'service_rights',
          source: addressOf(call.getPeer()),
          issuer: nameOf(call),
          method: 'gRPC',
          path: call.getPath(),
          requestId: requestIdOf(call.metadata),
        });
      }
      throw error;
    }
  }
}

function actorOf(name: string, row: { tenants: string[]; verbs: string[] } | undefined, tenantId: string): Actor {
  if (!row) {
    throw new RhyzomeError(
      'forbidden',
      `The service ${name} is not registered; an administrator does it by “rhyzome service create”.`,
    );
  }
  const tenants = row.tenants.includes('*') ? '*' : row.tenants;
  const verbs = row.verbs.map((verb) => (verb === '*' ? '*:*' : verb));
  return actorForService({ name, tenants, verbs }, tenantId);
}

function nameOf(call: Call): string | undefined {
  try {
    const { type, name } = peerOf(call);
    return `${type}:${name}`;
  } catch {
    return undefined; // It has no identity.
  }
}

/** Without the port, which is another with each connection. */
export function addressOf(peer: string): string {
  return peer.replace(/:\d+$/, '');
}
