/** VPN doors with a real WireGuard peer in the world outside. */
import { generateKeyPairSync } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Capability, FirewallRuleSpec, NetworkSpec, WireguardSpec } from '#libs/drivers/contract';
import { canHost } from '#libs/drivers/host';
import { Lab, lease, networkRef, networkSpec, never } from './lab.js';
import { wireguardName } from './names.js';
import type { LocalNetworkStatus } from './parts.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: VPN doors: ${ability.reason}`);

/** X25519 keys as wg(8) writes them. */
function keys(): { privateKey: string; publicKey: string } {
  const pair = generateKeyPairSync('x25519');
  const raw = (der: Buffer) => der.subarray(-32).toString('base64');
  return {
    privateKey: raw(pair.privateKey.export({ type: 'pkcs8', format: 'der' })),
    publicKey: raw(pair.publicKey.export({ type: 'spki', format: 'der' })),
  };
}

describe.skipIf(!ability.ok)('a VPN door', () => {
  let lab: Lab;
  let networks: Capability<NetworkSpec, LocalNetworkStatus>;
  const ref = networkRef('acme');
  const [door, peer, stranger] = [keys(), keys(), keys()];
  const psk = keys().privateKey;
  const ip6 = 'fd77:1::5054:ff:fe00:10a';
  const wireguard = (change: Partial<WireguardSpec> = {}): WireguardSpec => ({
    privateKey: door.privateKey,
    port: 51_820,
    address: '10.99.0.1/24',
    peers: [{ publicKey: peer.publicKey, presharedKey: psk, allowedIps: ['10.99.0.2/32', 'fd99::2/128'] }],
    ...change,
  });
  const spec = (change: Partial<NetworkSpec> = {}): NetworkSpec => ({
    ...networkSpec({ ...lease(10, 'inside'), ip6 }),
    subnet6: 'fd77:1::/64',
    gateway6: 'fd77:1::1',
    wireguard: wireguard(),
    ...change,
  });
  const peerLink = `wp${Math.random().toString(16).slice(2, 10)}`;

  beforeAll(async () => {
    lab = await Lab.open('rz-vpn', true);
    networks = lab.networks({ interface: 'up0' });
    await networks.apply(ref, spec(), never);
    await lab.plug('guest', ref, lease(10).mac);
    expect(await lab.dhcp('guest')).toContain('10.77.1.10');
    expect(await lab.ownAddress6('guest')).toBe(ip6);
    await lab.serve('guest', 80);
    await lab.sh('ip netns exec world sysctl -q -w net.ipv6.conf.default.disable_ipv6=0');
    await lab.sh(`ip -n world link add ${peerLink} type wireguard 2>/dev/null ||
      ip netns exec world env WG_PROCESS_FOREGROUND=1 setsid -f wireguard-go ${peerLink} </dev/null >/dev/null 2>&1`);
    await writeFile(
      join(lab.dir, 'peer.conf'),
      `[Interface]\nPrivateKey = ${peer.privateKey}\n[Peer]\nPublicKey = ${door.publicKey}
PresharedKey = ${psk}\nAllowedIPs = 10.77.1.0/24, 10.99.0.0/24, fd77:1::/64\nEndpoint = 203.0.113.1:51820\n`,
    );
    for (let i = 0; i < 50; i++) {
      await sleep(100);
      if (
        (await lab.sh(`ip netns exec world wg setconf ${peerLink} ${join(lab.dir, 'peer.conf')} 2>&1 || true`)) === ''
      )
        break;
    }
    await lab.sh(`ip -n world addr add 10.99.0.2/32 dev ${peerLink}; ip -n world addr add fd99::2/128 dev ${peerLink} nodad
      ip -n world link set ${peerLink} up mtu 1420
      for r in 10.77.1.0/24 10.99.0.0/24 fd77:1::/64; do ip -n world route add $r dev ${peerLink}; done`);
  });
  afterAll(() => lab?.close());

  /** A peer whose session the door no longer knows asks anew only after 15 s (WireGuard, §6.4): made to at once. */
  const redial = (port = 51_820) =>
    lab.sh(
      `sed 's/:51820/:${port}/' ${join(lab.dir, 'peer.conf')} | ip netns exec world wg setconf ${peerLink} /dev/stdin`,
    );
  const reaches = async (port?: number) => {
    for (let i = 0; i < 3; i++) {
      await redial(port);
      if (await lab.ping('world', '10.77.1.10')) return true;
    }
    return false;
  };

  it('lets a peer in by the node’s address, in both families, and guests out to it', async () => {
    expect((await networks.inventory())[0]?.status.wireguardEndpoint).toBe('203.0.113.1:51820');
    expect(await lab.reaches('world', '10.99.0.1')).toBe(true);
    expect(await lab.get('world', '10.77.1.10')).toBe('guest sees 10.99.0.2');
    expect(await lab.reaches('world', ip6)).toBe(true);
    expect(await lab.reaches('guest', '10.99.0.2')).toBe(true);
    expect(await lab.lookup('world', 'inside.lab.example')).toContain('10.77.1.10');
    // No address but its own, and not on into the world.
    await lab.run(`ip -n world addr add 10.99.0.3/32 dev ${peerLink}`);
    await expect(lab.run('ip netns exec world busybox ping -c 1 -W 1 -I 10.99.0.3 10.77.1.10')).rejects.toThrow();
  }, 60_000);

  it('keeps sessions when it is applied again, and knows only whom it should', async () => {
    const pidOf = () => lab.sh(`cat ${lab.stateDir}/network/${ref.id}/wireguard.pid 2>/dev/null || true`);
    const pid = await pidOf();
    const { peers } = wireguard();
    const more = { publicKey: stranger.publicKey, presharedKey: null, allowedIps: ['10.98.0.0/24'] };
    await networks.apply(ref, spec({ wireguard: wireguard({ peers: [...peers, more] }) }), never);
    expect(await pidOf()).toBe(pid);
    expect(await lab.ping('world', '10.77.1.10')).toBe(true);
    const routes = () => lab.sh(`ip netns exec $(ip netns | awk '/^rz-/ {print $1}') ip route`);
    expect(await routes()).toContain('10.98.0.0/24 dev w');
    await networks.apply(ref, spec({ wireguard: wireguard({ peers: [more] }) }), never);
    expect(await lab.ping('world', '10.77.1.10')).toBe(false);
    await networks.apply(ref, spec(), never);
    expect(await routes()).not.toContain('10.98.0.0/24');
    expect(await reaches()).toBe(true);
  }, 60_000);

  it('is subject to the firewall', async () => {
    const rule: Omit<FirewallRuleSpec, 'action' | 'remotes'> = {
      id: 'r',
      direction: 'in',
      protocol: 'any',
      ports: [],
      guests: null,
    };
    await networks.apply(ref, spec({ firewall: [{ ...rule, action: 'deny', remotes: ['10.99.0.0/24'] }] }), never);
    expect(await lab.ping('world', '10.77.1.10')).toBe(false);
    await networks.apply(ref, spec({ firewall: [{ ...rule, action: 'allow', remotes: ['10.99.0.2'] }] }), never);
    expect(await reaches()).toBe(true);
  }, 60_000);

  it('shows its keys to nobody who looks at processes or files', async () => {
    await networks.apply(ref, spec(), never);
    const seen = await lab.sh(
      `cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; cat ${lab.stateDir}/network/${ref.id}/* 2>/dev/null`,
    );
    expect(seen).not.toContain(door.privateKey);
    expect(seen).not.toContain(psk);
  });

  it('comes back from damage, moves to another port, and goes with its process', async () => {
    const name = wireguardName(lab.installation, ref.id);
    const own = `rz-${lab.installation}-${ref.id}`;
    for (const damage of [
      `ip -n ${own} link del ${name}`,
      `kill -9 $(cat ${lab.stateDir}/network/${ref.id}/wireguard.pid 2>/dev/null) 2>/dev/null; ip -n ${own} link del ${name} 2>/dev/null; true`,
      `ip netns del ${own}`,
      'nft flush ruleset',
    ]) {
      await lab.sh(damage);
      await networks.apply(ref, spec(), never);
      expect(await reaches(), damage).toBe(true);
    }
    const moved = await networks.apply(ref, spec({ wireguard: wireguard({ port: 4500 }) }), never);
    expect(moved.wireguardEndpoint).toBe('203.0.113.1:4500');
    expect(await reaches(4500)).toBe(true);
    const closed = await networks.apply(ref, spec({ wireguard: null }), never);
    expect(closed.wireguardEndpoint).toBeUndefined();
    expect(await lab.sh(`pgrep -f 'wireguard-g[o] ${name}' || true`)).toBe('');
    expect(await lab.run(`ip -n ${own} -br link`)).not.toContain(name);
    await networks.apply(ref, spec(), never);
    await lab.unplug('guest');
    await networks.remove(ref, never);
    expect(
      await lab.sh(`pgrep -f 'wireguard-g[o] ${name}' || true; ls /var/run/wireguard/${name}.sock 2>/dev/null || true`),
    ).toBe('');
    expect(await lab.run('nft list ruleset')).toBe('');
  }, 90_000);
});
