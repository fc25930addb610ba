/**
 * For tests: a host of namespaces with networks in it, and guests that are namespaces plugged into them with a pair of
 * ends. Not exported by this library's door.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Capability,
  type DriverContext,
  type LeaseSpec,
  type NetworkSpec,
  noMigration,
  type Ref,
} from '#libs/drivers/contract';
import { CommandError, type Host, startHost } from '#libs/drivers/host';
import { bridgeName, leasePortName } from './names.js';
import { createNetworkCapability } from './network.capability.js';
import type { Underlay } from './overlay.js';
import type { LocalNetworkStatus } from './parts.js';
import type { Uplink } from './uplink.js';

/** Says who serves, and whom it sees at the other end. */
const whoScript = `#!/bin/busybox sh
printf 'Content-Type: text/plain\\r\\n\\r\\n%s sees %s\\n' "$NAME" "$REMOTE_ADDR"
`;

/** Prints address, host name, resolver and MTU when it got them. */
const dhcpScript = `#!/bin/busybox sh
case "$1" in bound|renew)
  ip -4 addr flush dev $interface
  ip addr add $ip/$mask dev $interface
  ip route replace default via $router
  echo "$ip $hostname $dns $mtu" ;;
esac
`;

export const never = new AbortController().signal;

export const networkRef = (tenantId: string): Ref => ({ tenantId, kind: 'network', id: randomUUID() });

export const lease = (n: number, hostname: string | null = null): LeaseSpec => ({
  ip: `10.77.1.${n}`,
  mac: `52:54:00:00:01:${n.toString(16).padStart(2, '0')}`,
  hostname,
  ip6: null,
});

export const networkSpec = (...leases: LeaseSpec[]): NetworkSpec => ({
  subnet: '10.77.1.0/24',
  gateway: '10.77.1.1',
  subnet6: null,
  gateway6: null,
  gatewayMac: '52:54:00:77:00:01',
  dns: [],
  domain: 'lab.example',
  mtu: 1450,
  leases,
  publicAddresses: [],
  forwards: [],
  firewall: [],
  wireguard: null,
});

export class Lab {
  /** What networks that are made from now on lead the metadata address to. */
  metadataSocket: string | null = null;
  private constructor(
    readonly dir: string,
    readonly host: Host,
    readonly installation: string,
  ) {}

  /** `hasWorld`: with the namespace `world`, 203.0.113.2, beyond the host's link `up0`, 203.0.113.1. */
  static async open(hostname: string, hasWorld = false, installation = randomBytes(4).toString('hex')): Promise<Lab> {
    const dir = await mkdtemp(join(tmpdir(), 'rz-lab-'));
    const cacheDir = resolve('.rhyzome/cache/libvirt');
    const host = await startHost({ dir: join(dir, 'host'), cacheDir, hostname, hasWorld });
    await writeFile(join(dir, 'udhcpc'), dhcpScript, { mode: 0o755 });
    await mkdir(join(dir, 'www', 'cgi-bin'), { recursive: true });
    await writeFile(join(dir, 'www', 'cgi-bin', 'who'), whoScript, { mode: 0o755 });
    return new Lab(dir, host, installation);
  }

  async close(): Promise<void> {
    await this.host.stop();
    await rm(this.dir, { recursive: true, force: true });
  }

  get stateDir(): string {
    return join(this.dir, 'state');
  }

  /** `before`: what stands before every command, inside the host. */
  networks(
    uplink?: Uplink,
    before: readonly string[] = [],
    underlay?: Underlay,
  ): Capability<NetworkSpec, LocalNetworkStatus> {
    const log = { info() {}, warn() {}, error() {}, debug() {} };
    const nothing = () => Promise.reject(new Error('neither images nor content here'));
    const context: DriverContext = {
      installation: this.installation,
      stateDir: this.stateDir,
      images: { path: nothing },
      content: { put: nothing },
      metadataSocket: this.metadataSocket,
      migration: noMigration,
      log,
    };
    return createNetworkCapability(context, { enter: this.host.command(before), uplink, underlay });
  }

  /** Runs words separated by blanks inside the host. */
  run(words: string): Promise<string> {
    return this.host.exec(words.split(' '));
  }

  sh(script: string): Promise<string> {
    return this.host.exec(['sh', '-c', script]);
  }

  /** A namespace on a network's bridge, at the port of its lease or at `port`; no address yet. */
  async plug(guest: string, network: Ref, mac: string, port?: string): Promise<void> {
    const tap = port ?? leasePortName(this.installation, network.id, mac);
    await this.run(`ip netns add ${guest}`);
    await this.run(`ip link add ${tap} type veth peer name eth0 netns ${guest}`);
    await this.run(`ip link set ${tap} master ${bridgeName(this.installation, network.id)} up`);
    await this.run(`ip -n ${guest} link set eth0 address ${mac} up`);
  }

