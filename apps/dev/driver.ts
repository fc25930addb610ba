/**
 * Decides what the development node drives, and makes the host that libvirt runs in: namespaces of its own, so that this
 * machine's links, firewall and names stay as they are.
 */
import { join } from 'node:path';
import { adoptOrCleanHost, canHost, type Host, startHost } from '#libs/drivers/host';
import { nodeName } from './certificates.js';
import { UsageError } from './options.js';

export type DriverChoice = { driver: 'libvirt' } | { driver: 'sim'; why: string };

/** `asked`: from the command line. Throws UsageError where libvirt was asked for and cannot be had. */
export async function chooseDriver(asked: 'sim' | 'libvirt' | undefined): Promise<DriverChoice> {
  if (asked === 'sim') return { driver: 'sim', why: 'as asked: machines are simulated' };
  const ability = await canHost();
  if (ability.ok) return { driver: 'libvirt' };
  if (asked === 'libvirt') throw new UsageError(`--driver libvirt does not work here: ${ability.reason}`);
  return { driver: 'sim', why: `machines are simulated, since libvirt does not work here: ${ability.reason}` };
}

/** Starts the host, with a world outside for its networks to lead to; what a killed start left behind in it is ended first. */
export async function startLibvirtHost(dir: string, checkout: string): Promise<Host> {
  return startHost({
    dir,
    cacheDir: join(checkout, '.rhyzome', 'cache', 'libvirt'),
    hostname: nodeName,
    hasWorld: true,
  });
}

/** Ends what a killed start left behind; nothing there is success. */
export async function cleanLibvirtHost(dir: string): Promise<void> {
  await adoptOrCleanHost(dir);
}
