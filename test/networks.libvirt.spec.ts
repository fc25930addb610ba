/**
 * What surrounds a machine on a real node, from inside the guest and from the world outside: IPv6, names, a public
 * address, a port forward, firewall rules that follow tags, and a WireGuard client that comes in by its network's door.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CommandError, canHost } from '#libs/drivers/host';
import { canBuildTiny } from '../tools/tiny-image/index.js';
import { apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { rhyzome } from './harness/grpc.js';
import { booted, Guest } from './harness/guest.js';
import { NodeHost } from './harness/node-host.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

const missing = [await canHost(), canBuildTiny()].flatMap((ability) => (ability.ok ? [] : [ability.reason]));
if (missing.length > 0) console.warn(`skipped: networks on libvirt: ${missing.join('; ')}`);

const size = { image: 'tiny', vcpus: 1, memoryMiB: 128 };
/** Of the world's own range, so that the node has to answer for it on its uplink. */
const pool = { name: 'edge', range: '203.0.113.64-203.0.113.79' };

describe.skipIf(missing.length > 0)('networks on libvirt', () => {
  let stack: Stack;
  let host: NodeHost;
  let acme: Client;
  let web: any;
  let db: any;
  let publicIp: string;
  let guest: Guest;

  const made = async (plural: string, json: object) => {
    const body = await acme.make(plural, json);
    expect(body).toMatchObject({ state: 'ready' });
    return body;
  };
  /** The first line of an answer to GET http://address:port/ from the world outside; empty when there is none. */
  const fromWorld = async (address: string, port = 80): Promise<string> => {
    const request = `exec 3<>/dev/tcp/${address}/${port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3`;
    try {
      return await host.inWorld('timeout', '3', 'bash', '-c', request);
    } catch (error) {
      if (error instanceof CommandError) return '';
      throw error;
    }
  };
  const reaches = (address: string, port = 80) =>
    until(`${address}:${port} from outside`, async () => (await fromWorld(address, port)).includes('200 OK'), 30_000);
  const isShut = (address: string, port = 80) =>
    until(`nothing of ${address}:${port}`, async () => (await fromWorld(address, port)) === '', 30_000);

  beforeAll(async () => {
    stack = await sharedStack('libvirt');
    host = NodeHost.of(stack);
    acme = await apiOf(stack, 'acme');
    await rhyzome(stack, 'pool', 'create', pool.name, pool.range);
    await made('networks', { name: 'n-lan', subnet: '10.33.0.0/24', subnet6: 'fd33::/64', domain: 'acme.test' });
    const interfaces = [{ network: 'n-lan' }];
    [web, db] = await Promise.all([
      made('instances', { name: 'n-web', ...size, interfaces, tags: { role: 'web' } }),
      made('instances', { name: 'n-db', ...size, interfaces, tags: { role: 'db' } }),
    ]);
    await Promise.all([booted(acme, 'n-web'), booted(acme, 'n-db')]);
    guest = await Guest.at(stack, acme, 'n-web');
  }, 300_000);

  afterAll(async () => {
    guest?.close();
    if (!acme) return;
    for (const plural of [
      'wireguardpeers',
      'firewallrules',
      'portforwards',
      'publicaddresses',
      'instances',
      'networks',
    ]) {
      for (const { id, name } of (await acme.get(`/v1/${plural}`)).body.items) {
        if (name.startsWith('n-')) await acme.remove(plural, id);
      }
    }
    await rhyzome(stack, 'pool', 'delete', pool.name);
    expect(await host.exec('ip', 'address', 'show', 'dev', 'up0')).not.toContain('203.0.113.6');
    expect(host.processes('wireguard-go')).toEqual([]);
    expect(host.processes('socat')).toEqual([]);
  }, 240_000);

  it('gives guests IPv6 addresses, the ones that the API shows', async () => {
    const [{ ip6 }] = web.interfaces;
    expect(ip6).toMatch(/^fd33::/);
    await until('the address', async () => (await guest.run('ip -6 -o addr show scope global')).includes(ip6), 60_000);
    const [{ ip6: other }] = db.interfaces;
    await until(
      'the neighbour',
      async () => (await guest.run(`ping -6 -c 1 -W 2 ${other}`)).includes(' 0% packet loss'),
      30_000,
    );
  }, 120_000);

  it('knows the machines by their names', async () => {
    const answer = await guest.run('nslookup n-db.acme.test 10.33.0.1');
    expect(answer).toContain(db.interfaces[0].ip);
  }, 60_000);

  it('leads a port of a public address to a machine, and another address to a machine wholly', async () => {
    const address = await made('publicaddresses', { name: 'n-front' });
    publicIp = address.ip;
    expect(publicIp).toBe('203.0.113.64');
    await made('portforwards', {
      name: 'n-http',
      publicAddress: 'n-front',
      protocol: 'tcp',
      port: 8080,
      instance: 'n-web',
      targetPort: 80,
    });
    await reaches(publicIp, 8080);
    expect(await fromWorld(publicIp, 8081)).toBe('');
    const again = { publicAddress: 'n-front', protocol: 'tcp', port: 8080, instance: 'n-db' };
    expectProblem(await acme.post('/v1/portforwards', { name: 'n-again', ...again }), 409, 'port_in_use', '/port');
    expectProblem(await acme.delete('/v1/instances/n-web'), 409, 'in_use');
    const own = await made('publicaddresses', { name: 'n-own', instance: 'n-db' });
    await reaches(own.ip);
    await acme.remove('publicaddresses', 'n-own');
    await isShut(own.ip);
  }, 180_000);

  it('lets firewall rules follow tags', async () => {
    const rule = { network: 'n-lan', direction: 'in', protocol: 'tcp', ports: ['80'] };
    await made('firewallrules', {
      name: 'n-shut',
      ...rule,
      priority: 10,
      action: 'deny',
      targetTags: 'quarantine=yes',
    });
    await reaches(publicIp, 8080);
    const tagged = async (tags: object) => {
      const answer = await acme.patch('/v1/instances/n-web?wait=60s', { tags });
      expect(answer.body.job.state).toBe('succeeded');
    };
    await tagged({ role: 'web', quarantine: 'yes' });
    await isShut(publicIp, 8080);
    // From its neighbour, too.
    const neighbour = await Guest.at(stack, acme, 'n-db');
    const asked = `printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 ${web.interfaces[0].ip} 80 | head -n 1`;
    expect(await neighbour.run(asked)).not.toContain('200 OK');
    await tagged({ role: 'web', quarantine: null });
    await reaches(publicIp, 8080);
    await until('the neighbour reaches it again', async () => (await neighbour.run(asked)).includes('200 OK'), 30_000);
    neighbour.close();
    await acme.remove('firewallrules', 'n-shut');
  }, 180_000);

  it('lets a WireGuard client in by the network’s door', async () => {
    const answer = await acme.post('/v1/wireguardpeers?wait=60s', { name: 'n-laptop', network: 'n-lan' });
    expect(answer.body).toMatchObject({ state: 'ready', job: { state: 'succeeded' } });
    const { privateKey, address, serverPublicKey } = answer.body;
    const peer = await until('the door', async () => {
      const { body } = await acme.get('/v1/wireguardpeers/n-laptop');
      expect(body).not.toHaveProperty('privateKey');
      return body.endpoint !== null && body;
    });
    expect((await acme.get('/v1/wireguardpeers/n-laptop/config')).text).toContain(`Endpoint = ${peer.endpoint}`);
    const script = `set -e
      wireguard-go wgtest >/dev/null 2>&1
      printf '[Interface]\\nPrivateKey = %s\\n[Peer]\\nPublicKey = %s\\nAllowedIPs = 10.33.0.0/24\\nEndpoint = %s\\n' \\
        '${privateKey}' '${serverPublicKey}' '${peer.endpoint}' > /tmp/wgtest.$$
      wg setconf wgtest /tmp/wgtest.$$; rm /tmp/wgtest.$$
      ip address add ${address}/32 dev wgtest; ip link set wgtest up mtu 1400; ip route add 10.33.0.0/24 dev wgtest`;
    try {
      await host.inWorld('bash', '-c', script);
      await reaches(web.interfaces[0].ip);
      await acme.remove('wireguardpeers', 'n-laptop');
      await isShut(web.interfaces[0].ip);
    } finally {
      await host.inWorld('ip', 'link', 'delete', 'wgtest');
    }
  }, 180_000);
});
