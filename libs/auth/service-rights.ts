/** What the certificate of an internal service may do, turned into an actor so that one rule decides for all. */
import { printable, RhyzomeError } from '#libs/core';
import type { Actor } from './actor.js';
import { parseScopes } from './scope.js';

/** A row of the services table. */
export interface ServiceRights {
  readonly name: string;
  /** Tenant ids, or every tenant. */
  readonly tenants: readonly string[] | '*';
  /** Scopes: network:create, *:read, *:* … None: nothing is allowed. */
  readonly verbs: readonly string[];
}

/**
 * The actor for a call that names a tenant. Throws `forbidden` when the certificate may not act for that tenant, with
 * the same words whether the tenant exists or not.
 */
export function actorForService(rights: ServiceRights, tenantId: string): Actor {
  if (rights.tenants !== '*' && !rights.tenants.includes(tenantId)) {
    throw new RhyzomeError(
      'forbidden',
      `The service ${rights.name} may not act for the tenant “${printable(tenantId)}”.`,
    );
  }
  return {
    tenantId,
    subject: `service:${rights.name}`,
    name: rights.name,
    roles: ['admin'],
    scopes: parseScopes(rights.verbs.join(' ')) ?? [],
    via: 'certificate',
  };
}
