/**
 * A machine that exists in memory and one file: for tests, for first tries without a hypervisor, and for fleets of
 * thousands. Same interfaces, same refusals, faults on demand (faults.ts).
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Capability, Driver, DriverContext, MachineCapacity } from '#libs/drivers/contract';
import { SharedStorage, type SharedStorageOptions } from '#libs/drivers/shared';
import { SimDiskCapability } from './disk.js';
import { SimFaults } from './faults.js';
import { SimInstanceCapability } from './instance.js';
import { SimLoneDisks } from './lone-disks.js';
import { SimMoves } from './moves.js';
import { SimNetworkCapability } from './network.js';
import { SharedContent } from './shared-content.js';
import { SimSnapshotCapability } from './snapshot.js';
import { SimState } from './state.js';

export type { SimFault } from './faults.js';

export interface SimOptions {
  /** False: images are not fetched, e.g. for thousands of simulated nodes. */
  fetchImages?: boolean;
  /** False: it forgets what it makes when its process ends, and takes no faults; for the same. */
  isKept?: boolean;
  /** Where other nodes reach it; default: an address by its state directory, on a wire that is simulated, too. */
  underlay?: { address: string; port?: number };
  /** Where its disks are that other simulated nodes see, too. */
  shared?: SharedStorageOptions;
}

export interface SimDriver extends Driver {
  /** As if the guest had switched itself off; nothing there is success. */
  shutDownGuest(id: string): Promise<void>;
}

/** 198.18.0.0/15 is for tests of networks (RFC 2544), and nobody's address. */
function underlayOf(stateDir: string, { underlay }: SimOptions): { address: string; port: number } {
  const { port = 4789 } = underlay ?? {};
  const [a = 0, b = 0, c = 0] = createHash('sha256').update(stateDir).digest();
  return { address: underlay?.address ?? `198.${18 + (c & 1)}.${a}.${b}`, port };
}

/** Finds what an earlier one left in `ctx.stateDir`. */
export async function createSimDriver(ctx: DriverContext, options: SimOptions = {}): Promise<SimDriver> {
  const storage = options.shared && (await SharedStorage.open(options.shared, ctx));
  const shared = new SharedContent(storage);
  const { isKept = true } = options;
  const state = await SimState.load(join(ctx.stateDir, 'sim-state.json'), isKept);
  const faults = new SimFaults(isKept ? join(ctx.stateDir, 'sim-faults.json') : undefined);
  const images = options.fetchImages === false ? undefined : ctx.images;
  const instances = new SimInstanceCapability(
    state,
    faults,
    ctx.log,
    shared,
    new SimMoves(state, faults, ctx.migration, ctx.log, shared),
  );
  const capabilities: Capability<any, any>[] = [
    new SimNetworkCapability(state, faults),
    new SimDiskCapability(state, faults, images, shared, new SimLoneDisks(state, faults, ctx.migration, shared)),
    new SimSnapshotCapability(state, faults, ctx, shared),
    instances,
  ];
  const capacity: MachineCapacity = { vcpus: 4096, memoryMiB: 16 * 1024 * 1024, diskGiB: 1024 * 1024 };
  return {
    name: 'sim',
    capabilities,
    capacity: async () => capacity,
    underlay: async () => ({ ...underlayOf(ctx.stateDir, options), networkMtu: 9_000 }),
    sharedStorage: () => (storage ? { name: storage.name, id: storage.id } : null),
    shutDownGuest: (id) => instances.shutDownGuest(id),
    close: async () => {
      instances.close();
      await state.save();
    },
  };
}
