import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { describe, expect, it } from 'vitest';
import type { InstanceSpec } from '#libs/drivers/contract';
import { diskXml, domainXml } from './domain-xml.js';
import { checkInstanceSpec } from './instance-spec.js';
import { macsOf } from './metrics.js';

const id = (n: number) => `a0000000-0000-0000-0000-${String(n).padStart(12, '0')}`;
const spec: InstanceSpec = {
  name: 'web-1',
  vcpus: 2,
  memoryMiB: 512,
  disks: [
    { diskId: id(12), slot: 2, bootOrder: null },
    { diskId: id(11), slot: 0, bootOrder: 1 },
  ],
  interfaces: [
    { networkId: id(1), mac: '52:54:00:00:00:0A', ip: '10.0.0.5', ip6: null },
    { networkId: id(2), mac: '52:54:00:00:00:02', ip: '10.1.0.5', ip6: 'fd00::5' },
  ],
  powerState: 'running',
  restartPolicy: 'stay',
  guest: { hostname: 'web-1', tags: {}, userData: null, sshKeys: [] },
};

describe('a domain’s definition', () => {
  const parts = {
    name: 'rz-0a1b2c3d-x',
    ref: { tenantId: 'acme', kind: 'instance', id: id(9) },
    spec,
    accelerator: 'tcg' as const,
    disks: spec.disks.map((disk) => ({ ...disk, path: `/srv/a & b/"<${disk.slot}>".qcow2` })),
    seed: '/srv/seed.img',
    consoleLog: '/srv/console.log',
    interfaces: spec.interfaces.map(({ mac }, i) => ({ mac, bridge: `b${i}`, port: `t${i}`, mtu: 1450 })),
  };
  const parser = new XMLParser({ ignoreAttributes: false, attributeNamePrefix: '@' });

  it('is well-formed, whatever stands in a path, and the same for the same parts', () => {
    const xml = domainXml(parts);
    expect(XMLValidator.validate(xml)).toBe(true);
    expect(domainXml(parts)).toBe(xml);
    const { domain } = parser.parse(xml);
    const [first, second, seed] = domain.devices.disk;
    expect(first).toMatchObject({
      driver: { '@type': 'qcow2' },
      source: { '@file': '/srv/a & b/"<0>".qcow2' },
      target: { '@dev': 'vda' },
      boot: { '@order': '1' },
    });
    expect(second).toMatchObject({ target: { '@dev': 'vdc' }, address: { '@slot': '0x12' } });
    expect(String(second.serial)).toHaveLength(20);
    expect(second).not.toHaveProperty('boot');
    expect(seed).toMatchObject({ driver: { '@type': 'raw' }, target: { '@bus': 'scsi' }, readonly: '' });
    expect(domain.devices.interface).toHaveLength(2);
    expect(domain.metadata['rhyzome:instance']['@tenant']).toBe('acme');
    expect(domain['@type']).toBe('qemu');
    expect(macsOf(xml)).toEqual(
      new Map([
        ['t0', '52:54:00:00:00:0a'],
        ['t1', '52:54:00:00:00:02'],
      ]),
    );
  });

  it('has the same disk as one that is attached later, but for the boot order', () => {
    const [, attached] = parts.disks;
    const { disk } = parser.parse(diskXml(attached!));
    const [{ boot: _boot, ...defined }] = parser.parse(domainXml(parts)).domain.devices.disk;
    expect(disk).toEqual(defined);
  });
});

describe('an instance’s spec', () => {
  it('is taken when right', () => {
    expect(() => checkInstanceSpec(spec)).not.toThrow();
    expect(() => checkInstanceSpec({ ...spec, disks: [], interfaces: [] })).not.toThrow();
  });

  const disk = spec.disks[1];
  it.each([
    ['name', { name: '../x' }],
    ['vCPUs', { vcpus: 0 }],
    ['memory', { memoryMiB: 1.5 }],
    ['power state', { powerState: 'on' }],
    ['list of disks', { disks: undefined }],
    ['disk id', { disks: [{ ...disk, diskId: '../../etc' }] }],
    ['disk slot', { disks: [{ ...disk, slot: 14 }] }],
    ['disk slot', { disks: [{ ...disk, slot: -1 }] }],
    ['boot order', { disks: [{ ...disk, bootOrder: 0 }] }],
    ['one disk twice', { disks: [disk, { ...disk, slot: 1, bootOrder: 2 }] }],
    ['two in one place', { disks: [disk, { ...disk, diskId: id(13), bootOrder: 2 }] }],
    ['two in one place', { disks: [disk, { ...disk, diskId: id(13), slot: 1 }] }],
    ['interfaces', { interfaces: undefined }],
    ['network id', { interfaces: [{ networkId: 'x', mac: '52:54:00:00:00:01', ip: '', ip6: null }] }],
    ['MAC', { interfaces: [{ ...spec.interfaces[0], mac: "x'/><evil" }] }],
    ['IPv6 address', { interfaces: [{ ...spec.interfaces[0], ip6: '10.0.0.5' }] }],
    ['host name', { guest: undefined }],
    ['host name', { guest: { ...spec.guest, hostname: '-x' } }],
    ['user data', { guest: { ...spec.guest, userData: 'x'.repeat(600_000) } }],
    ['SSH keys', { guest: { ...spec.guest, sshKeys: ['ssh-ed25519 AAAA\nssh-rsa BBBB'] } }],
  ])('is refused with a wrong %s', (what, change) => {
    const check = () => checkInstanceSpec({ ...spec, ...change } as InstanceSpec);
    expect(check).toThrow(expect.objectContaining({ code: 'invalid_spec', permanent: true }));
    expect(check).toThrow(what);
  });
});
