/** Finds networks and guests that other kinds refer to. Foreign ones are as unknown as absent ones. */
import { sql } from 'kysely';
import { type FieldError, isUuid } from '#libs/core';
import { type Referenced, type RowScope, referencedColumn, usable } from '#libs/resources';

const named = (reference: string) => (isUuid(reference) ? sql`r.id = ${reference}` : sql`r.name = ${reference}`);

export interface FoundNetwork {
  id: string;
  subnet: string;
  subnet6: string | null;
}

/** A network of the tenant's by id or name, or what is wrong with the reference. */
export async function findNetwork(
  scope: RowScope,
  reference: string,
  pointer = '/network',
): Promise<FoundNetwork | FieldError[]> {
  const rows = await scope.rows(
    sql<FoundNetwork & Referenced>`select r.id, k.subnet, k.subnet6, ${referencedColumn}
      from resource r join network k on k.tenant_id = r.tenant_id and k.id = r.id
      where r.tenant_id = ${scope.tenantId} and r.kind = 'network' and r.state not in ('deleting', 'failed')
        and ${named(reference)}`.compile(scope.builder),
  );
  const [found] = usable(scope, rows);
  return found ?? [{ pointer, code: 'not_found', message: 'is no network that you may use' }];
}

export interface FoundGuest {
  instanceId: string;
  networkId: string;
}

/**
 * An instance's interface on a network, by default its first. `kept`: the instance that stands in the resource already, and
 * may stay whatever has become of it.
 */
export async function findGuest(
  scope: RowScope,
  asked: { instance: string; network?: string; kept?: string | null },
): Promise<FoundGuest | FieldError[]> {
  const found = await scope.rows(
    sql<{ instanceId: string; networkId: string | null; isAsked: boolean } & Referenced>`
      select ${referencedColumn}, r.id as "instanceId", l.network_id as "networkId",
        coalesce(${asked.network ?? null} in (l.network_id::text, n.name), false) as "isAsked"
      from resource r
      left join lease l on l.tenant_id = r.tenant_id and l.instance_id = r.id
      left join resource n on n.tenant_id = l.tenant_id and n.id = l.network_id
      where r.tenant_id = ${scope.tenantId} and r.kind = 'instance' and ${named(asked.instance)}
        and (r.state not in ('deleting', 'failed') or r.id = ${asked.kept ?? null}::uuid)
      order by l.ordinal`.compile(scope.builder),
  );
  const rows = usable(scope, found, asked.kept);
  if (rows.length === 0) {
    return [{ pointer: '/instance', code: 'not_found', message: 'is no instance that you may use' }];
  }
  if (asked.network === undefined) {
    const [{ instanceId, networkId }] = rows as [(typeof rows)[number]];
    if (networkId !== null) return { instanceId, networkId };
    return [{ pointer: '/instance', code: 'invalid_value', message: 'is on no network' }];
  }
  const chosen = rows.find(({ isAsked }) => isAsked);
  if (chosen?.networkId) return { instanceId: chosen.instanceId, networkId: chosen.networkId };
  return [{ pointer: '/network', code: 'not_found', message: 'is no network that the instance is on' }];
}
