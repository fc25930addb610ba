/**
 * Whether guests run on KVM here. /dev/kvm can be there and open where no guest would run, so a small image is booted
 * once and the result is kept, for this kernel, CPU and QEMU.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import type { Runner } from '#libs/drivers/host';

export type Accelerator = 'kvm' | 'tcg';

const probeLimitMs = 15_000;

/**
 * `probeImage`: a qcow2 whose machine prints `tiny: started` on its serial console; without one, emulation is taken.
 * `cacheDir`: where the result is kept.
 */
export async function probeAccelerator(
  runner: Runner,
  cacheDir: string,
  probeImage: string | undefined,
): Promise<Accelerator> {
  if (probeImage === undefined || !existsSync('/dev/kvm')) return 'tcg';
  const version = await runner.run(['qemu-system-x86_64', '--version']);
  const key = createHash('sha256').update(`${release()}\n${cpus()[0]?.model}\n${version}`).digest('hex').slice(0, 16);
  const path = join(cacheDir, `accelerator-${key}`);
  const known = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  if (known === 'kvm' || known === 'tcg') return known;
  const result: Accelerator = (await boots(runner, probeImage)) ? 'kvm' : 'tcg';
  await mkdir(cacheDir, { recursive: true });
  await writeFile(`${path}.${process.pid}`, result);
  await rename(`${path}.${process.pid}`, path);
  return result;
}

/** Boots the image on KVM without a trace on its disk. */
function boots(runner: Runner, image: string): Promise<boolean> {
  const child = runner.spawn([
    ...['qemu-system-x86_64', '-machine', 'pc,accel=kvm', '-cpu', 'host', '-m', '128', '-nodefaults', '-no-reboot'],
    ...['-display', 'none', '-monitor', 'none', '-serial', 'stdio', '-blockdev', blockdev(image)],
    ...['-device', 'virtio-blk-pci,drive=probe'],
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
      output = (output + data.toString('latin1')).slice(-4096);
      if (output.includes('tiny: started')) end(true);
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
