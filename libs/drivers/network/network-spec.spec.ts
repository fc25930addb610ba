import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  annexMac,
  type FirewallRuleSpec,
  type ForwardSpec,
  type NetworkSpec,
  type OverlaySpec,
  type WireguardSpec,
} from '#libs/drivers/contract';
import { address6Number, address6Text, addressNumber, addressText, checkRange, disjoint } from './addresses.js';
import { lease, networkSpec } from './lab.js';
import { bridgeName, leasePortName, parseBridgeAlias } from './names.js';
import { checkNetworkSpec } from './network-spec.js';

const ipv6 = { subnet6: 'fd77:1::/64', gateway6: 'fd77:1::1' };
const forward: ForwardSpec = { publicIp: '203.0.113.9', protocol: 'tcp', port: 80, ip: '10.77.1.5', targetPort: 80 };
const rule: FirewallRuleSpec = {
  id: 'one',
  direction: 'in',
  action: 'deny',
  protocol: 'tcp',
  ports: [{ from: 80, to: 80 }],
  remotes: null,
  guests: null,
};
const key = Buffer.alloc(32, 7).toString('base64');
const peer = { publicKey: key, presharedKey: null, allowedIps: ['10.99.0.2/32'] };
const door: WireguardSpec = { privateKey: key, port: 51_820, address: '10.99.0.1/24', peers: [peer] };
const overlay: OverlaySpec = {
  ...{ vni: 5001, address: '192.0.2.1', port: 4789, router: null, walled: false },
  nodes: [{ address: '192.0.2.2', port: 4789 }],
};

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
    ['subnet6', { subnet6: 'fd77:1::1/64', gateway6: 'fd77:1::1' }],
    ['subnet6', { subnet6: 'fd77:1::/63', gateway6: 'fd77:1::1' }],
    ['subnet6', { subnet6: 'fd77:1::/127', gateway6: 'fd77:1::1' }],
    ['subnet6', { subnet6: 'fe80::/64', gateway6: 'fe80::1' }],
    ['subnet6', { subnet6: '10.0.0.0/8', gateway6: 'fd77:1::1' }],
    ['gateway6', { subnet6: 'fd77:1::/64', gateway6: null }],
    ['gateway6', { subnet6: 'fd77:1::/64', gateway6: 'fd77:2::1' }],
    ['gateway6', { subnet6: 'fd77:1::/64', gateway6: 'fd77:1::' }],
    ['gateway6', { gateway6: 'fd77:1::1' }],
    ['1280', { subnet6: 'fd77:1::/64', gateway6: 'fd77:1::1', mtu: 1279 }],
    ['without a subnet6', { leases: [{ ...lease(5), ip6: 'fd77:1::5' }] }],
    ['twice', { ...ipv6, leases: [lease(5), lease(6)].map((one) => ({ ...one, ip6: 'fd77:1::5' })) }],
    ['twice', { ...ipv6, leases: [{ ...lease(5), ip6: 'fd77:1:0::1' }] }],
    ['lease IPv6 address', { ...ipv6, leases: [{ ...lease(5), ip6: 'fd77:1::1%eth0' }] }],
    ['public address', { publicAddresses: [{ publicIp: '203.0.113.9/32', ip: '10.77.1.5' }] }],
    ['reserved', { publicAddresses: [{ publicIp: '127.0.0.1', ip: '10.77.1.5' }] }],
    ['reserved', { publicAddresses: [{ publicIp: '100.64.0.1', ip: '10.77.1.5' }] }],
    ['no host', { publicAddresses: [{ publicIp: '203.0.113.9', ip: '10.78.1.5' }] }],
    ['twice', { publicAddresses: ['5', '6'].map((n) => ({ publicIp: '203.0.113.9', ip: `10.77.1.${n}` })) }],
    ['twice', { publicAddresses: ['5', '6'].map((n) => ({ publicIp: `203.0.113.${n}`, ip: '10.77.1.9' })) }],
    ['forward port', { forwards: [{ ...forward, port: 0 }] }],
    ['forward target port', { forwards: [{ ...forward, targetPort: 65_536 }] }],
    ['forward protocol', { forwards: [{ ...forward, protocol: 'icmp' as 'tcp' }] }],
    ['twice', { forwards: [forward, { ...forward, ip: '10.77.1.9' }] }],
    ['firewall rule id', { firewall: [{ ...rule, id: '"; flush ruleset; #' }] }],
    ['direction', { firewall: [{ ...rule, direction: 'up' as 'in' }] }],
    ['action', { firewall: [{ ...rule, action: 'accept' as 'allow' }] }],
    ['upside down', { firewall: [{ ...rule, ports: [{ from: 90, to: 80 }] }] }],
    ['tcp or udp', { firewall: [{ ...rule, protocol: 'icmp' as const }] }],
    ['host bits', { firewall: [{ ...rule, remotes: ['10.0.0.1/8'] }] }],
    ['remote', { firewall: [{ ...rule, remotes: ['10.0.0.1-10.0.0.9'] }] }],
    ['guest', { firewall: [{ ...rule, guests: ['10.77.1.0/24'] }] }],
    ['longer than', { firewall: Array.from({ length: 1025 }, () => rule) }],
    ['private key', { wireguard: { ...door, privateKey: key.slice(1) } }],
    ['private key', { wireguard: { ...door, privateKey: `${key.slice(0, 42)}B=` } }],
    ['VPN port', { wireguard: { ...door, port: 0 } }],
    ['VPN address', { wireguard: { ...door, address: '10.99.0.1' } }],
    ['overlap', { wireguard: { ...door, address: '10.77.1.200/24' } }],
    ['public key', { wireguard: { ...door, peers: [{ ...peer, publicKey: 'x' }] } }],
    ['preshared key', { wireguard: { ...door, peers: [{ ...peer, presharedKey: 'x\nPostUp = id' }] } }],
    ['twice', { wireguard: { ...door, peers: [peer, { ...peer, allowedIps: [] }] } }],
    ['everything', { wireguard: { ...door, peers: [{ ...peer, allowedIps: ['0.0.0.0/0'] }] } }],
    ['overlap', { wireguard: { ...door, peers: [{ ...peer, allowedIps: ['10.0.0.0/8'] }] } }],
    ['overlap', { wireguard: { ...door, peers: [{ ...peer, allowedIps: ['10.99.0.0/24'] }] } }],
    ['overlap', { wireguard: { ...door, peers: [{ ...peer, allowedIps: ['fd99::/64', 'fd99::5/128'] }] } }],
    ['VNI', { overlay: { ...overlay, vni: 0 } }],
    ['VNI', { overlay: { ...overlay, vni: 2 ** 24 } }],
    ['own underlay address', { overlay: { ...overlay, address: '192.0.2.1; id' } }],
    ['underlay address of a node', { overlay: { ...overlay, nodes: [{ address: 'fd00::1', port: 4789 }] } }],
    ['port', { overlay: { ...overlay, nodes: [{ address: '192.0.2.2', port: 0 }] } }],
    ['twice', { overlay: { ...overlay, nodes: [{ address: '192.0.2.1', port: 4789 }] } }],
    ['router', { overlay: { ...overlay, router: 1 } }],
    ['lease', { overlay, leases: [{ ...lease(5), node: 1 }] }],
    ['lease', { leases: [{ ...lease(5), node: 0 }] }],
    ['twice', { leases: [{ ...lease(5), mac: annexMac }] }],
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
      { ...lease(2), node: null },
      { ip: '10.77.1.9', mac: '52:54:00:aa:00:01', hostname: 'web', ip6: null, node: null },
    ]);
  });

  it('is normalized in its features, too, and takes one from before them', () => {
    const checked = checkNetworkSpec({
      ...networkSpec({ ...lease(5), ip6: 'FD77:1:0:0::A' }),
      ...ipv6,
      gateway6: 'fd77:1:0::0:1',
      wireguard: { ...door, peers: [{ ...peer, allowedIps: ['10.99.0.2', 'FD99::/112'] }] },
    });
    expect(checked).toMatchObject({ gateway6: 'fd77:1::1', ipv6: { network: 'fd77:1::', stateful: false } });
    expect(checked.leases[0]?.ip6).toBe('fd77:1::a');
    expect(checked.wireguard?.peers[0]?.allowedIps).toEqual(['10.99.0.2/32', 'fd99::/112']);
    const { subnet6, gateway6, publicAddresses, forwards, firewall, wireguard, ...before } = networkSpec(lease(5));
    expect(checkNetworkSpec(before as NetworkSpec)).toEqual(checkNetworkSpec(networkSpec(lease(5))));
  });

  it('keeps every address of overlapping ranges, and no other, apart from each other', () => {
    const range = fc.tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 24, max: 32 })).map(([n, length]) => {
      const first = n - (n % 2 ** (32 - length));
      return { text: `10.0.0.${first}/${length}`, first, last: first + 2 ** (32 - length) - 1 };
    });
    fc.assert(
      fc.property(fc.array(range, { maxLength: 12 }), (ranges) => {
        const checked = ranges.map(({ text }) => checkRange(text, 'range'));
        const found = disjoint(checked, 4).map((text) => text.split('-').map((end) => Number(end.split('.')[3])));
        const covered = (n: number) => found.filter(([first = 0, last = first]) => n >= first && n <= last).length;
        for (let n = 0; n < 256; n++) {
          expect(covered(n)).toBe(ranges.some(({ first, last }) => n >= first && n <= last) ? 1 : 0);
        }
      }),
    );
  });

  it('reads and writes every address', () => {
    fc.assert(
      fc.property(fc.ipV6(), (ip) => {
        expect(address6Number(address6Text(address6Number(ip, 'ip')), 'ip')).toBe(address6Number(ip, 'ip'));
      }),
    );
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
