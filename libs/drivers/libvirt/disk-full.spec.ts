/** A node whose disk is full: what is asked for fails with the reason, and what was there is as it was. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DiskSpec } from '#libs/drivers/contract';
import { canLab, never, refTo, Shell, until, VirtLab } from './lab.js';

const MiB = 1024 ** 2;
const full = { code: 'disk_full', permanent: true };

describe.skipIf(!(await canLab('a full disk on libvirt')))('a full disk', () => {
  let lab: VirtLab;
  const [boot, data] = [refTo('disk'), refTo('disk')];
  const [kept, refused] = [refTo('snapshot'), refTo('snapshot')];
  const instance = refTo('instance');
  const empty: DiskSpec = { sizeBytes: 64 * MiB, image: null, snapshot: null };
  const stateDir = () => lab.context.stateDir;
  const filler = () => join(stateDir(), 'filler');
  /** Leaves so much room on the disk. */
  const fill = async (leave: number) => {
    const free = Number(await lab.host.exec(['stat', '-f', '-c', '%a', stateDir()])) * 4096;
    await lab.host.exec(['fallocate', '-l', String(free - leave), filler()]);
  };
  const free = () => lab.host.exec(['rm', '-f', filler()]);
  const check = (disk: typeof data) => lab.host.exec(['qemu-img', 'check', '-q', '-f', 'qcow2', lab.diskPath(disk)]);
  const files = async (kind: string, id: string) => (await readdir(join(stateDir(), kind, id))).sort();

  beforeAll(async () => {
    lab = await VirtLab.open('rz-full', {
      stateDir: async ({ host }) => {
        await host.exec(['mount', '-t', 'tmpfs', '-o', 'size=160m', 'full', '/mnt']);
        // The host's own mount, by a path that holds on both sides.
        return `/proc/${host.pid}/root/mnt/state`;
      },
    });
    await lab.disks.apply(boot, { ...empty, image: lab.image }, never);
    await lab.disks.apply(data, empty, never);
    await lab.instances.apply(instance, lab.spec([boot, data]), never);
    const shell = await Shell.open(lab, instance);
    await shell.run('mke2fs -q /dev/vdb >/dev/null 2>&1; mount /dev/vdb /mnt; echo old > /mnt/file');
    await shell.run(
      'dd if=/dev/urandom of=/mnt/noise bs=64k count=256 2>/dev/null; md5sum /mnt/noise > /mnt/sum; sync',
    );
    await lab.snapshots.apply(kept, { diskId: data.id }, never);
    await shell.run('echo new > /mnt/file; sync');
    shell.close();
  }, 240_000);
  afterAll(() => lab?.close());

  it('makes no disk, no snapshot of a machine that runs, no copy and no export, and leaves nothing', async () => {
    await fill(128 * 1024);
    await expect(lab.disks.apply(refTo('disk'), { ...empty, image: lab.image }, never)).rejects.toMatchObject(full);
    await expect(lab.snapshots.apply(refused, { diskId: data.id }, never)).rejects.toMatchObject(full);
    const copy = refTo('disk');
    const from = { diskId: data.id, snapshotId: kept.id };
    await expect(lab.disks.apply(copy, { ...empty, snapshot: from }, never)).rejects.toMatchObject(full);
    expect(await files('disk', copy.id)).toEqual(['disk.json', 'ref.json']);
    await expect(lab.snapshots.operate?.(kept, 'export', { operationId: 'op' }, never)).rejects.toMatchObject(full);
    expect(await files('snapshot', kept.id)).toEqual(['ref.json', 'snapshot.json']);
    expect(await readdir(join(stateDir(), 'snapshot'))).toEqual([kept.id]);
    await free();
    await lab.snapshots.remove(refused, never);
    await lab.disks.remove(copy, never);
    await lab.snapshots.apply(refused, { diskId: data.id }, never);
    await lab.snapshots.remove(refused, never);
  }, 240_000);

  it('lets what is there be read and written again as soon as there is room', async () => {
    const shell = await Shell.open(lab, instance);
    expect(await shell.run('cat /mnt/file; md5sum -c /mnt/sum')).toBe('new\n/mnt/noise: OK');
    shell.close();
  }, 240_000);

  it('halts a machine that finds no room to write, says so, and lets it go on', async () => {
    const shell = await Shell.open(lab, instance);
    await fill(128 * 1024);
    const writing = shell.run('dd if=/dev/urandom of=/mnt/more bs=64k count=64 2>/dev/null; sync; wc -c < /mnt/more');
    const power = async () => (await lab.instances.inventory())[0]?.status.powerState;
    await until('a halt', async () => (await power()) === 'paused');
    await free();
    await lab.instances.apply(instance, lab.spec([boot, data]), never);
    expect(await writing).toBe(String(4 * MiB));
    expect(await power()).toBe('running');
    shell.close();
  }, 240_000);

  it('restores nothing in part', async () => {
    await lab.instances.apply(instance, lab.spec([boot, data], { powerState: 'stopped' }), never);
    await fill(128 * 1024);
    await expect(lab.snapshots.operate?.(kept, 'restore', {}, never)).rejects.toMatchObject(full);
    await expect(lab.snapshots.apply(refused, { diskId: data.id }, never)).rejects.toMatchObject(full);
    await check(data);
    // What needs no room goes on.
    await lab.disks.apply(data, empty, never);
    await lab.instances.apply(instance, lab.spec([boot, data], { powerState: 'stopped' }), never);
    const told = lab.spec([boot, data]);
    const greater = { ...told, guest: { ...told.guest, userData: 'x'.repeat(300_000) } };
    await lab.host.exec(['sh', '-c', `cat /dev/zero > ${filler()}2 || true`]);
    await expect(lab.instances.apply(instance, greater, never)).rejects.toMatchObject({
      code: 'disk_full',
      permanent: false,
    });
    await lab.host.exec(['rm', `${filler()}2`]);
    await free();
    await lab.instances.apply(instance, lab.spec([boot, data]), never);
    const shell = await Shell.open(lab, instance);
    expect(await shell.run('mount /dev/vdb /mnt; cat /mnt/file; md5sum -c /mnt/sum')).toBe('new\n/mnt/noise: OK');
    shell.close();
    await lab.instances.apply(instance, lab.spec([boot, data], { powerState: 'stopped' }), never);
    await lab.snapshots.operate?.(kept, 'restore', {}, never);
    await check(data);
  }, 240_000);
});
