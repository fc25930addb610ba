/** Firewalls on the real kernel: between guests of one network, from and to the world, in both families. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Capability, FirewallRuleSpec, NetworkSpec, Ref } from '#libs/drivers/contract';
import { canHost } from '#libs/drivers/host';
import { Lab, lease, networkRef, networkSpec, never } from './lab.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: firewalls: ${ability.reason}`);

const rule = (change: Partial<FirewallRuleSpec>): FirewallRuleSpec => ({
  id: 'a-rule',
  direction: 'in',
  action: 'allow',
  protocol: 'any',
  ports: [],
  remotes: null,
  guests: null,
  ...change,
});
const ip6 = (n: number) => `fd77:1::5054:ff:fe00:1${n.toString(16).padStart(2, '0')}`;
const port = (from: number, to = from) => [{ from, to }];

describe.skipIf(!ability.ok)('a firewall', () => {
  let lab: Lab;
  let networks: Capability<NetworkSpec, object>;
  let ref: Ref;
  const spec = (...firewall: FirewallRuleSpec[]): NetworkSpec => ({
    ...networkSpec(...[10, 11, 12].map((n) => ({ ...lease(n), ip6: ip6(n) }))),
    subnet6: 'fd77:1::/64',
    gateway6: 'fd77:1::1',
    firewall,
  });
  const rules = (...firewall: FirewallRuleSpec[]) => networks.apply(ref, spec(...firewall), never);
  /** Who of `who` gets an answer of web's port. */
  const reach = async (who: readonly string[], host = '10.77.1.10'): Promise<string[]> => {
    const answers = await Promise.all(who.map((guest) => lab.get(guest, host)));
    return who.filter((_, i) => answers[i] !== '');
  };

  beforeAll(async () => {
    lab = await Lab.open('rz-fw', true);
    networks = lab.networks({ interface: 'up0' });
    ref = networkRef('acme');
    await rules();
    for (const [n, guest] of ['web', 'app', 'other'].entries()) {
      await lab.plug(guest, ref, lease(10 + n).mac);
      expect(await lab.dhcp(guest)).toContain(`10.77.1.1${n}`);
      await lab.run(`ip -n ${guest} addr replace ${ip6(10 + n)}/64 dev eth0 nodad`);
    }
    await lab.serve('web', 80);
    await lab.serve('web', 8080);
    await lab.serve('world', 80);
    await lab.serve('app', 80);
  });
  afterAll(() => lab?.close());

  it('that is empty lets all through, past the router', async () => {
    expect(await lab.get('app', '10.77.1.10')).toBe('web sees 10.77.1.11');
    expect(await reach(['app', 'other'])).toEqual(['app', 'other']);
    expect(await lab.get('app', '203.0.113.2')).toContain('world');
  });

  it('lets in only what a rule allows, once one does, from neighbours and in IPv6, too', async () => {
    await rules(
      rule({ protocol: 'tcp', ports: port(80), remotes: ['10.77.1.11', ip6(11)], guests: ['10.77.1.10', ip6(10)] }),
    );
    expect(await reach(['app', 'other'])).toEqual(['app']);
    expect(await reach(['app', 'other'], '10.77.1.10:8080')).toEqual([]);
    expect(await reach(['app', 'other'], `[${ip6(10)}]`)).toEqual(['app']);
    expect(await lab.ping('app', '10.77.1.10')).toBe(false);
    expect(await lab.ping('app', ip6(10))).toBe(false);
    // The others are not spoken of; web gets its answers, and DHCP, DNS and the gateway go on.
    expect(await reach(['web', 'other'], '10.77.1.11')).toEqual(['web', 'other']);
    expect(await lab.get('web', '203.0.113.2')).toContain('world');
    expect(await lab.reaches('web', ip6(11))).toBe(true);
    expect(await lab.dhcp('web')).toContain('10.77.1.10');
    expect(await lab.ping('web', '10.77.1.1')).toBe(true);
    expect(await lab.lookup('web', 'nobody.lab.example')).toContain('NXDOMAIN');
    // And nobody is woken by a broadcast.
    await lab.sh(`ip netns exec web nft 'add table ip probe; add chain ip probe in { type filter hook input priority -300; };
      add rule ip probe in udp dport 9 counter'`);
    await lab.sh(`ip netns exec other sh -c 'echo x | socat - UDP4-DATAGRAM:255.255.255.255:9,broadcast'`);
    expect(await lab.run('ip netns exec web nft list table ip probe')).toContain('packets 0 ');
  }, 60_000);

  it('decides by the first rule that matches', async () => {
    const no = rule({ action: 'deny', remotes: ['10.77.1.12/32', '10.77.1.0/30', '10.77.1.0/29'] });
    const yes = rule({ protocol: 'tcp', ports: [...port(80, 90), ...port(85, 8080)] });
    await rules(no, yes);
    expect(await reach(['app', 'other'])).toEqual(['app']);
    await rules(yes, no);
    expect(await reach(['app', 'other'])).toEqual(['app', 'other']);
    await rules(rule({ action: 'deny', protocol: 'icmp' }));
    expect(await lab.ping('app', '10.77.1.10')).toBe(false);
    expect(await lab.ping('app', ip6(10))).toBe(false);
    expect(await reach(['app', 'other'])).toEqual(['app', 'other']);
    await rules(rule({ action: 'deny', guests: [] }), rule({ action: 'deny', remotes: [] }));
    expect(await reach(['app', 'other'])).toEqual(['app', 'other']);
  }, 60_000);

  it('keeps guests from going out', async () => {
    await rules(rule({ direction: 'out', action: 'deny', remotes: ['203.0.113.0/24'], guests: ['10.77.1.11'] }));
    expect(await reach(['web', 'app', 'other'], '203.0.113.2')).toEqual(['web', 'other']);
    expect(await reach(['app', 'other'])).toEqual(['app', 'other']);
    await rules(
      rule({ direction: 'out', protocol: 'tcp', ports: port(80) }),
      rule({ direction: 'out', action: 'deny' }),
    );
    expect(await reach(['web', 'app'], '203.0.113.2')).toEqual(['web', 'app']);
    expect(await lab.ping('app', '10.77.1.10')).toBe(false);
    expect(await reach(['app', 'other'])).toEqual(['app', 'other']);
  }, 60_000);

  it('asks a connection that stands again when rules change, and keeps those that still may', async () => {
    const only = (remote: string) => rule({ protocol: 'tcp', remotes: [remote], guests: ['10.77.1.10'] });
    await rules();
    await lab.sh(`ip netns exec web setsid -f socat TCP4-LISTEN:7,fork,reuseaddr EXEC:cat </dev/null >/dev/null 2>&1`);
    await sleep(300);
    const talk = (guest: string) => {
      const [file = '', ...argv] = lab.host.command(['ip', 'netns', 'exec', guest, 'socat', '-', 'TCP4:10.77.1.10:7']);
      const child = spawn(file, argv, { stdio: ['pipe', 'pipe', 'ignore'] });
      let heard = '';
      child.stdout.on('data', (data) => {
        heard += data;
      });
      return {
        async echo(word: string, ms: number): Promise<boolean> {
          child.stdin.write(`${word}\n`);
          for (let i = 0; i < ms / 50 && !heard.includes(word); i++) await sleep(50);
          return heard.includes(word);
        },
        end: () => child.kill(),
      };
    };
    const app = talk('app');
    const other = talk('other');
    expect(await app.echo('one', 5000)).toBe(true);
    expect(await other.echo('one', 5000)).toBe(true);
    // From past the router to through it, in the middle of a connection.
    await rules(only('10.77.1.11'));
    expect(await app.echo('two', 10_000)).toBe(true);
    expect(await other.echo('two', 1000)).toBe(false);
    await rules(only('10.77.1.11'), only('10.77.1.12'));
    expect(await other.echo('three', 20_000)).toBe(true);
    expect(await app.echo('three', 10_000)).toBe(true);
    await rules(rule({ action: 'deny', remotes: ['10.77.1.11'] }));
    expect(await app.echo('four', 1000)).toBe(false);
    expect(await other.echo('four', 10_000)).toBe(true);
    await rules();
    expect(await app.echo('five', 20_000)).toBe(true);
    for (const one of [app, other]) one.end();
  }, 90_000);
});
