/**
 * DHCP, DNS and router advertisements of one network: a dnsmasq in the router's namespace. Leases and options change by
 * rewriting its files and SIGHUP, and by telling it of leases that are no more, so that their addresses can be given to
 * others at once; it is restarted only when its configuration changes, or when it will not forget. Leases outlive that.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { DriverError } from '#libs/drivers/contract';
import { CommandError, type Runner, sendSignal } from '#libs/drivers/host';
import { configuration, filesOf, hostLine, names, options } from './dnsmasq-files.js';
import {
  forgetInFile,
  type Held,
  heldWithoutRight,
  holdsStale6,
  packetBytes,
  releasePacket,
  type Stale,
} from './dnsmasq-leases.js';
import { letThrough, readOr, replaceFile, unprivilegedUser } from './files.js';
import type { CheckedNetwork } from './network-spec.js';
import { endResident, type Resident, recordedPid, runningPid } from './resident.js';

/** Of more, a restart is sooner done. All of them lie in the pipe at once, so that socat reads whole blocks. */
const mostReleased = 64;
/** Sending them takes a few; a restart is the way out (ms). */
const sendMs = 5_000;

export interface Dnsmasq {
  /** Directory of this network's files. */
  dir: string;
  namespace: string;
  /** Resolvers to which names outside are forwarded. */
  resolvers: readonly string[];
}

/** How its process is told from others. */
function residentOf({ dir, namespace }: Dnsmasq): Resident {
  const { conf, pid } = filesOf(dir);
  return { program: 'dnsmasq', mark: `--conf-file=${conf}`, pidFile: pid, namespace };
}

/** Makes dnsmasq serve exactly the spec's leases, and forget what is stale. */
export async function applyDnsmasq(
  runner: Runner,
  dnsmasq: Dnsmasq,
  spec: CheckedNetwork,
  stale: Stale,
): Promise<void> {
  const file = filesOf(dnsmasq.dir);
  await letThrough(dnsmasq.dir);
  const conf = configuration(dnsmasq.dir, spec, dnsmasq.resolvers, await unprivilegedUser(dnsmasq.dir, 'dnsmasq'));
  const changed = (await readOr(file.conf, '')) !== conf;
  const stateful = spec.ipv6?.stateful ?? false;
  await replaceFile(file.options, options(spec));
  await replaceFile(file.dhcpHosts, spec.leases.map((lease) => hostLine(lease, stateful)).join(''));
  await replaceFile(file.names, names(spec));
  const pid = await runningPid(runner, residentOf(dnsmasq));
  if (pid === null || changed || (await holdsStale6(file.leases, spec, stale))) {
    await stopDnsmasq(runner, dnsmasq);
    await forgetInFile(file.leases, spec, stale);
    await replaceFile(file.conf, conf);
    await start(runner, dnsmasq);
    return;
  }
  // Read before the signal, which makes dnsmasq write its file anew: it is empty for a moment then.
  const held = await heldWithoutRight(file.leases, spec);
  // Always: after a crash between writing and sending, nothing else tells that it has not read the files yet.
  sendSignal(pid, 'SIGHUP');
  const leases = [...stale.leases, ...held];
  if (leases.length > 0) await forget(runner, dnsmasq, spec, { ...stale, leases });
}

/** Ends it, also one whose pid file was lost; not running is success. */
export async function stopDnsmasq(runner: Runner, dnsmasq: Dnsmasq): Promise<void> {
  await endResident(runner, residentOf(dnsmasq));
}

export async function dnsmasqRuns(dnsmasq: Dnsmasq): Promise<boolean> {
  return (await recordedPid(residentOf(dnsmasq))) !== null;
}

async function start(runner: Runner, dnsmasq: Dnsmasq): Promise<void> {
  const argv = ['ip', 'netns', 'exec', dnsmasq.namespace, 'dnsmasq', `--conf-file=${filesOf(dnsmasq.dir).conf}`];
  try {
    await runner.run(argv);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new DriverError('dhcp_failed', `The network's DHCP server does not start: ${error.message}`, {
      cause: error,
    });
  }
}

/** Releases leases; where that does not come about, by a restart. */
async function forget(runner: Runner, dnsmasq: Dnsmasq, spec: CheckedNetwork, stale: Stale): Promise<void> {
  if (stale.leases.length <= mostReleased && (await release(runner, dnsmasq, spec, stale.leases))) return;
  await stopDnsmasq(runner, dnsmasq);
  await forgetInFile(filesOf(dnsmasq.dir).leases, spec, stale);
  await start(runner, dnsmasq);
}

/** Whether none of them shows in the file any more within 1 s. */
async function release(
  runner: Runner,
  { dir, namespace }: Dnsmasq,
  spec: CheckedNetwork,
  leases: readonly Held[],
): Promise<boolean> {
  const input = Buffer.concat(leases.map((lease) => releasePacket(lease, spec.gateway)));
  // No shell: bash takes a child's standard input for a network's and then runs root's .bashrc first. A block is a datagram.
  const send = ['socat', '-u', '-b', String(packetBytes), '-', `UDP4-SENDTO:${spec.gateway}:67`];
  try {
    await runner.run(['ip', 'netns', 'exec', namespace, ...send], { input, timeoutMs: sendMs });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    return false;
  }
  for (let i = 0, clean = 0; i < 30; i++) {
    await sleep(30);
    clean = (await heldWithoutRight(filesOf(dir).leases, spec)).length === 0 ? clean + 1 : 0;
    // Once may have been the moment in which the file is written.
    if (clean === 2) return true;
  }
  return false;
}
