/** The definition of an instance as libvirt's domain XML (libvirt.org/formatdomain.html). Pure. */
import { XMLBuilder } from 'fast-xml-parser';
import type { InstanceSpec, Ref } from '#libs/drivers/contract';
import type { Accelerator } from './accelerator.js';

export interface DomainParts {
  name: string;
  ref: Ref;
  spec: InstanceSpec;
  accelerator: Accelerator;
  disk: string;
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
      os: { type: { '@arch': 'x86_64', '@machine': 'pc', '#text': 'hvm' }, boot: { '@dev': 'hd' } },
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

function devices({ disk, consoleLog, interfaces }: DomainParts): object {
  return {
    disk: {
      '@type': 'file',
      '@device': 'disk',
      driver: { '@name': 'qemu', '@type': 'qcow2', '@discard': 'unmap' },
      source: { '@file': disk },
      target: { '@dev': 'vda', '@bus': 'virtio' },
    },
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
    controller: { '@type': 'usb', '@model': 'none' },
    memballoon: { '@model': 'none' },
  };
}
