/** What a node is told of a network's parts: only what is its own, and within limits. */
import { describe, expect, test } from 'vitest';
import { doorAddress, type Guest, MAX_RULE_ADDRESSES, type Part, type PartSpec, partFields } from './part-specs.js';

const guest = (instanceId: string, ip: string, nodeId = 'here', tags = {}): Guest => ({
  instanceId,
  ip,
  ip6: null,
  nodeId,
  tags,
});
const part = (spec: PartSpec): Part => ({ resourceId: 'r', spec });
const toPublic = (instance: string) => part({ kind: 'publicAddress', publicIp: '203.0.113.7', instance });
const peer = part({ kind: 'wireguardPeer', publicKey: 'k', presharedKey: null, allowedIps: ['198.18.0.2/32'] });
const rule = (more: object) =>
  part({
    kind: 'firewallRule',
    direction: 'in',
    action: 'allow',
    protocol: 'any',
    ports: [],
    remoteCidrs: null,
    remoteTags: null,
    targetTags: null,
    ...more,
  });

describe('the parts of a network', () => {
  test('lead to guests on the nodes that the router serves, over their first interface', () => {
    const guests = [guest('a', '10.0.0.2'), guest('a', '10.0.0.3'), guest('b', '10.0.0.4', 'elsewhere')];
    const parts = [toPublic('a'), toPublic('b'), toPublic('gone')];
    expect(partFields(parts, guests, null, new Set(['here'])).publicAddresses).toEqual([
      { publicIp: '203.0.113.7', ip: '10.0.0.2' },
    ]);
    expect(partFields(parts, guests, null, new Set(['elsewhere'])).publicAddresses).toEqual([
      { publicIp: '203.0.113.7', ip: '10.0.0.4' },
    ]);
    expect(partFields(parts, guests, null, new Set(['here', 'elsewhere'])).publicAddresses).toHaveLength(2);
  });

  test('have a VPN where there are a door and peers', () => {
    const door = { privateKey: 'p', port: 16_384 + 300 };
    expect(partFields([peer], [], door, new Set(['here'])).wireguard).toMatchObject({
      ...door,
      address: '198.19.44.1/24',
    });
    expect(partFields([peer], [], null, new Set(['here'])).wireguard).toBeNull();
    expect(partFields([], [], door, new Set(['here'])).wireguard).toBeNull();
  });

  test('name guests of all nodes in firewall rules, and nobody rather than everybody', () => {
    const guests = [
      guest('a', '10.0.0.2', 'here', { role: 'web' }),
      guest('b', '10.0.0.3', 'elsewhere', { role: 'web' }),
    ];
    const firewall = (more: object) => partFields([rule(more)], guests, null, new Set(['here'])).firewall;
    expect(firewall({ targetTags: 'role=web' })).toMatchObject([{ guests: ['10.0.0.2', '10.0.0.3'], remotes: null }]);
    expect(firewall({ remoteTags: 'role=db' })).toMatchObject([{ guests: null, remotes: [] }]);
    expect(firewall({ targetTags: 'role=db' })).toEqual([]);
  });

  test('are refused where rules would name more addresses than a message carries', () => {
    const many = Array.from({ length: MAX_RULE_ADDRESSES / 2 + 1 }, (_, i) =>
      guest(`g${i}`, `10.${i >> 8}.${i & 255}.2`),
    );
    expect(() => partFields([rule({ targetTags: '!x' })], many, null, new Set(['here']))).not.toThrow();
    expect(() => partFields([rule({ targetTags: '!x', remoteTags: '!x' })], many, null, new Set(['here']))).toThrow(
      expect.objectContaining({ code: 'limit_reached' }),
    );
  });

  test('come through 512 tunnels', () => {
    expect(new Set(Array.from({ length: 512 }, (_, i) => doorAddress(16_384 + i))).size).toBe(512);
    expect([doorAddress(16_384), doorAddress(16_384 + 511), doorAddress(16_384 + 512)]).toEqual([
      '198.18.0.1',
      '198.19.255.1',
      '198.18.0.1',
    ]);
  });
});
