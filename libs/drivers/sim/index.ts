/**
 * A machine that exists in memory and one file: for tests, for first tries without a hypervisor, and for fleets of
 * thousands. Same interfaces, same refusals, faults on demand (faults.ts).
 */
import { join } from 'node:path';
import type { Capability, Driver, DriverContext, MachineCapacity } from '#libs/drivers/contract';
import { SimDiskCapability } from './disk.js';
import { SimFaults } from './faults.js';
import { SimInstanceCapability } from './instance.js';
import { SimMoves } from './moves.js';
import { SimNetworkCapability } from './network.js';
import { SimSnapshotCapability } from './snapshot.js';
import { SimState } from './state.js';

export type { SimFault } from './faults.js';

export interface SimOptions {
  /** False: images are not fetched, e.g. for thousands of simulated nodes. */
  fetchImages?: boolean;
}

export interface SimDriver extends Driver {
  /** As if the guest had switched itself off; nothing there is success. */
  shutDownGuest(id: string): Promise<void>;
}

/** Finds what an earlier one left in `ctx.stateDir`. */
export async function createSimDriver(ctx: DriverContext, options: SimOptions = {}): Promise<SimDriver> {
  const state = await SimState.load(join(ctx.stateDir, 'sim-state.json'));
  const faults = new SimFaults(join(ctx.stateDir, 'sim-faults.json'));
  const images = options.fetchImages === false ? undefined : ctx.images;
  const instances = new SimInstanceCapability(
    state,
    faults,
    ctx.log,
    new SimMoves(state, faults, ctx.migration, ctx.log),
  );
  const capabilities: Capability<any, any>[] = [
    new SimNetworkCapability(state, faults),
    new SimDiskCapability(state, faults, images),
    new SimSnapshotCapability(state, faults, ctx),
    instances,
  ];
  const capacity: MachineCapacity = { vcpus: 4096, memoryMiB: 16 * 1024 * 1024, diskGiB: 1024 * 1024 };
  return {
    name: 'sim',
    capabilities,
    capacity: async () => capacity,
    shutDownGuest: (id) => instances.shutDownGuest(id),
    close: async () => {
      instances.close();
      await state.save();
    },
  };
}
