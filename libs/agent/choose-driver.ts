/**
 * Makes the driver that the configuration names; `auto` takes libvirt where it works, else sim, and says so. Where it has
 * worked once it is libvirt for good: a libvirtd that is slow after a power cut must not make real machines simulated ones.
 */
import { join } from 'node:path';
import type { Driver, DriverContext } from '#libs/drivers/contract';
import type { LibvirtOptions } from '#libs/drivers/libvirt';
import { createSimDriver } from '#libs/drivers/sim';
import { readJson, writeJsonDurably } from './durable.js';

/** Which driver, and the options of libvirt's. */
export interface DriverChoice extends LibvirtOptions {
  driver: 'libvirt' | 'sim' | 'auto';
}

/** Throws the driver's own error when the one that was named, or has worked here before, does not work. */
export async function chooseDriver(ctx: DriverContext, choice: DriverChoice): Promise<Driver> {
  const { driver } = choice;
  const sim = { underlay: choice.underlay, shared: choice.shared };
  if (driver === 'sim') return createSimDriver(ctx, sim);
  const note = join(ctx.stateDir, 'driver.json');
  let libvirt: Driver;
  try {
    libvirt = await createLibvirt(ctx, choice);
  } catch (error) {
    if (driver === 'libvirt' || (await readJson(note)) !== undefined) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    ctx.log.warn({ reason }, 'libvirt does not work here; the machines are simulated (driver sim)');
    return createSimDriver(ctx, sim);
  }
  if (driver === 'auto') await writeJsonDurably(note, { driver: 'libvirt' });
  return libvirt;
}

/** Loaded only when wanted: a simulated node needs nothing of it. */
async function createLibvirt(ctx: DriverContext, { driver: _driver, ...options }: DriverChoice): Promise<Driver> {
  const { createLibvirtDriver } = await import('#libs/drivers/libvirt');
  return createLibvirtDriver(ctx, options);
}
