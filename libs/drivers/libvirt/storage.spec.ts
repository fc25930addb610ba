/** Disks and snapshots on a real QEMU, seen from inside a guest whose shell is typed at. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DiskSpec } from '#libs/drivers/contract';
import { canLab, never, refTo, Shell, VirtLab } from './lab.js';

const MiB = 1024 ** 2;

describe.skipIf(!(await canLab('disks and snapshots on libvirt')))('disks and snapshots', () => {
  let lab: VirtLab;
  let shell: Shell;
  const [boot, data, copy] = [refTo('disk'), refTo('disk'), refTo('disk')];
  const [first, second, third] = [refTo('snapshot'), refTo('snapshot'), refTo('snapshot')];
  const [instance, rival] = [refTo('instance'), refTo('instance')];
  const empty: DiskSpec = { sizeBytes: 32 * MiB, image: null, snapshot: null };
  const bootSpec = (): DiskSpec => ({ sizeBytes: 48 * MiB, image: lab.image, snapshot: null });
  const info = async (path: string) =>
    JSON.parse(await lab.host.exec(['qemu-img', 'info', '-U', '--output=json', '-f', 'qcow2', path]));

  beforeAll(async () => {
    lab = await VirtLab.open('rz-storage');
  }, 240_000);
  afterAll(() => lab?.close());

  it('makes disks once, thin on their image, and refuses what cannot be', async () => {
    expect(await lab.disks.apply(boot, bootSpec(), never)).toEqual({ sizeBytes: 48 * MiB });
    expect(await lab.disks.apply(data, empty, never)).toEqual({ sizeBytes: 32 * MiB });
    const { ino } = await stat(lab.diskPath(boot));
    await lab.disks.apply(boot, bootSpec(), never);
    expect((await stat(lab.diskPath(boot))).ino).toBe(ino);
    expect(await info(lab.diskPath(boot))).toMatchObject({
      'virtual-size': 48 * MiB,
      'backing-filename-format': 'qcow2',
      'full-backing-filename': join(lab.dir, 'tiny'),
    });
    expect((await stat(join(lab.diskPath(boot), '..'))).mode & 0o777).toBe(0o711);
    expect((await stat(lab.diskPath(boot))).mode & 0o777).toBe(0o600);
    const permanently = { code: 'invalid_spec', permanent: true };
    await expect(lab.disks.apply(data, { ...empty, sizeBytes: 16 * MiB }, never)).rejects.toMatchObject(permanently);
    await expect(lab.disks.apply(refTo('disk'), { ...bootSpec(), sizeBytes: MiB }, never)).rejects.toMatchObject(
      permanently,
    );
    expect(await lab.disks.imagesInUse?.()).toEqual(new Set([lab.image.sha256]));
    expect(await lab.disks.inventory()).toHaveLength(2);
  });

  it('attaches a disk to a machine that runs, grown while it is in use', async () => {
    await expect(lab.instances.apply(instance, lab.spec([boot, refTo('disk')]), never)).rejects.toMatchObject({
      code: 'disk_missing',
      permanent: false,
    });
    await lab.instances.apply(instance, lab.spec([boot]), never);
    shell = await Shell.open(lab, instance);
    expect(await shell.run('until [ -e /seed/meta-data ]; do sleep 0.2; done; ls /sys/block')).toMatch(/^sda +vda$/);
    await lab.instances.apply(instance, lab.spec([boot, data]), never);
    await lab.instances.apply(instance, lab.spec([boot, data]), never);
    expect(await shell.run('sleep 1; cat /sys/block/vdb/size /sys/block/vdb/serial')).toBe(
      `${(32 * MiB) / 512}\n${data.id.replaceAll('-', '').slice(0, 20)}`,
    );
    await shell.run('mke2fs -q /dev/vdb >/dev/null 2>&1; mount /dev/vdb /mnt');
    await shell.run('echo one > /mnt/file; sync');
    await lab.disks.apply(data, { ...empty, sizeBytes: 64 * MiB }, never);
    expect(await shell.run('cat /sys/block/vdb/size')).toBe(String((64 * MiB) / 512));
    await expect(lab.instances.apply(rival, lab.spec([data]), never)).rejects.toMatchObject({
      code: 'in_use',
      permanent: false,
    });
    await expect(lab.disks.remove(data, never)).rejects.toMatchObject({ code: 'in_use', permanent: false });
  }, 240_000);

  it('takes snapshots while the machine writes, each once, and copies what one held', async () => {
    const of = { diskId: data.id };
    expect(await lab.snapshots.apply(first, of, never)).toMatchObject({ virtualSizeBytes: 64 * MiB });
    await shell.run('echo two > /mnt/file; sync');
    await lab.snapshots.apply(second, of, never);
    await shell.run('echo three > /mnt/file; sync');
    await lab.snapshots.apply(third, of, never);
    const again = await lab.snapshots.apply(first, of, never);
    expect(again.sizeBytes).toBeGreaterThan(MiB / 4);
    expect((await lab.snapshots.inventory()).map(({ ref }) => ref.id).sort()).toEqual(
      [first.id, second.id, third.id].sort(),
    );
    await shell.run('( dd if=/dev/urandom of=/mnt/noise bs=64k count=64 2>/dev/null & )');
    const from = { diskId: data.id, snapshotId: first.id };
    await expect(
      lab.disks.apply(copy, { sizeBytes: 32 * MiB, image: null, snapshot: from }, never),
    ).rejects.toMatchObject({ code: 'invalid_spec' });
    await lab.disks.apply(copy, { sizeBytes: 80 * MiB, image: null, snapshot: from }, never);
    await lab.snapshots.remove(second, never);
    await lab.snapshots.remove(second, never);
    expect((await info(lab.diskPath(data))).snapshots.map(({ name }: { name: string }) => name).sort()).toEqual(
      [first.id, third.id].sort(),
    );
    await lab.instances.apply(instance, lab.spec([boot, data, copy]), never);
    await shell.run('sleep 1; mkdir /copy; mount /dev/vdc /copy');
    expect(await shell.run('cat /copy/file; cat /sys/block/vdc/size')).toBe(`one\n${(80 * MiB) / 512}`);
    expect(await shell.run('cat /mnt/file')).toBe('three');
  }, 240_000);

  it('copies the same from one snapshot, whatever its disk goes through meanwhile', async () => {
    await shell.run(
      '( while [ -e /mnt/file ]; do dd if=/dev/urandom of=/mnt/noise bs=16k count=256 conv=fsync; done 2>/dev/null & )',
    );
    const [snapshot, more] = [refTo('snapshot'), refTo('snapshot')];
    await lab.snapshots.apply(snapshot, { diskId: data.id }, never);
    const spec = { sizeBytes: 64 * MiB, image: null, snapshot: { diskId: data.id, snapshotId: snapshot.id } };
    const copies = [refTo('disk'), refTo('disk'), refTo('disk')];
    for (const one of copies) {
      await lab.disks.apply(one, spec, never);
      await lab.snapshots.apply(more, { diskId: data.id }, never);
      await lab.snapshots.remove(more, never);
    }
    const [a, ...others] = copies.map((one) => lab.diskPath(one)) as [string, string, string];
    for (const b of others) await lab.host.exec(['qemu-img', 'compare', '-f', 'qcow2', '-F', 'qcow2', a, b]);
    // Not because nothing was written.
    await lab.snapshots.apply(more, { diskId: data.id }, never);
    const later = refTo('disk');
    await lab.disks.apply(later, { ...spec, snapshot: { diskId: data.id, snapshotId: more.id } }, never);
    await expect(
      lab.host.exec(['qemu-img', 'compare', '-f', 'qcow2', '-F', 'qcow2', a, lab.diskPath(later)]),
    ).rejects.toThrow();
    await shell.run('mv /mnt/file /mnt/moved; sleep 2; mv /mnt/moved /mnt/file');
    for (const one of [...copies, later]) await lab.disks.remove(one, never);
    for (const one of [snapshot, more]) await lab.snapshots.remove(one, never);
  }, 240_000);

  it('detaches from a machine that runs, and the disk can go then', async () => {
    await shell.run('umount /copy');
    await lab.instances.apply(instance, lab.spec([boot, data]), never);
    expect(await shell.run('ls /sys/block')).toMatch(/^sda +vda +vdb$/);
    await lab.disks.remove(copy, never);
    await lab.disks.remove(copy, never);
    await expect(lab.disks.remove(data, never)).rejects.toMatchObject({ code: 'in_use' });
  }, 240_000);

  it('restores in place, only while the machine is off, also what was smaller', async () => {
    await lab.disks.apply(data, { ...empty, sizeBytes: 96 * MiB }, never);
    await expect(lab.snapshots.operate?.(first, 'restore', {}, never)).rejects.toMatchObject({ code: 'in_use' });
    expect(await shell.run('umount /mnt; mount /dev/vdb /mnt; cat /mnt/file')).toBe('three');
    const off = lab.spec([boot, data], { powerState: 'stopped' });
    await lab.instances.apply(instance, off, never);
    expect(shell.ended).toBe(true);
    await lab.snapshots.operate?.(first, 'restore', {}, never);
    expect(await info(lab.diskPath(data))).toMatchObject({ 'virtual-size': 96 * MiB });
    await lab.instances.apply(instance, lab.spec([boot, data]), never);
    shell = await Shell.open(lab, instance);
    expect(await shell.run('mount /dev/vdb /mnt; cat /mnt/file; cat /sys/block/vdb/size')).toBe(
      `one\n${(96 * MiB) / 512}`,
    );
  }, 240_000);

  it('exports what stands by itself, with nothing left here, and goes on after it was cut short', async () => {
    const ofBoot = refTo('snapshot');
    await lab.snapshots.apply(ofBoot, { diskId: boot.id }, never);
    await lab.disks.apply(boot, { ...bootSpec(), sizeBytes: 56 * MiB }, never);
    const put = lab.context.content.put;
    lab.context.content.put = () => Promise.reject(new Error('cut short'));
    const deed = () => lab.snapshots.operate?.(ofBoot, 'export', { operationId: 'op-1' }, never);
    await expect(deed()).rejects.toThrow('cut short');
    const dir = join(lab.context.stateDir, 'snapshot', ofBoot.id);
    const kept = await readFile(join(dir, 'export-op-1.qcow2'));
    lab.context.content.put = put;
    const result = await deed();
    const stored = lab.stored.get('op-1') as string;
    expect(await readFile(stored)).toEqual(kept);
    expect(result).toMatchObject({ sizeBytes: kept.length, virtualSizeBytes: 48 * MiB, format: 'qcow2' });
    expect(await info(stored)).toMatchObject({ 'virtual-size': 48 * MiB });
    expect(await info(stored)).not.toHaveProperty('backing-filename');
    await lab.host.exec(['qemu-img', 'compare', '-f', 'qcow2', '-F', 'qcow2', stored, join(lab.dir, 'tiny')]);
    expect((await readdir(dir)).filter((name) => name.startsWith('export'))).toEqual([]);
    await expect(lab.snapshots.operate?.(ofBoot, 'export', { operationId: '../x' }, never)).rejects.toMatchObject({
      code: 'invalid_spec',
    });
    await lab.snapshots.remove(ofBoot, never);
  }, 240_000);

  it('says of what is lost that it is lost, and makes nothing up', async () => {
    const off = lab.spec([boot, data], { powerState: 'stopped' });
    await lab.instances.apply(instance, off, never);
    await lab.host.exec(['qemu-img', 'snapshot', '-d', third.id, lab.diskPath(data)]);
    await expect(lab.snapshots.apply(third, { diskId: data.id }, never)).rejects.toMatchObject({
      code: 'snapshot_lost',
      permanent: true,
    });
    for (const machine of [instance, rival]) await lab.instances.remove(machine, never);
    await expect(lab.disks.remove(data, never)).rejects.toMatchObject({ code: 'in_use' });
    for (const snapshot of [first, third]) await lab.snapshots.remove(snapshot, never);
    await lab.host.exec(['rm', lab.diskPath(data)]);
    expect(await lab.disks.inventory()).toContainEqual({ ref: data, status: { sizeBytes: 0 }, damaged: true });
    await expect(lab.disks.apply(data, { ...empty, sizeBytes: 96 * MiB }, never)).rejects.toMatchObject({
      code: 'disk_lost',
      permanent: true,
    });
    for (const disk of [boot, data]) await lab.disks.remove(disk, never);
    for (const kind of ['disk', 'snapshot', 'instance']) {
      expect(await readdir(join(lab.context.stateDir, kind))).toEqual([]);
    }
  }, 240_000);
});
