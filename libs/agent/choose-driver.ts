/** Makes the driver that the configuration names; `auto` takes libvirt where it works, else sim, and says so. */
import type { Driver, DriverContext } from '#libs/drivers/contract';
import { createSimDriver } from '#libs/drivers/sim';

export interface DriverChoice {
  driver: 'libvirt' | 'sim' | 'auto';
  /** libvirt's connection URI. */
  uri: string;
}

export async function chooseDriver(ctx: DriverContext, { driver, uri }: DriverChoice): Promise<Driver> {
  if (driver === 'sim') return createSimDriver(ctx);
  try {
    return await createLibvirt(ctx, uri);
  } catch (error) {
    if (driver === 'libvirt') throw error;
    const reason = error instanceof Error ? error.message : String(error);
    ctx.log.warn({ reason }, 'libvirt does not work here; the machines are simulated (driver sim)');
    return createSimDriver(ctx);
  }
}

interface LibvirtModule {
  createLibvirtDriver(ctx: DriverContext, options: { uri: string }): Promise<Driver>;
}

/** Loaded only when wanted: a node without it need not have what it needs. */
async function createLibvirt(ctx: DriverContext, uri: string): Promise<Driver> {
  const name: string = '#libs/drivers/libvirt';
  const { createLibvirtDriver } = (await import(name)) as LibvirtModule;
  return createLibvirtDriver(ctx, { uri });
}
