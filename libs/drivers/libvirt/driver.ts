/** The libvirt driver: instances on libvirt, networks on Linux. */
import { chmod, stat, statfs } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import type { Driver, DriverContext, MachineCapacity } from '#libs/drivers/contract';
import { createRunner } from '#libs/drivers/host';
import { createNetworkCapability, type NetworkOptions } from '#libs/drivers/network';
import { type Accelerator, probeAccelerator } from './accelerator.js';
import { createInstanceCapability } from './instance.capability.js';
import { openPlaces } from './places.js';
import { openVirsh } from './virsh.js';

export interface LibvirtOptions extends NetworkOptions {
  /** Default `qemu:///system`. */
  uri?: string;
  /** Default `auto`: KVM if `probeImage` boots on it, else emulation. */
  accelerator?: Accelerator | 'auto';
  /** A tiny image (tools/tiny-image) to try KVM with; without one `auto` means emulation. */
  probeImage?: string;
  /** Where the result of that try is kept. Default: the state directory. */
  cacheDir?: string;
  /** How long a guest has to shut down before its power is cut. Default 60 000. */
  stopGraceMs?: number;
  /** What to offer instead of what the machine has. */
  capacity?: Partial<MachineCapacity>;
}

/** What the machine itself keeps, in MiB. */
const reservedMiB = 512;

/** Throws DriverError `hypervisor_unreachable` when libvirt does not answer. */
export async function createLibvirtDriver(context: DriverContext, options: LibvirtOptions = {}): Promise<Driver> {
  const runner = createRunner(options.enter);
  const virsh = openVirsh(runner, options.uri ?? 'qemu:///system');
  await virsh.run(['uri']);
  await letThrough(context.stateDir);
  const wanted = options.accelerator ?? 'auto';
  const cacheDir = options.cacheDir ?? context.stateDir;
  const accelerator = wanted === 'auto' ? await probeAccelerator(runner, cacheDir, options.probeImage) : wanted;
  context.log.info({ accelerator }, 'libvirt driver ready');
  const instances = createInstanceCapability({
    context,
    runner,
    virsh,
    places: openPlaces(context.stateDir),
    accelerator,
    stopGraceMs: options.stopGraceMs ?? 60_000,
  });
  const watchers = new Set<() => void>();
  const { watch } = instances;
  instances.watch = (onChange) => {
    const end = watch?.(onChange) ?? (() => {});
    watchers.add(end);
    return () => {
      watchers.delete(end);
      end();
    };
  };
  return {
    name: 'libvirt',
    capabilities: [createNetworkCapability(context, options), instances],
    async capacity() {
      const disk = await statfs(context.stateDir);
      return {
        vcpus: cpus().length,
        memoryMiB: Math.max(0, Math.floor(totalmem() / 1024 ** 2) - reservedMiB),
        diskGiB: Math.floor((disk.blocks * disk.bsize) / 1024 ** 3),
        ...options.capacity,
      };
    },
    async close() {
      for (const end of watchers) end();
      watchers.clear();
    },
  };
}

/** Emulators and dnsmasq run as users of their own and must reach their files; they may pass through, not list. */
async function letThrough(dir: string): Promise<void> {
  const { mode } = await stat(dir);
  if ((mode & 0o011) !== 0o011) await chmod(dir, (mode & 0o7777) | 0o011);
}
