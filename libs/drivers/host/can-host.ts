/** Whether hosts (see host.ts) can be made on this machine, and if not, what is missing and where it comes from. */
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { CommandError, createRunner } from './command.js';

export type Ability = { ok: true } | { ok: false; reason: string };

const programs = [
  'unshare',
  'nsenter',
  'ip',
  'nft',
  'sysctl',
  'dnsmasq',
  'socat',
  'wg',
  'virsh',
  'libvirtd',
  'qemu-system-x86_64',
  'qemu-img',
];

/** Tries namespaces for real; the reason is for the user. */
export async function canHost(): Promise<Ability> {
  if (process.platform !== 'linux') return { ok: false, reason: 'libvirt hosts need Linux' };
  if (process.getuid?.() !== 0) return { ok: false, reason: 'not root: run as root to make libvirt hosts' };
  const path = `${process.env.PATH ?? ''}${delimiter}/usr/sbin${delimiter}/sbin`.split(delimiter);
  const missing = programs.filter((name) => !path.some((dir) => existsSync(join(dir, name))));
  if (missing.length > 0) {
    return { ok: false, reason: `missing: ${missing.join(', ')}; tools/install-debian-packages.sh installs them` };
  }
  try {
    await createRunner().run(['unshare', '--net', '--mount', '--uts', 'ip', 'link', 'set', 'lo', 'up']);
    return { ok: true };
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    return { ok: false, reason: `this machine allows no namespaces of one's own (${error.message})` };
  }
}
