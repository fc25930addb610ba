import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { describe, expect, it } from 'vitest';
import type { InstanceSpec } from '#libs/drivers/contract';
import { domainXml } from './domain-xml.js';
import { checkInstanceSpec } from './instance-spec.js';

const spec: InstanceSpec = {
  name: 'web-1',
  vcpus: 2,
  memoryMiB: 512,
  diskGiB: 1,
  image: { sha256: 'ab'.repeat(32), format: 'qcow2', sizeBytes: 1, virtualSizeBytes: 1024 ** 2 },
  interfaces: [
    { networkId: '00000000-0000-0000-0000-000000000001', mac: '52:54:00:00:00:01', ip: '10.0.0.5' },
    { networkId: '00000000-0000-0000-0000-000000000002', mac: '52:54:00:00:00:02', ip: '10.1.0.5' },
  ],
  powerState: 'running',
  restartPolicy: 'stay',
};

describe('a domain’s definition', () => {
  const parts = {
    name: 'rz-0a1b2c3d-x',
    ref: { tenantId: 'acme', kind: 'instance', id: '00000000-0000-0000-0000-000000000009' },
    spec,
    accelerator: 'tcg' as const,
    disk: '/srv/a & b/"<disk>".qcow2',
    consoleLog: '/srv/console.log',
    interfaces: spec.interfaces.map(({ mac }, i) => ({ mac, bridge: `b${i}`, port: `t${i}`, mtu: 1450 })),
  };

  it('is well-formed, whatever stands in a path, and the same for the same parts', () => {
    const xml = domainXml(parts);
    expect(XMLValidator.validate(xml)).toBe(true);
    expect(domainXml(parts)).toBe(xml);
    const { domain } = new XMLParser({ ignoreAttributes: false, attributeNamePrefix: '@' }).parse(xml);
    expect(domain.devices.disk.source['@file']).toBe(parts.disk);
    expect(domain.devices.interface).toHaveLength(2);
    expect(domain.metadata['rhyzome:instance']['@tenant']).toBe('acme');
    expect(domain['@type']).toBe('qemu');
  });
});

describe('an instance’s spec', () => {
  it('is taken when right', () => {
    expect(() => checkInstanceSpec(spec)).not.toThrow();
    expect(() => checkInstanceSpec({ ...spec, diskGiB: null, interfaces: [] })).not.toThrow();
  });

  it.each([
    ['name', { name: '../x' }],
    ['vCPUs', { vcpus: 0 }],
    ['memory', { memoryMiB: 1.5 }],
    ['disk size', { diskGiB: 0 }],
    ['disk size', { image: { ...spec.image, virtualSizeBytes: 2 * 1024 ** 3 } }],
    ['power state', { powerState: 'on' }],
    ['image digest', { image: { ...spec.image, sha256: '../../etc' } }],
    ['image format', { image: { ...spec.image, format: 'vmdk' } }],
    ['image', { image: undefined }],
    ['interfaces', { interfaces: undefined }],
    ['network id', { interfaces: [{ networkId: 'x', mac: '52:54:00:00:00:01', ip: '' }] }],
    ['MAC', { interfaces: [{ ...spec.interfaces[0], mac: "x'/><evil" }] }],
  ])('is refused with a wrong %s', (what, change) => {
    const check = () => checkInstanceSpec({ ...spec, ...change } as InstanceSpec);
    expect(check).toThrow(expect.objectContaining({ code: 'invalid_spec', permanent: true }));
    expect(check).toThrow(what);
  });
});
