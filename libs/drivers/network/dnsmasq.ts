/**
 * DHCP and DNS of one network: a dnsmasq in the router's namespace. Leases change by rewriting its hosts files and
 * SIGHUP, and by telling it with a DHCPRELEASE (RFC 2131 §4.4.6, as dhcp_release(1) does) of those that are no more, so
 * that their addresses can be given to others at once; it is restarted only when its configuration changes, or when it
 * will not forget. A process is known by the configuration file in its command line and by its namespace.
 */
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DriverError } from '#libs/drivers/contract';
import { CommandError, commandLine, endProcesses, type Runner, sendSignal } from '#libs/drivers/host';
import { lan } from './links.js';
import type { CheckedNetwork } from './network-spec.js';

export interface Dnsmasq {
  /** Directory of this network's files. */
  dir: string;
  namespace: string;
  /** Resolvers to which names outside are forwarded. */
  resolvers: readonly string[];
}

/** Size of a DHCP packet without much in it, as RFC 1542 §2.1 wants it at least. */
const packetBytes = 300;

/** A lease as dnsmasq holds it. */
export interface Held {
  mac: string;
  ip: string;
}

const files = (dir: string) => ({
  conf: join(dir, 'dnsmasq.conf'),
  pid: join(dir, 'dnsmasq.pid'),
  leases: join(dir, 'dnsmasq.leases'),
  dhcpHosts: join(dir, 'dhcp-hosts'),
  names: join(dir, 'hosts'),
});

/** dnsmasq.conf(5). `user`: whom it becomes after its start. */
function configuration(dnsmasq: Dnsmasq, spec: CheckedNetwork, user: string): string {
  const file = files(dnsmasq.dir);
  const resolvers = spec.dns.length > 0 ? spec.dns : [spec.gateway];
  const lines = [
    'port=53',
    `user=${user}`,
    `pid-file=${file.pid}`,
    'no-resolv',
    'no-poll',
    'no-hosts',
    `interface=${lan}`,
    'bind-interfaces',
    'domain-needed',
    'bogus-priv',
    'cache-size=1000',
    ...dnsmasq.resolvers.map((server) => `server=${server}`),
    `addn-hosts=${file.names}`,
    'dhcp-authoritative',
    'no-ping',
    'quiet-dhcp',
    // Names come from the control plane, never from guests.
    'dhcp-ignore-names',
    'dhcp-lease-max=100000',
    `dhcp-range=${spec.network},static,${spec.netmask},1h`,
    `dhcp-hostsfile=${file.dhcpHosts}`,
    `dhcp-leasefile=${file.leases}`,
    `dhcp-option=option:router,${spec.gateway}`,
    `dhcp-option=option:mtu,${spec.mtu}`,
    `dhcp-option=option:dns-server,${resolvers.join(',')}`,
  ];
  if (spec.domain) lines.push(`domain=${spec.domain}`, `local=/${spec.domain}/`, 'expand-hosts');
  return `${lines.join('\n')}\n`;
}

/** What dnsmasq takes in a line of hosts for an order or a lease time, and not for a name (`--dhcp-host` in dnsmasq(8)). */
const reserved = /^(?:ignore|infinite|\d+[smhdw]?)$/;

/** A line of dhcp-hosts. A machine without its name there still has it in the file of names. */
export function hostLine({ mac, ip, hostname }: CheckedNetwork['leases'][number]): string {
  return `${mac},${ip}${hostname && !reserved.test(hostname) ? `,${hostname}` : ''}\n`;
}

/** Makes dnsmasq serve exactly the spec's leases, and forget `stale` ones whether or not anybody ever took them. */
export async function applyDnsmasq(
  runner: Runner,
  dnsmasq: Dnsmasq,
  spec: CheckedNetwork,
  stale: readonly Held[],
): Promise<void> {
  const file = files(dnsmasq.dir);
  await letThrough(dnsmasq.dir);
  const conf = configuration(dnsmasq, spec, await unprivilegedUser(dnsmasq.dir));
  const changed = (await readOr(file.conf, '')) !== conf;
  const hosts = spec.leases.map(hostLine).join('');
  const names = spec.leases.flatMap(({ ip, hostname }) => (hostname ? [`${ip} ${hostname}\n`] : [])).join('');
  await replaceFile(file.dhcpHosts, hosts);
  await replaceFile(file.names, names);
  const pid = await runningPid(runner, dnsmasq);
  if (pid === null || changed) {
    await stopDnsmasq(runner, dnsmasq);
    await forgetInFile(file.leases, spec);
    await replaceFile(file.conf, conf);
    await start(runner, dnsmasq);
    return;
  }
  // Read before the signal, which makes dnsmasq write its file anew: it is empty for a moment then.
  const held = await heldWithoutRight(file.leases, spec);
  // Always: after a crash between writing and sending, nothing else tells that it has not read the files yet.
  sendSignal(pid, 'SIGHUP');
  if (stale.length > 0 || held.length > 0) await forget(runner, dnsmasq, spec, [...stale, ...held]);
}

/** Ends it, also one whose pid file was lost; not running is success. */
export async function stopDnsmasq(runner: Runner, dnsmasq: Dnsmasq): Promise<void> {
  await endProcesses(async () => {
    const pids = new Set(await strayPids(runner, dnsmasq.namespace));
    const pid = await recordedPid(dnsmasq.dir);
    if (pid !== null) pids.add(pid);
    return [...pids];
  }, 2000);
  await rm(files(dnsmasq.dir).pid, { force: true });
}

