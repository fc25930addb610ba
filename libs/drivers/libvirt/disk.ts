/** The boot disk: a qcow2 overlay on the machine's copy of the image. The backing file's format is always named. */
import { existsSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { DriverError, type InstanceSpec } from '#libs/drivers/contract';
import { CommandError, type Runner } from '#libs/drivers/host';
import { diskBytes } from './instance-spec.js';

/**
 * Makes the overlay if it is missing; one that is there keeps its content. Undo: removing the file.
 * Throws DriverError `disk_full` or `disk_failed`.
 */
export async function ensureDisk(runner: Runner, disk: string, backing: string, spec: InstanceSpec): Promise<void> {
  try {
    if (existsSync(disk)) return await ensureBacking(runner, disk, backing, spec);
    const part = `${disk}.new`;
    await rm(part, { force: true });
    const options = ['-q', '-f', 'qcow2', '-F', spec.image.format, '-b', backing];
    await runner.run(['qemu-img', 'create', ...options, part, String(diskBytes(spec))]);
    await rename(part, disk);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    const code = /No space left/i.test(error.stderr) ? 'disk_full' : 'disk_failed';
    throw new DriverError(code, `The boot disk cannot be made: ${error.message}`, { cause: error });
  }
}

/** Points the overlay to where the image lies now. Only for a machine that is off. */
async function ensureBacking(runner: Runner, disk: string, backing: string, spec: InstanceSpec): Promise<void> {
  const info = JSON.parse(await runner.run(['qemu-img', 'info', '-U', '--output=json', disk])) as {
    'full-backing-filename'?: string;
  };
  if (info['full-backing-filename'] === backing) return;
  await runner.run(['qemu-img', 'rebase', '-q', '-u', '-f', 'qcow2', '-F', spec.image.format, '-b', backing, disk]);
}
