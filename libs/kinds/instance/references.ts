/** What an instance refers to, found and checked: its image and its networks. Foreign ones are as unknown as absent ones. */

import { sql } from 'kysely';
import { type FieldError, isUuid, SYSTEM_TENANT } from '#libs/core';
import { addressErrors } from '#libs/kinds/network';
import type { RowScope } from '#libs/resources';

export interface References {
  image: { tenantId: string; id: string; virtualSizeBytes: number };
  /** By what the request called them. */
  networks: Map<string, NetworkReference>;
}

export interface NetworkReference {
  id: string;
  subnet: string;
  gateway: string;
}

interface Asked {
  image: string;
  diskGiB?: number;
  interfaces: { network: string; ip?: string }[];
}

/** Two queries, whatever the number of interfaces. */
export async function checkReferences(
  scope: RowScope,
  asked: Asked,
): Promise<{ errors: FieldError[]; references: References | undefined }> {
  const errors: FieldError[] = [];
  const image = await findImage(scope, asked.image);
  if (!image) errors.push({ pointer: '/image', code: 'not_found', message: 'is no image that you may use' });
  else if (asked.diskGiB !== undefined && asked.diskGiB * 2 ** 30 < image.virtualSizeBytes) {
    const least = Math.ceil(image.virtualSizeBytes / 2 ** 30);
    errors.push({ pointer: '/diskGiB', code: 'out_of_range', message: `must be at least the image’s ${least} GiB` });
  }
  const networks = await findNetworks(
    scope,
    asked.interfaces.map(({ network }) => network),
  );
  const seen = new Set<string>();
  for (const [index, { network: reference, ip }] of asked.interfaces.entries()) {
    const network = networks.get(reference);
    const pointer = `/interfaces/${index}`;
    if (!network) {
      errors.push({ pointer: `${pointer}/network`, code: 'not_found', message: 'is no network that you may use' });
      continue;
    }
    if (ip === undefined) continue;
    errors.push(...addressErrors(network.subnet, network.gateway, ip, `${pointer}/ip`));
    if (seen.has(`${network.id} ${ip}`)) {
      errors.push({ pointer: `${pointer}/ip`, code: 'invalid_value', message: 'is asked for twice' });
    }
    seen.add(`${network.id} ${ip}`);
  }
  return { errors, references: image && errors.length === 0 ? { image, networks } : undefined };
}

async function findImage(scope: RowScope, reference: string): Promise<References['image'] | undefined> {
  const which = isUuid(reference) ? sql`r.id = ${reference}` : sql`r.name = ${reference}`;
  const [image] = await scope.rows(
    sql<References['image']>`
      select r.tenant_id as "tenantId", r.id, k.virtual_size_bytes as "virtualSizeBytes"
      from resource r join image k on k.tenant_id = r.tenant_id and k.id = r.id
      where r.tenant_id in (${scope.tenantId}, ${SYSTEM_TENANT}) and r.kind = 'image' and r.state = 'ready' and ${which}
      order by (r.tenant_id = ${scope.tenantId}) desc limit 1`.compile(scope.builder),
  );
  return image;
}

async function findNetworks(scope: RowScope, references: string[]): Promise<Map<string, NetworkReference>> {
  const ids = references.filter(isUuid);
  const names = references.filter((reference) => !isUuid(reference));
  const rows = await scope.rows(
    sql<NetworkReference & { name: string }>`
      select r.id, r.name, k.subnet, host(k.gateway) as gateway
      from resource r join network k on k.tenant_id = r.tenant_id and k.id = r.id
      where r.tenant_id = ${scope.tenantId} and r.kind = 'network' and r.state not in ('deleting', 'failed')
        and (r.id = any(${ids}::uuid[]) or r.name = any(${names}::text[]))`.compile(scope.builder),
  );
  return new Map(rows.flatMap((row) => [[row.id, row] as const, [row.name, row] as const]));
}
