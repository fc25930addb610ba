/** The libvirt driver: instances, disks and snapshots on libvirt and QEMU, networks on Linux. */
import { chmod, stat, statfs } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { type Driver, type DriverContext, DriverError, type MachineCapacity } from '#libs/drivers/contract';
import { createRunner, type Runner } from '#libs/drivers/host';
import { createNetworkCapability, machineUnderlay, type NetworkOptions } from '#libs/drivers/network';
import { SharedStorage, type SharedStorageOptions } from '#libs/drivers/shared';
import { type Accelerator, findProbe, probeAccelerator } from './accelerator.js';
import { createDiskCapability } from './disk.capability.js';
import { Disks } from './disks.js';
import { createInstanceCapability } from './instance.capability.js';
import { LongWork } from './long-work.js';
import { openPlaces } from './places.js';
import { createSnapshotCapability } from './snapshot.capability.js';
import { forgetExports } from './snapshot-export.js';
import { openSnapshotRecords } from './snapshot-records.js';
import { openVirsh } from './virsh.js';

export interface LibvirtOptions extends NetworkOptions {
  /** Default `qemu:///system`. */
  uri?: string;
  /** Default `auto`: KVM if a guest boots on it, else emulation. */
  accelerator?: Accelerator | 'auto';
  /** A tiny image (tools/tiny-image) to try KVM with; default: this machine's own kernel, /boot/vmlinuz-<release>. */
  probeImage?: string;
  /** Where the result of that try is kept. Default: the state directory. */
  cacheDir?: string;
  /** Where the machine's / lies for this process; default: where its own does. For tests, which look into other hosts. */
  root?: string;
  /** How long a guest has to shut down before its power is cut. Default 60 000. */
  stopGraceMs?: number;
  /** How long a guest has to let go of a disk that is detached. Default 30 000. */
  releaseGraceMs?: number;
  /** Where disks are made that other machines see, too. Default: in the state directory. */
  shared?: SharedStorageOptions;
  /** What to offer instead of what the machine has. */
  capacity?: Partial<MachineCapacity>;
}

/** What the machine itself keeps, in MiB. */
const reservedMiB = 512;

/** Throws DriverError `program_missing`, `storage_missing`, or `hypervisor_unreachable` when libvirt does not answer. */
export async function createLibvirtDriver(context: DriverContext, options: LibvirtOptions = {}): Promise<Driver> {
  const runner = createRunner(options.enter);
  const virsh = openVirsh(runner, options.uri ?? 'qemu:///system');
  await checkPrograms(runner);
  await virsh.run(['uri']);
  await letThrough(context.stateDir);
  const accelerator = await chooseAccelerator(context, options, runner);
  context.log.info({ accelerator }, 'libvirt driver ready');
  const storage = options.shared && (await SharedStorage.open(options.shared, context));
  const disks = await Disks.open({ context, runner, virsh, storage });
  const snapshots = openSnapshotRecords(context.stateDir);
  const copies = new LongWork();
  const instances = createInstanceCapability({
    ...{ context, runner, virsh, disks, snapshots, accelerator },
    root: options.root ?? '',
    places: openPlaces(context.stateDir),
    stopGraceMs: options.stopGraceMs ?? 60_000,
    releaseGraceMs: options.releaseGraceMs ?? 30_000,
    tend: () => forgetExports(snapshots),
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
    capabilities: [
      createNetworkCapability(context, options),
      createDiskCapability({ context, runner, virsh, disks, snapshots, copies }),
      createSnapshotCapability({ context, runner, virsh, disks, snapshots }),
      instances,
    ],
    async capacity() {
      const disk = await statfs(storage?.dir ?? context.stateDir);
      return {
        vcpus: cpus().length,
        memoryMiB: Math.max(0, Math.floor(totalmem() / 1024 ** 2) - reservedMiB),
        diskGiB: Math.floor((disk.blocks * disk.bsize) / 1024 ** 3),
        ...options.capacity,
      };
    },
    underlay: async () => (options.underlay ? machineUnderlay(runner, options.underlay) : null),
    sharedStorage: () => (storage ? { name: storage.name, id: storage.id } : null),
    async close() {
      for (const end of watchers) end();
      watchers.clear();
      await copies.close();
    },
  };
}

async function chooseAccelerator(
  context: DriverContext,
  options: LibvirtOptions,
  runner: Runner,
): Promise<Accelerator> {
  const wanted = options.accelerator ?? 'auto';
  if (wanted !== 'auto') return wanted;
  const probe = findProbe(options.probeImage);
  if (!probe) context.log.warn({}, 'there is nothing to try KVM with, neither a probe image nor a kernel in /boot');
  return probeAccelerator(runner, options.cacheDir ?? context.stateDir, probe);
}

/** Each with an argument that makes it do nothing. */
const programs = [
  ['virsh', '--version'],
  ['qemu-img', '--version'],
  ['qemu-system-x86_64', '--version'],
  ['ip', '-V'],
  ['nft', '--version'],
  ['sysctl', '--version'],
  ['dnsmasq', '--version'],
  ['socat', '-V'],
  ['mformat', '--version'],
];

async function checkPrograms(runner: Runner): Promise<void> {
  for (const argv of programs) {
    try {
      await runner.run(argv);
    } catch (error) {
      const message = `${argv[0]} does not run here; tools/install-debian-packages.sh installs it.`;
      throw new DriverError('program_missing', message, { permanent: true, cause: error });
    }
  }
}

/** Emulators and dnsmasq run as users of their own and must reach their files; they may pass through, not list. */
async function letThrough(dir: string): Promise<void> {
  const { mode } = await stat(dir);
  if ((mode & 0o011) !== 0o011) await chmod(dir, (mode & 0o7777) | 0o011);
}
