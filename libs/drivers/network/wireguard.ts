/**
 * A network's VPN door: a WireGuard interface in its router, by the kernel where it can, else by wireguard-go. Keys go in
 * by standard input only; `wg syncconf` leaves the sessions of unchanged peers alone (wg(8)).
 */
import { join } from 'node:path';
import { DriverError, type WireguardSpec } from '#libs/drivers/contract';
import { CommandError, type Runner } from '#libs/drivers/host';
import { addressLines, findLink, ipBatch, isMissing, type Link } from './links.js';
import { endResident, type Resident, recordedPid, runningPid, startResident } from './resident.js';

export interface Door {
  /** The interface's name. */
  name: string;
  namespace: string;
  /** Directory of this network's files. */
  dir: string;
}

/** What WireGuard leaves of 1500 bytes with IPv6 outside, as wg-quick(8) takes it. */
const mtu = 1420;

/** Directory of wireguard-go's control sockets. */
const sockets = '/var/run/wireguard';

function residentOf({ name, namespace, dir }: Door): Resident {
  return { program: 'wireguard-go', mark: name, pidFile: join(dir, 'wireguard.pid'), namespace };
}

/** Makes the door as the spec has it. Throws DriverError `wireguard_failed` where neither kernel nor program can. */
export async function applyWireguard(runner: Runner, door: Door, spec: WireguardSpec): Promise<void> {
  const { name, namespace } = door;
  const link = (await findLink(runner, name, namespace)) ?? (await open(runner, door));
  await configure(runner, door, spec);
  const setting = `net/ipv6/conf/${name}/disable_ipv6=0`;
  await runner.run(['ip', 'netns', 'exec', namespace, 'sysctl', '-q', '-w', setting]);
  const up = ['link', 'set', 'dev', name, 'mtu', String(mtu), 'up'];
  await ipBatch(runner, [...addressLines(name, link, [spec.address]), up], namespace);
  await applyRoutes(
    runner,
    door,
    spec.peers.flatMap(({ allowedIps }) => allowedIps),
  );
}

/** Undo of applyWireguard, whichever way it was made; nothing there is success. */
export async function removeWireguard(runner: Runner, door: Door): Promise<void> {
  await endResident(runner, residentOf(door));
  await runner.run(['rm', '-f', `${sockets}/${door.name}.sock`]);
  try {
    await runner.run(['ip', '-n', door.namespace, 'link', 'del', 'dev', door.name]);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}

/** Whether its process still runs; only for a door that has one. */
export async function wireguardRuns(door: Door): Promise<boolean> {
  return (await recordedPid(residentOf(door))) !== null;
}

/** Whether it is a process that keeps this door open. */
export async function isProcess(runner: Runner, door: Door): Promise<boolean> {
  return (await runningPid(runner, residentOf(door))) !== null;
}

async function open(runner: Runner, door: Door): Promise<Link | null> {
  // A process whose interface was deleted, or whose namespace is not the present one.
  await removeWireguard(runner, door);
  if (!(await openByKernel(runner, door))) await openByProcess(runner, door);
  return findLink(runner, door.name, door.namespace);
}

/** False where this kernel has no WireGuard. */
async function openByKernel(runner: Runner, { name, namespace }: Door): Promise<boolean> {
  try {
    await runner.run(['ip', '-n', namespace, 'link', 'add', 'dev', name, 'type', 'wireguard']);
    return true;
  } catch (error) {
    if (error instanceof CommandError && /Unknown device type|not supported/i.test(error.stderr)) return false;
    throw error;
  }
}

async function openByProcess(runner: Runner, door: Door): Promise<void> {
  const started = await startResident(runner, residentOf(door), ['wireguard-go', door.name], {
    WG_PROCESS_FOREGROUND: '1',
  });
  for (let i = 0; started && i < 100; i++) {
    if (await answers(runner, door)) return;
  }
  await removeWireguard(runner, door);
  const message = 'The VPN door does not open: the kernel has no WireGuard, and wireguard-go does not start.';
  throw new DriverError('wireguard_failed', message);
}

async function answers(runner: Runner, { name, namespace }: Door): Promise<boolean> {
  try {
    await runner.run(['ip', 'netns', 'exec', namespace, 'wg', 'show', name, 'listen-port']);
    return true;
  } catch (error) {
    if (error instanceof CommandError && error.exitCode !== null) return false;
    throw error;
  }
}

async function configure(runner: Runner, { name, namespace }: Door, spec: WireguardSpec): Promise<void> {
  const lines = ['[Interface]', `PrivateKey = ${spec.privateKey}`, `ListenPort = ${spec.port}`];
  for (const { publicKey, presharedKey, allowedIps } of spec.peers) {
    lines.push('[Peer]', `PublicKey = ${publicKey}`);
    if (presharedKey) lines.push(`PresharedKey = ${presharedKey}`);
    if (allowedIps.length > 0) lines.push(`AllowedIPs = ${allowedIps.join(', ')}`);
  }
  // wg opens its file by name, which a socket as standard input does not allow: hence the pipe.
  const script = 'cat | wg syncconf "$0" /dev/stdin';
  const argv = ['ip', 'netns', 'exec', namespace, 'sh', '-c', script, name];
  try {
    await runner.run(argv, { input: `${lines.join('\n')}\n` });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new DriverError('wireguard_failed', `The VPN door takes no configuration: ${error.message}`, {
      cause: error,
    });
  }
}

/** Leads exactly `wanted` CIDRs into the tunnel, beside the kernel's own route. */
async function applyRoutes(runner: Runner, { name, namespace }: Door, wanted: readonly string[]): Promise<void> {
  for (const family of ['-4', '-6']) {
    const text = await runner.run([
      'ip',
      '-n',
      namespace,
      '-j',
      family,
      'route',
      'show',
      'dev',
      name,
      'proto',
      'static',
    ]);
    const single = family === '-4' ? '/32' : '/128';
    const has = (JSON.parse(text || '[]') as { dst: string }[]).map(({ dst }) =>
      dst.includes('/') ? dst : `${dst}${single}`,
    );
    const own = wanted.filter((cidr) => cidr.includes(':') === (family === '-6'));
    const route = (verb: string, cidr: string) => [family, 'route', verb, cidr, 'dev', name, 'proto', 'static'];
    const lines = [
      ...has.filter((cidr) => !own.includes(cidr)).map((cidr) => route('del', cidr)),
      ...own.filter((cidr) => !has.includes(cidr)).map((cidr) => route('replace', cidr)),
    ];
    // A family in a line of a batch is not possible; it stands in the address.
    await ipBatch(
      runner,
      lines.map((words) => words.slice(1)),
      namespace,
    );
  }
}
