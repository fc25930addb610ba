/** The definition of an instance as libvirt's domain XML (libvirt.org/formatdomain.html). Pure. */
import { XMLBuilder } from 'fast-xml-parser';
import type { InstanceSpec, Ref } from '#libs/drivers/contract';
import type { Accelerator } from './accelerator.js';

export interface DomainParts {
  name: string;
  ref: Ref;
  spec: InstanceSpec;
  accelerator: Accelerator;
  /** Where each attached disk lies. */
  disks: { diskId: string; path: string; slot: number; bootOrder: number | null }[];
  /** The NoCloud volume. */
  seed: string;
  consoleLog: string;
  interfaces: { mac: string; bridge: string; port: string; mtu: number }[];
}

/** Namespace of our element in the domain's metadata. */
export const metadataNamespace = 'urn:rhyzome:instance:1';

const attribute = '@';
const builder = new XMLBuilder({
  ignoreAttributes: false,
  attributeNamePrefix: attribute,
  suppressEmptyNode: true,
  suppressBooleanAttributes: false,
  format: true,
});

/** XML for `virsh define`. The same parts give the same text. */
export function domainXml(parts: DomainParts): string {
  const { name, ref, spec, accelerator } = parts;
  const cpu =
    accelerator === 'kvm'
      ? { '@mode': 'host-passthrough' }
      : { '@mode': 'custom', '@match': 'exact', '@check': 'none', model: { '@fallback': 'forbid', '#text': 'qemu64' } };
  return builder.build({
    domain: {
      '@type': accelerator === 'kvm' ? 'kvm' : 'qemu',
      name,
      uuid: ref.id,
      metadata: {
        'rhyzome:instance': { '@xmlns:rhyzome': metadataNamespace, '@tenant': ref.tenantId, '@id': ref.id },
      },
      memory: { '@unit': 'MiB', '#text': String(spec.memoryMiB) },
      vcpu: String(spec.vcpus),
      os: { type: { '@arch': 'x86_64', '@machine': 'pc', '#text': 'hvm' } },
      features: { acpi: '', apic: '' },
      cpu,
      clock: { '@offset': 'utc' },
      on_poweroff: 'destroy',
      on_reboot: 'restart',
      on_crash: 'destroy',
      devices: devices(parts),
    },
  });
}

type DiskPart = DomainParts['disks'][number];

/** Disks have PCI slots of their own, so that a guest finds them in their order, whenever each was attached. */
const firstDiskSlot = 0x10;
const seedControllerSlot = 0x1e;
/** Of the slots 0 to 13. */
export const mostDiskSlots = seedControllerSlot - firstDiskSlot;

/** `vda` for slot 0, `vdb` for 1 … */
export function targetOf(slot: number): string {
  return `vd${String.fromCharCode('a'.charCodeAt(0) + slot)}`;
}

/** What a guest sees as the disk's serial: 20 characters, as many as virtio-blk has. */
export function serialOf(diskId: string): string {
  return diskId.replaceAll('-', '').slice(0, 20);
}

/** XML for `virsh attach-device` and `detach-device`. */
export function diskXml(disk: DiskPart): string {
  // A boot order counts when the machine starts, and then its definition says it.
  return builder.build({ disk: diskElement({ ...disk, bootOrder: null }) });
}

function pciAddress(slot: number): object {
  const hex = (value: number) => `0x${value.toString(16).padStart(2, '0')}`;
  return { '@type': 'pci', '@domain': '0x0000', '@bus': '0x00', '@slot': hex(slot), '@function': '0x0' };
}

function diskElement({ diskId, path, slot, bootOrder }: DiskPart): object {
  return {
    '@type': 'file',
    '@device': 'disk',
    driver: { '@name': 'qemu', '@type': 'qcow2', '@discard': 'unmap' },
    source: { '@file': path },
    target: { '@dev': targetOf(slot), '@bus': 'virtio' },
    serial: serialOf(diskId),
    ...(bootOrder !== null && { boot: { '@order': String(bootOrder) } }),
    address: pciAddress(firstDiskSlot + slot),
  };
}

/** On a bus of its own, where it takes no name from the disks. */
function seedElement(path: string): object {
  return {
    '@type': 'file',
    '@device': 'disk',
    driver: { '@name': 'qemu', '@type': 'raw' },
    source: { '@file': path },
    target: { '@dev': 'sda', '@bus': 'scsi' },
    readonly: '',
  };
}

function devices({ disks, seed, consoleLog, interfaces }: DomainParts): object {
  const bySlot = [...disks].sort((a, b) => a.slot - b.slot);
  return {
    disk: [...bySlot.map(diskElement), seedElement(seed)],
    interface: interfaces.map(({ mac, bridge, port, mtu }) => ({
      '@type': 'bridge',
      mac: { '@address': mac.toLowerCase() },
      source: { '@bridge': bridge },
      target: { '@dev': port },
      model: { '@type': 'virtio' },
      mtu: { '@size': String(mtu) },
      rom: { '@enabled': 'no' },
    })),
    serial: { '@type': 'pty', log: { '@file': consoleLog, '@append': 'on' }, target: { '@port': '0' } },
    console: { '@type': 'pty', target: { '@type': 'serial', '@port': '0' } },
    controller: [
      { '@type': 'usb', '@model': 'none' },
      { '@type': 'scsi', '@index': '0', '@model': 'virtio-scsi', address: pciAddress(seedControllerSlot) },
    ],
    memballoon: { '@model': 'none' },
  };
}