  /** HTTP in a namespace; `get` of it says `<namespace> sees <address>`. */
  async serve(guest: string, port: number): Promise<void> {
    const httpd = `busybox httpd -p ${port} -h ${join(this.dir, 'www')}`;
    await this.run(`ip netns exec ${guest} env NAME=${guest} ${httpd}`);
  }

  /** What a served port says; empty: nothing within 2 s. */
  async get(guest: string, host: string): Promise<string> {
    const url = `http://${host}/cgi-bin/who`;
    const said = await this.orEmpty(`ip netns exec ${guest} timeout 2 busybox wget -q -O - ${url}`);
    return said.replace(/\[(?:::ffff:)?(.*)\]/, '$1');
  }

  /** With all that runs in it, which would keep the namespace and its end. */
  unplug(guest: string): Promise<string> {
    return this.sh(`ip netns pids ${guest} | xargs -r kill -9; ip netns del ${guest}`);
  }

  /** Gives the guest this one address. */
  async address(guest: string, cidr: string): Promise<void> {
    await this.run(`ip -n ${guest} -4 addr flush dev eth0`);
    await this.run(`ip -n ${guest} addr add ${cidr} dev eth0`);
  }

  /** What DHCP gave the guest (see dhcpScript), on a busy machine, too; empty: nothing. */
  async dhcp(guest: string, tries = 10, more: readonly string[] = []): Promise<string> {
    const script = join(this.dir, 'udhcpc');
    const client = `busybox udhcpc -i eth0 -O mtu -n -q -f -t ${tries} -T 1 -s ${script} -p /dev/null`;
    return this.orEmpty([`ip netns exec ${guest} ${client}`, ...more].join(' '));
  }

  /** The MAC that answers for an address on the guest's link; empty: none within 1 s. */
  async arping(guest: string, address: string): Promise<string> {
    const words = `ip netns exec ${guest} busybox arping -f -c 1 -w 1 -I eth0 ${address}`;
    return /\[([0-9a-f:]{17})\]/.exec((await this.orEmpty(words)).toLowerCase())?.[1] ?? '';
  }

  /** The global IPv6 address that the guest made itself (SLAAC), within 15 s; empty: none. */
  async ownAddress6(guest: string): Promise<string> {
    for (let i = 0; i < 60; i++) {
      const text = await this.run(`ip -n ${guest} -6 -br addr show dev eth0 scope global -tentative`);
      const found = /fd77:[0-9a-f:]+/.exec(text);
      if (found) return found[0];
      await sleep(250);
    }
    return '';
  }

  /** One try: for what must not be reached. */
  async ping(guest: string, address: string): Promise<boolean> {
    return (await this.orEmpty(`ip netns exec ${guest} busybox ping -c 1 -W 1 ${address}`)) !== '';
  }

  /**
   * Keeps pinging, 20 times a second; the result ends that and gives the longest time in which nothing came back (ms), and
   * what share of all came back.
   */
  async keepPinging(guest: string, address: string): Promise<() => Promise<{ deafMs: number; answered: number }>> {
    const everyMs = 50;
    const argv = ['ip', 'netns', 'exec', guest, 'busybox', 'ping', '-i', String(everyMs / 1000), address];
    const child = this.host.runner.spawn(argv);
    let text = '';
    child.stdout?.on('data', (data) => (text += data));
    const closed = new Promise((resolve) => child.once('close', resolve));
    for (let i = 0; i < 100 && !text.includes('seq='); i++) await sleep(50);
    return async () => {
      child.kill('SIGINT');
      await closed;
      const came = [...text.matchAll(/seq=(\d+)/g)].map(([, seq]) => Number(seq)).sort((a, b) => a - b);
      const sent = Number(/(\d+) packets transmitted/.exec(text)?.[1] ?? 0);
      const gaps = [...came, sent].map((seq, index) => seq - (index === 0 ? -1 : came[index - 1]!) - 1);
      return { deafMs: Math.max(...gaps) * everyMs, answered: came.length / sent };
    };
  }

  /** Some tries: for what must be reached. */
  async reaches(guest: string, address: string): Promise<boolean> {
    for (let i = 0; i < 4; i++) if (await this.ping(guest, address)) return true;
    return false;
  }

  /** What the gateway says of a name. */
  async lookup(guest: string, name: string, type: 'a' | 'aaaa' = 'a', server = '10.77.1.1'): Promise<string> {
    const words = ['ip', 'netns', 'exec', guest, 'busybox', 'nslookup', `-type=${type}`, name, server];
    // It fails for a name that is not there, which is an answer, too.
    return this.sh(`${words.join(' ')} 2>&1 || true`);
  }

  private async orEmpty(words: string): Promise<string> {
    try {
      return (await this.run(words)).trim();
    } catch (error) {
      if (error instanceof CommandError && !error.timedOut) return '';
      throw error;
    }
  }
}
