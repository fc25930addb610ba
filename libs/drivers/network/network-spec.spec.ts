import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addressNumber, addressText } from './addresses.js';
import { lease, networkSpec } from './lab.js';
import { bridgeName, leasePortName, parseBridgeAlias } from './names.js';
import { checkNetworkSpec } from './network-spec.js';

describe('a network’s spec', () => {
  it.each([
    ['subnet', { subnet: '10.77.1.4/24' }],
    ['subnet', { subnet: '10.77.1.0/24; flush ruleset' }],
    ['subnet', { subnet: '10.77.1.0/31' }],
    ['gateway', { gateway: '10.78.1.1' }],
    ['gateway MAC', { gatewayMac: '53:54:00:77:00:01' }],
    ['resolver', { dns: ['10.0.0.1\nuser=root'] }],
    ['domain', { domain: 'x\nuser=root' }],
    ['MTU', { mtu: 1.5 }],
    ['lease address', { leases: [{ ...lease(5), ip: '10.77.1.255' }] }],
    ['lease address', { leases: [{ ...lease(5), ip: '10.77.1.05' }] }],
    ['lease MAC', { leases: [{ ...lease(5), mac: 'x' }] }],
    ['lease host name', { leases: [{ ...lease(5), hostname: 'a,b' }] }],
    ['twice', { leases: [lease(5), { ...lease(6), ip: '10.77.1.5' }] }],
    ['twice', { leases: [lease(5), { ...lease(6), mac: lease(5).mac }] }],
    ['twice', { leases: [lease(1)] }],
  ])('is refused with a wrong %s', (what, change) => {
    const check = () => checkNetworkSpec({ ...networkSpec(), ...change });
    expect(check).toThrow(expect.objectContaining({ code: 'invalid_spec', permanent: true }));
    expect(check).toThrow(what);
  });

  it('is normalized', () => {
    const checked = checkNetworkSpec({
      ...networkSpec({ ip: '10.77.1.9', mac: '52:54:00:AA:00:01', hostname: 'Web', ip6: null }, lease(2)),
      subnet: '10.77.0.0/22',
    });
    expect(checked.netmask).toBe('255.255.252.0');
    expect(checked.leases).toEqual([
      lease(2),
      { ip: '10.77.1.9', mac: '52:54:00:aa:00:01', hostname: 'web', ip6: null },
    ]);
  });

  it('reads and writes every address', () => {
    fc.assert(
      fc.property(fc.ipV4(), (ip) => {
        expect(addressText(addressNumber(ip, 'ip'))).toBe(ip);
      }),
    );
  });
});

describe('a link’s name', () => {
  it('fits, carries the installation, and differs by network and MAC', () => {
    fc.assert(
      fc.property(fc.uuid(), fc.uuid(), (one, other) => {
        const names = [bridgeName('0a1b2c3d', one), leasePortName('0a1b2c3d', one, '52:54:00:00:00:01')];
        for (const name of names) expect(name).toMatch(/^[bt]0a1b2c3d[a-z2-7]{6}$/);
        if (one !== other) expect(bridgeName('0a1b2c3d', one)).not.toBe(bridgeName('0a1b2c3d', other));
      }),
    );
  });

  it('is nobody’s without this installation’s alias', () => {
    expect(parseBridgeAlias('0a1b2c3d', undefined)).toBeNull();
    expect(parseBridgeAlias('0a1b2c3d', 'rhyzome:ffffffff:network:acme:x')).toBeNull();
    expect(parseBridgeAlias('0a1b2c3d', 'rhyzome:0a1b2c3d:network:acme:x')).toMatchObject({
      tenantId: 'acme',
      id: 'x',
    });
  });
});
