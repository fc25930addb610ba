/** Image files made by the real qemu-img, good ones and hostile ones. */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFile, mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ImageRefused, inspectImage } from './index.js';

const SECTOR = 512;
const hasQemuImg = spawnSync('qemu-img', ['--version']).status === 0;
if (!hasQemuImg) console.log('skipped: inspectImage with real images (qemu-img is not installed; Debian: qemu-utils)');

let dir: string;
const at = (name: string) => join(dir, name);
const qemuImg = (...args: string[]) => execFileSync('qemu-img', args, { stdio: 'pipe' });

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'images-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

async function reasonOf(name: string, options = {}): Promise<string> {
  const error = await inspectImage(at(name), options).catch((caught: unknown) => caught);
  if (error instanceof ImageRefused) {
    expect(error.message).not.toContain(dir);
    return error.reason;
  }
  return error instanceof Error ? error.message : 'accepted';
}

describe.runIf(hasQemuImg)('inspectImage', () => {
  it('accepts a qcow2, with internal snapshots too', async () => {
    qemuImg('create', '-q', '-f', 'qcow2', at('plain.qcow2'), '64M');
    qemuImg('snapshot', '-c', 'one', at('plain.qcow2'));
    const image = await inspectImage(at('plain.qcow2'));
    expect(image).toMatchObject({ format: 'qcow2', virtualSizeBytes: 64 * 1024 ** 2 });
    expect(image.sizeBytes).toBeLessThan(1024 ** 2);
  });

  it('accepts a compressed qcow2 with data', async () => {
    await writeFile(at('data.raw'), Buffer.alloc(3_000_000, 'rhyzome'));
    qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', at('data.raw'), at('data.qcow2'));
    expect(await reasonOf('data.qcow2')).toBe('accepted');
  });

  it('accepts a raw disk with a boot sector, without one only by name', async () => {
    const disk = Buffer.alloc(1024 ** 2);
    await writeFile(at('bare.raw'), disk);
    disk.writeUInt16BE(0x55aa, 510);
    await writeFile(at('boot.raw'), disk);
    expect(await inspectImage(at('boot.raw'))).toEqual({
      format: 'raw',
      virtualSizeBytes: 1024 ** 2,
      sizeBytes: 1024 ** 2,
    });
    expect(await reasonOf('bare.raw')).toBe('unknown_format');
    expect(await inspectImage(at('bare.raw'), { format: 'raw' })).toMatchObject({ format: 'raw' });
  });

  it('refuses a backing file, there or not', async () => {
    await writeFile(at('secret'), 'x'.repeat(1024));
    qemuImg('create', '-q', '-f', 'qcow2', '-b', at('secret'), '-F', 'raw', at('backed.qcow2'));
    qemuImg('create', '-q', '-u', '-f', 'qcow2', '-b', '/etc/shadow', '-F', 'raw', at('backed2.qcow2'), '1M');
    qemuImg('create', '-q', '-u', '-f', 'qcow2', '-b', 'nbd://127.0.0.1:1/x', '-F', 'raw', at('backed3.qcow2'), '1M');
    for (const name of ['backed.qcow2', 'backed2.qcow2', 'backed3.qcow2'])
      expect(await reasonOf(name)).toBe('backing_file');
  });

  it('refuses an external data file', async () => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${at('outside')},data_file_raw=on`, at('ext.qcow2'), '1M');
    expect(await reasonOf('ext.qcow2')).toBe('external_data_file');
    await rm(at('outside'));
    expect(await reasonOf('ext.qcow2')).toBe('external_data_file');
  });

  it('refuses an encrypted one', async () => {
    const secret = ['--object', 'secret,id=s,data=secret'];
    // Not LUKS, which measures the processor's speed while it is made and gives up on a busy one.
    const options = 'encrypt.format=aes,encrypt.key-secret=s';
    qemuImg('create', '-q', '-f', 'qcow2', ...secret, '-o', options, at('locked.qcow2'), '1M');
    expect(await reasonOf('locked.qcow2')).toBe('encrypted');
  });

  it('refuses a bomb', async () => {
    qemuImg('create', '-q', '-f', 'qcow2', at('bomb.qcow2'), '60T');
    expect(await reasonOf('bomb.qcow2')).toBe('too_large');
    expect(await reasonOf('plain.qcow2', { maxVirtualSizeBytes: 1024 })).toBe('too_large');
  });

  it('refuses other formats, whatever they would name', async () => {
    qemuImg('create', '-q', '-f', 'vmdk', at('x.vmdk'), '1M');
    await writeFile(at('x.txt'), 'json:{"driver":"nbd"}\n');
    await writeFile(at('empty'), '');
    await writeFile(at('desc.vmdk'), '# Disk DescriptorFile\nversion=1\nRW 1 FLAT "/etc/shadow" 0\n');
    for (const name of ['x.vmdk', 'x.txt', 'empty', 'desc.vmdk']) expect(await reasonOf(name)).toBe('unknown_format');
  });

  it('refuses what was cut off or damaged', async () => {
    await copyFile(at('data.qcow2'), at('cut.qcow2'));
    await truncate(at('cut.qcow2'), 100);
    expect(await reasonOf('cut.qcow2')).toMatch(/unreadable|truncated/);
    qemuImg('convert', '-f', 'raw', '-O', 'qcow2', at('data.raw'), at('half.qcow2'));
    await truncate(at('half.qcow2'), 1_000_000);
    expect(await reasonOf('half.qcow2')).toBe('truncated');
    await copyFile(at('plain.qcow2'), at('broken.qcow2'));
    const file = await open(at('broken.qcow2'), 'r+');
    await file.write(Buffer.alloc(12, 0xff), 0, 12, 36);
    await file.close();
    expect(await reasonOf('broken.qcow2')).toMatch(/unreadable|corrupt|truncated/);
  });
});

it('says so when qemu-img is missing', async () => {
  const header = Buffer.alloc(SECTOR);
  header.writeUInt32BE(0x5146_49fb, 0);
  header.writeUInt32BE(2, 4);
  await writeFile(at('plain2.qcow2'), header);
  const inspecting = inspectImage(at('plain2.qcow2'), { qemuImg: 'qemu-img-that-is-not-there' });
  await expect(inspecting).rejects.toThrow('is not installed');
});

it('needs no qemu-img for a raw disk, which ends with a whole sector', async () => {
  await writeFile(at('odd.raw'), Buffer.alloc(1000, 'x'));
  const options = { qemuImg: 'qemu-img-that-is-not-there', isRawElse: true };
  expect(await inspectImage(at('odd.raw'), options)).toEqual({
    format: 'raw',
    sizeBytes: 1000,
    virtualSizeBytes: 1024,
  });
  expect(await reasonOf('odd.raw', { ...options, maxVirtualSizeBytes: 1000 })).toBe('too_large');
  await writeFile(at('none.raw'), '');
  expect(await reasonOf('none.raw', options)).toBe('corrupt');
});

it('takes no packed or foreign file for a raw disk, unless that is said', async () => {
  await writeFile(at('packed'), gzipSync(Buffer.alloc(4096)));
  await writeFile(at('foreign'), Buffer.concat([Buffer.from('vhdxfile'), Buffer.alloc(4096)]));
  for (const name of ['packed', 'foreign']) {
    expect(await reasonOf(name, { isRawElse: true })).toBe('unknown_format');
    expect(await inspectImage(at(name), { format: 'raw' })).toMatchObject({ format: 'raw' });
  }
});

it('leaves a raw disk raw that has a qcow2’s first bytes, where that is said', async () => {
  const disk = Buffer.alloc(4096);
  disk.writeUInt32BE(0x5146_49fb, 0);
  await writeFile(at('disguised'), disk);
  expect(await inspectImage(at('disguised'), { format: 'raw' })).toMatchObject({ format: 'raw' });
});
