/**
 * Disks of a machine that is on: attached, and detached as soon as its guest lets go of them (a device goes only when the
 * guest agrees; one that still boots misses the request, so it is repeated).
 */
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DriverError } from '#libs/drivers/contract';
import { type DomainParts, diskXml } from './domain-xml.js';
import type { Place } from './places.js';
import { isActive } from './power.js';
import type { Virsh } from './virsh.js';

const pollMs = 200;
const askEveryMs = 6000;

export interface HotplugParts {
  virsh: Virsh;
  /** How long a guest has to let go of a disk. */
  releaseGraceMs: number;
}

type DiskPart = DomainParts['disks'][number];

/**
 * Makes the disks of a machine that is on those that are wanted, first detaching. One that goes off meanwhile has what
 * its definition says. Undo: the same with the disks of before. Throws DriverError `guest_refused`.
 * @param isOurs whether a file is one of the disks that this is about.
 */
export async function adjustDisks(
  parts: HotplugParts,
  domain: string,
  place: Place,
  wanted: readonly DiskPart[],
  isOurs: (path: string) => boolean,
  signal: AbortSignal,
): Promise<void> {
  const { virsh } = parts;
  const live = await liveDisks(virsh, domain);
  if (!live) return;
  const gone = live.filter(({ path }) => isOurs(path) && !wanted.some((disk) => disk.path === path));
  for (const disk of gone) await detach(parts, domain, disk, signal);
  for (const disk of wanted) {
    if (live.some(({ path }) => path === disk.path)) continue;
    await withFile(place, diskXml(disk), (file) => virsh.run(['attach-device', domain, '--file', file, '--live']));
  }
}

/** Null: it is off. */
async function liveDisks(virsh: Virsh, domain: string) {
  const found = await virsh.domain(domain);
  return found && isActive(found.state) ? found.disks : null;
}

async function detach(
  { virsh, releaseGraceMs }: HotplugParts,
  domain: string,
  { name, path }: { name: string; path: string },
  signal: AbortSignal,
): Promise<void> {
  const started = Date.now();
  const isThere = async () => (await liveDisks(virsh, domain))?.some((disk) => disk.path === path) ?? false;
  let asked = Number.NEGATIVE_INFINITY;
  let refusal: unknown;
  while (await isThere()) {
    signal.throwIfAborted();
    if (Date.now() - started > releaseGraceMs) {
      const message =
        `The guest did not let go of the disk ${name} within ${Math.round(releaseGraceMs / 1000)} s. ` +
        'Unmount it in the guest, or stop the instance, and try again.';
      throw new DriverError('guest_refused', message, { permanent: true, cause: refusal });
    }
    if (Date.now() - asked > askEveryMs) {
      asked = Date.now();
      // It fails while an earlier request is still with the guest; then there is only to wait.
      refusal = await virsh.run(['detach-disk', domain, name, '--live']).catch((error: unknown) => error);
      if (refusal instanceof DriverError && refusal.code === 'hypervisor_unreachable') throw refusal;
    }
    await sleep(pollMs, undefined, { signal });
  }
}

async function withFile(place: Place, text: string, work: (file: string) => Promise<unknown>): Promise<void> {
  const file = join(place.dir, 'device.xml');
  await writeFile(file, text);
  try {
    await work(file);
  } finally {
    await rm(file, { force: true });
  }
}
