/** Disks and snapshots after an agent that died at any point, after its images moved, and of images that would deceive. */
import { existsSync } from 'node:fs';
import { copyFile, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DiskSpec, Ref } from '#libs/drivers/contract';
import { writeJson } from './folders.js';
import { canLab, never, refTo, until, VirtLab } from './lab.js';

const MiB = 1024 ** 2;

describe.skipIf(!(await canLab('disks on libvirt after a crash')))('disks and snapshots after a crash', () => {
  let lab: VirtLab;
  const empty: DiskSpec = { sizeBytes: 8 * MiB, image: null, snapshot: null };
  const record = ({ kind, id }: Ref) => join(lab.context.stateDir, kind, id, `${kind}.json`);
  const img = (...argv: string[]) => lab.host.exec(['qemu-img', ...argv]);
  const io = (disk: Ref, command: string) =>
    lab.host.exec(['qemu-io', '-f', 'qcow2', '-c', command, lab.diskPath(disk)]);
  const snapshotsOf = async (disk: Ref) =>
    (JSON.parse(await img('info', '--output=json', lab.diskPath(disk))).snapshots ?? []).length;

  beforeAll(async () => {
    lab = await VirtLab.open('rz-crash');
  }, 240_000);
  afterAll(() => lab?.close());

  it('goes on with a disk that was being made, and keeps one that was', async () => {
    const disk = refTo('disk');
    await lab.disks.apply(disk, empty, never);
    await io(disk, 'write -P 7 0 1M');
    await writeJson(record(disk), { image: null, made: false });
    await lab.disks.apply(disk, empty, never);
    expect(JSON.parse(await readFile(record(disk), 'utf8'))).toEqual({ image: null, made: true });
    expect(await io(disk, 'read -P 7 0 1M')).not.toContain('verification failed');
    const other = refTo('disk');
    await lab.disks.apply(other, empty, never);
    await writeJson(record(other), { image: null, made: false });
    await rm(lab.diskPath(other));
    await writeFile(`${lab.diskPath(other)}.new`, 'cut short');
    await lab.disks.apply(other, empty, never);
    expect((await readdir(join(lab.diskPath(other), '..'))).sort()).toEqual(['disk.json', 'disk.qcow2', 'ref.json']);
  });

  it('takes a snapshot for what it is: made, or not made yet, never a second time', async () => {
    const [disk, snapshot] = [refTo('disk'), refTo('snapshot')];
    await lab.disks.apply(disk, empty, never);
    await io(disk, 'write -P 1 0 64k');
    await lab.snapshots.apply(snapshot, { diskId: disk.id }, never);
    const known = JSON.parse(await readFile(record(snapshot), 'utf8'));
    await io(disk, 'write -P 2 0 64k');
    await writeJson(record(snapshot), { ...known, made: false });
    await lab.snapshots.apply(snapshot, { diskId: disk.id }, never);
    expect(await snapshotsOf(disk)).toBe(1);
    await lab.snapshots.operate?.(snapshot, 'restore', {}, never);
    expect(await io(disk, 'read -P 1 0 64k')).not.toContain('verification failed');
    await img('snapshot', '-d', snapshot.id, lab.diskPath(disk));
    await writeJson(record(snapshot), { ...known, made: false });
    await lab.snapshots.apply(snapshot, { diskId: disk.id }, never);
    expect(await snapshotsOf(disk)).toBe(1);
    await expect(lab.snapshots.apply(snapshot, { diskId: refTo('disk').id }, never)).rejects.toMatchObject({
      code: 'invalid_spec',
    });
    await lab.snapshots.remove(snapshot, never);
    expect(await snapshotsOf(disk)).toBe(0);
  });

  it('finds its image again where it lies now', async () => {
    const disk = refTo('disk');
    const spec = { sizeBytes: 24 * MiB, image: lab.image, snapshot: null };
    await lab.disks.apply(disk, spec, never);
    const moved = join(lab.dir, 'moved, elsewhere');
    await copyFile(join(lab.dir, 'tiny'), moved);
    lab.context.images.path = async () => moved;
    await lab.disks.apply(disk, spec, never);
    expect(JSON.parse(await img('info', '--output=json', lab.diskPath(disk)))['full-backing-filename']).toBe(moved);
    await img('compare', '-f', 'qcow2', '-F', 'qcow2', lab.diskPath(disk), moved);
  });

  it('takes a raw image for raw, whatever it looks like', async () => {
    const secret = join(lab.dir, 'secret');
    await writeFile(secret, 'x'.repeat(4 * MiB));
    const raw = join(lab.dir, 'raw');
    await img('create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', secret, raw, String(4 * MiB));
    const { size } = await stat(raw);
    lab.context.images.path = async () => raw;
    const image = { sha256: 'a'.repeat(64), format: 'raw' as const, sizeBytes: size, virtualSizeBytes: size };
    const [disk, snapshot, copy] = [refTo('disk'), refTo('snapshot'), refTo('disk')];
    await lab.disks.apply(disk, { ...empty, image }, never);
    await lab.snapshots.apply(snapshot, { diskId: disk.id }, never);
    await lab.disks.apply(copy, { ...empty, snapshot: { diskId: disk.id, snapshotId: snapshot.id } }, never);
    const content = Buffer.concat([await readFile(raw), Buffer.alloc(8 * MiB - size)]);
    for (const one of [disk, copy]) {
      const out = join(lab.dir, 'out');
      await img('convert', '-f', 'qcow2', '-O', 'raw', lab.diskPath(one), out);
      expect((await readFile(out)).equals(content)).toBe(true);
    }
    expect(await lab.disks.imagesInUse?.()).toContain(image.sha256);
    expect((await stat(lab.diskPath(copy))).blocks * 512).toBeLessThan(MiB);
  });

  it('goes on with a long copy when a try is given up, and ends it when nobody wants it', async () => {
    const [disk, snapshot, copy] = [refTo('disk'), refTo('snapshot'), refTo('disk')];
    const large = { ...empty, sizeBytes: 512 * MiB };
    await lab.disks.apply(disk, large, never);
    await io(disk, 'write -P 9 0 400M');
    await lab.snapshots.apply(snapshot, { diskId: disk.id }, never);
    const spec = { ...large, snapshot: { diskId: disk.id, snapshotId: snapshot.id } };
    const part = `${lab.diskPath(copy)}.new`;
    const begun = async () => {
      const impatient = new AbortController();
      const tried = lab.disks.apply(copy, spec, impatient.signal);
      await until('a copy', () => existsSync(part), 10_000);
      impatient.abort(new Error('gave up'));
      await expect(tried).rejects.toThrow('gave up');
    };
    await begun();
    const { ino } = await stat(part);
    await lab.disks.apply(copy, spec, never);
    expect((await stat(lab.diskPath(copy))).ino).toBe(ino);
    expect(await io(copy, 'read -P 9 0 400M')).not.toContain('verification failed');
    await lab.disks.remove(copy, never);
    await begun();
    await lab.disks.remove(copy, never);
    expect(existsSync(join(lab.context.stateDir, 'disk', copy.id))).toBe(false);
  }, 60_000);

  it('does not stop for a copy that was given up, and lets others have their turn', async () => {
    const [disk, snapshot, copy] = [refTo('disk'), refTo('snapshot'), refTo('disk')];
    await lab.disks.apply(disk, empty, never);
    await lab.snapshots.apply(snapshot, { diskId: disk.id }, never);
    const spec = { ...empty, snapshot: { diskId: disk.id, snapshotId: snapshot.id } };
    await expect(lab.disks.apply(copy, spec, AbortSignal.timeout(5))).rejects.toThrow();
    await Promise.all([
      lab.disks.apply(copy, spec, never),
      lab.snapshots.apply(refTo('snapshot'), { diskId: disk.id }, never),
      lab.disks.apply(disk, { ...empty, sizeBytes: 16 * MiB }, never),
    ]);
    expect(await snapshotsOf(disk)).toBe(2);
    const missing = { diskId: disk.id, snapshotId: refTo('snapshot').id };
    await expect(lab.disks.apply(refTo('disk'), { ...empty, snapshot: missing }, never)).rejects.toMatchObject({
      code: 'snapshot_missing',
      permanent: false,
    });
  });
});