/** Every dnsmasq in the router's namespace. */
async function strayPids(runner: Runner, namespace: string): Promise<number[]> {
  const pids = await runner.run(['ip', 'netns', 'pids', namespace]).catch((error: unknown) => {
    // No namespace of that name, or a name that leads nowhere.
    if (error instanceof CommandError && error.exitCode !== null) return '';
    throw error;
  });
  const found: number[] = [];
  for (const pid of pids.split('\n').filter(Boolean).map(Number)) {
    if ((await commandLine(pid))?.[0]?.endsWith('dnsmasq')) found.push(pid);
  }
  return found;
}

async function start(runner: Runner, dnsmasq: Dnsmasq): Promise<void> {
  const argv = ['ip', 'netns', 'exec', dnsmasq.namespace, 'dnsmasq', `--conf-file=${files(dnsmasq.dir).conf}`];
  try {
    await runner.run(argv);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new DriverError('dhcp_failed', `The network's DHCP server does not start: ${error.message}`, {
      cause: error,
    });
  }
}

/** The pid on file, if that process is this network's dnsmasq. */
async function recordedPid(dir: string): Promise<number | null> {
  const pid = Number.parseInt(await readOr(files(dir).pid, ''), 10);
  if (!Number.isInteger(pid) || pid < 2) return null;
  return (await commandLine(pid))?.includes(`--conf-file=${files(dir).conf}`) ? pid : null;
}

/** The same, if it also lives in the router's present namespace. */
async function runningPid(runner: Runner, dnsmasq: Dnsmasq): Promise<number | null> {
  const pid = await recordedPid(dnsmasq.dir);
  if (pid === null) return null;
  const name = (await runner.run(['ip', 'netns', 'identify', String(pid)])).trim();
  return name === dnsmasq.namespace ? pid : null;
}

/** Leases that it still holds though the spec no longer has them. Lines: expiry, MAC, address, name, client id. */
async function heldWithoutRight(leaseFile: string, spec: CheckedNetwork): Promise<Held[]> {
  const right = new Set(spec.leases.map(({ mac, ip }) => `${mac} ${ip}`));
  return parseLeases(await readOr(leaseFile, '')).filter(({ mac, ip }) => !right.has(`${mac} ${ip}`));
}

function parseLeases(text: string): Held[] {
  return text.split('\n').flatMap((line) => {
    const [, mac, ip] = line.split(' ');
    return mac && ip && /^[0-9a-f:]{17}$/.test(mac) ? [{ mac, ip }] : [];
  });
}

/** Releases leases; when one still shows in the file after 1 s, by a restart. */
async function forget(runner: Runner, dnsmasq: Dnsmasq, spec: CheckedNetwork, leases: readonly Held[]): Promise<void> {
  const file = files(dnsmasq.dir);
  // dd writes block by block, and each write is a datagram.
  const send = `exec dd bs=${packetBytes} iflag=fullblock status=none > "/dev/udp/$0/67"`;
  const input = Buffer.concat(leases.map((lease) => releasePacket(lease, spec.gateway)));
  await runner.run(['ip', 'netns', 'exec', dnsmasq.namespace, 'bash', '-c', send, spec.gateway], { input });
  for (let i = 0, clean = 0; i < 30; i++) {
    await sleep(30);
    clean = (await heldWithoutRight(file.leases, spec)).length === 0 ? clean + 1 : 0;
    // Once may have been the moment in which the file is written.
    if (clean === 2) return;
  }
  await stopDnsmasq(runner, dnsmasq);
  await forgetInFile(file.leases, spec);
  await start(runner, dnsmasq);
}

/** Only while it does not run. */
async function forgetInFile(leaseFile: string, spec: CheckedNetwork): Promise<void> {
  const right = new Set(spec.leases.map(({ mac, ip }) => `${mac} ${ip}`));
  const text = await readOr(leaseFile, '');
  const kept = text.split('\n').filter((line) => parseLeases(line).some(({ mac, ip }) => right.has(`${mac} ${ip}`)));
  if (text !== '') await writeFile(leaseFile, kept.map((line) => `${line}\n`).join(''));
}

/** DHCPRELEASE: RFC 2131 figure 1 and table 5; options 53 (type 7) and 54 (server) of RFC 2132. */
export function releasePacket(lease: Held, server: string): Uint8Array {
  const packet = Buffer.alloc(packetBytes);
  packet.set([1, 1, 6, 0], 0);
  packet.set(randomBytes(4), 4);
  packet.set(lease.ip.split('.').map(Number), 12);
  packet.set(
    lease.mac.split(':').map((byte) => Number.parseInt(byte, 16)),
    28,
  );
  packet.set([99, 130, 83, 99, 53, 1, 7, 54, 4, ...server.split('.').map(Number), 255], 236);
  return packet;
}

/** Makes a network's directory and the one of all networks; modes whatever this process's umask is. */
async function letThrough(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  await chmod(dirname(dir), 0o711);
  await chmod(dir, 0o755);
}

/** Whom dnsmasq can become and still read its files: its own user if every directory above lets others through. */
async function unprivilegedUser(dir: string): Promise<string> {
  for (let at = dir; ; at = dirname(at)) {
    if (((await stat(at)).mode & 0o001) === 0) return 'root';
    if (at === dirname(at)) return 'dnsmasq';
  }
}

async function readOr(path: string, fallback: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return fallback;
    throw error;
  }
}

/** Replaces a file as a whole if its content differs. */
async function replaceFile(path: string, content: string): Promise<void> {
  if ((await readOr(path, '\0')) === content) return;
  await writeFile(`${path}.new`, content);
  await chmod(`${path}.new`, 0o644);
  await rename(`${path}.new`, path);
}
