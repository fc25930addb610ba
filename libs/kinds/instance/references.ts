/** What an instance refers to, found and checked: image or disks, and networks. Foreign ones are as unknown as absent ones. */

import { sql } from 'kysely';
import { authorize } from '#libs/auth';
import { type FieldError, isUuid } from '#libs/core';
import { type DiskImage, type FoundDisk, findDisks, findImage, gibOf } from '#libs/kinds/disk';
import { addressErrors } from '#libs/kinds/network';
import { type Referenced, type RowScope, referencedColumn, usable } from '#libs/resources';
import { type Placement, placementErrors } from './placement.js';

export interface References {
  /** What its own boot disk is made from; undefined: it boots from a disk that is there. */
  image: DiskImage | undefined;
  /** GiB of the boot disk that is made with it. */
  diskGiB: number;
  /** Disks that are there, the boot disk first if it is one of them. */
  disks: FoundDisk[];
  /** By what the request called them. */
  networks: Map<string, NetworkReference>;
}

export interface NetworkReference {
  id: string;
  subnet: string;
  gateway: string;
}

interface Asked {
  image?: string;
  bootDisk?: string;
  disks?: string[];
  diskGiB?: number;
  interfaces: { network: string; ip?: string }[];
  placement?: Placement;
}

/** At most four queries, whatever the number of disks and interfaces. */
export async function checkReferences(
  scope: RowScope,
  asked: Asked,
): Promise<{ errors: FieldError[]; references: References | undefined }> {
  const errors: FieldError[] = [];
  const image = await checkBoot(scope, asked, errors);
  const disks = await checkDisks(scope, asked, errors);
  const networks = await checkInterfaces(scope, asked, errors);
  errors.push(...(await placementErrors(scope, asked.placement)));
  if (errors.length > 0) return { errors, references: undefined };
  const diskGiB = asked.diskGiB ?? (image ? gibOf(image.virtualSizeBytes) : 0);
  return { errors, references: { image, diskGiB, disks, networks } };
}

async function checkBoot(scope: RowScope, asked: Asked, errors: FieldError[]): Promise<DiskImage | undefined> {
  if (asked.image === undefined && asked.bootDisk === undefined) {
    errors.push({ pointer: '/image', code: 'required', message: 'is needed, or else a bootDisk' });
    return undefined;
  }
  if (asked.image === undefined) {
    if (asked.diskGiB !== undefined) {
      const message = 'is the size of a disk made from an image; bootDisk has its own';
      errors.push({ pointer: '/diskGiB', code: 'invalid_value', message });
    }
    return undefined;
  }
  if (asked.bootDisk !== undefined) {
    errors.push({ pointer: '/bootDisk', code: 'invalid_value', message: 'cannot be given together with an image' });
  }
  const image = await findImage(scope, asked.image);
  if (!image) errors.push({ pointer: '/image', code: 'not_found', message: 'is no image that you may use' });
  else if (asked.diskGiB !== undefined && asked.diskGiB * 2 ** 30 < image.virtualSizeBytes) {
    const message = `must be at least the image’s ${gibOf(image.virtualSizeBytes)} GiB`;
    errors.push({ pointer: '/diskGiB', code: 'out_of_range', message });
  }
  return image;
}

async function checkDisks(scope: RowScope, asked: Asked, errors: FieldError[]): Promise<FoundDisk[]> {
  const wanted = [
    ...(asked.bootDisk === undefined ? [] : [{ reference: asked.bootDisk, pointer: '/bootDisk' }]),
    ...(asked.disks ?? []).map((reference, index) => ({ reference, pointer: `/disks/${index}` })),
  ];
  const known = await findDisks(
    scope,
    wanted.map(({ reference }) => reference),
  );
  const seen = new Set<string>();
  return wanted.flatMap(({ reference, pointer }) => {
    const disk = known.get(reference);
    if (!disk) errors.push({ pointer, code: 'not_found', message: 'is no disk that you may use' });
    else if (seen.has(disk.id)) errors.push({ pointer, code: 'invalid_value', message: 'stands there twice' });
    if (!disk) return [];
    seen.add(disk.id);
    // Who gives it to a machine of his own writes to it.
    if (scope.actor) authorize(scope.actor, 'attach', disk.referenced, reference);
    return [disk];
  });
}

async function checkInterfaces(
  scope: RowScope,
  asked: Asked,
  errors: FieldError[],
): Promise<Map<string, NetworkReference>> {
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
  return networks;
}

async function findNetworks(scope: RowScope, references: string[]): Promise<Map<string, NetworkReference>> {
  const ids = references.filter(isUuid);
  const names = references.filter((reference) => !isUuid(reference));
  const rows = await scope.rows(
    sql<NetworkReference & Referenced & { name: string }>`
      select r.id, r.name, k.subnet, host(k.gateway) as gateway, ${referencedColumn}
      from resource r join network k on k.tenant_id = r.tenant_id and k.id = r.id
      where r.tenant_id = ${scope.tenantId} and r.kind = 'network' and r.state not in ('deleting', 'failed')
        and (r.id = any(${ids}::uuid[]) or r.name = any(${names}::text[]))`.compile(scope.builder),
  );
  return new Map(usable(scope, rows).flatMap((row) => [[row.id, row] as const, [row.name, row] as const]));
}
