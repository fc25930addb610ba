/**
 * Whether guests run on KVM here. /dev/kvm can be there and open where no guest would run, so a small image, or the
 * kernel that this machine itself runs, is booted once and the result is kept, for this kernel, CPU and QEMU.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import type { Runner } from '#libs/drivers/host';

export type Accelerator = 'kvm' | 'tcg';

const probeLimitMs = 15_000;

/** What is booted: a qcow2 whose machine prints `tiny: started` on its serial console, or a kernel without a root. */
export type Probe = { image: string } | { kernel: string };

/** The given image, else this machine's own kernel, else null: there is nothing to try with. */
export function findProbe(image: string | undefined): Probe | null {
  if (image !== undefined) return { image };
  const kernel = `/boot/vmlinuz-${release()}`;
  return existsSync(kernel) ? { kernel } : null;
}

/** `cacheDir`: where the result is kept. Without KVM's device or a probe, emulation is taken. */
export async function probeAccelerator(runner: Runner, cacheDir: string, probe: Probe | null): Promise<Accelerator> {
  if (probe === null || !existsSync('/dev/kvm')) return 'tcg';
  const version = await runner.run(['qemu-system-x86_64', '--version']);
  const key = createHash('sha256').update(`${release()}\n${cpus()[0]?.model}\n${version}`).digest('hex').slice(0, 16);
  const path = join(cacheDir, `accelerator-${key}`);
  const known = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  if (known === 'kvm' || known === 'tcg') return known;
  const result: Accelerator = (await boots(runner, probe, 'kvm')) ? 'kvm' : 'tcg';
  await mkdir(cacheDir, { recursive: true });
  await writeFile(`${path}.${process.pid}`, result);
  await rename(`${path}.${process.pid}`, path);
  return result;
}

/** Boots it on an accelerator, without a trace on its disk; false: not within 15 s. */
export function boots(runner: Runner, probe: Probe, accelerator: Accelerator): Promise<boolean> {
  const child = runner.spawn([
    ...['qemu-system-x86_64', '-machine', `pc,accel=${accelerator}`, '-cpu', accelerator === 'kvm' ? 'host' : 'qemu64'],
    ...['-m', '256', '-nodefaults', '-no-reboot', '-display', 'none', '-monitor', 'none', '-serial', 'stdio'],
    ...('image' in probe
      ? ['-blockdev', blockdev(probe.image), '-device', 'virtio-blk-pci,drive=probe']
      : ['-kernel', probe.kernel, '-append', 'console=ttyS0 panic=-1']),
  ]);
  return new Promise((resolve) => {
    let output = '';
    const end = (result: boolean) => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      resolve(result);
    };
    const timer = setTimeout(() => end(false), probeLimitMs);
    const read = (data: Buffer) => {
      output = (output + data.toString('latin1')).slice(-65_536);
      // The whole kernel has come up: either its first program runs, or it looked in vain for one.
      if (/tiny: started|Kernel panic - not syncing: VFS/.test(output)) end(true);
      if (output.includes('KVM internal error')) end(false);
    };
    child.stdout?.on('data', read);
    child.stderr?.on('data', read);
    child.on('error', () => end(false));
    child.on('close', () => end(false));
  });
}

/** JSON form, since a path may hold what the short form takes for a separator. */
function blockdev(image: string): string {
  const file = { driver: 'file', filename: image, 'read-only': true, locking: 'off' };
  return JSON.stringify({ driver: 'qcow2', 'node-name': 'probe', 'read-only': true, file });
}
