/** What a hand, a crash or a lost folder left on a real libvirt: what looks like ours is told and can be removed, the rest stays. */
import { randomUUID } from 'node:crypto';
import { cp, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DiskSpec, Ref } from '#libs/drivers/contract';
import { canLab, never, refTo, VirtLab } from './lab.js';
import { domainName } from './places.js';

describe.skipIf(!(await canLab('orphans on libvirt')))('what nobody owns', () => {
  let lab: VirtLab;
  const [boot, instance] = [refTo('disk'), refTo('instance')];
  const folder = (ref: Ref) => join(lab.context.stateDir, ref.kind, ref.id);
  const domains = async () => (await lab.virsh('list', '--all', '--name')).split('\n').filter(Boolean).sort();
  const told = async (kind: 'disks' | 'instances') =>
    (await lab[kind].inventory()).map(({ ref }) => `${ref.tenantId} ${ref.kind} ${ref.id}`).sort();
  const named = (ref: Ref) => `${ref.tenantId} ${ref.kind} ${ref.id}`;

  /** A domain as somebody defines one, without our mark in it. */
  async function define(name: string): Promise<void> {
    const file = join(lab.dir, `${name}.xml`);
    const type = '<os><type arch="x86_64">hvm</type></os>';
    await writeFile(file, `<domain type="qemu"><name>${name}</name><memory unit="MiB">16</memory>${type}</domain>`);
    await lab.virsh('define', file);
  }

  beforeAll(async () => {
    lab = await VirtLab.open('rz-orphans');
    const spec: DiskSpec = { sizeBytes: 48 * 1024 ** 2, image: lab.image, snapshot: null };
    await lab.disks.apply(boot, spec, never);
    await lab.instances.apply(instance, lab.spec([boot]), never);
  }, 240_000);
  afterAll(() => lab?.close());

  it('is a machine whose folder is gone: told by the mark in its domain, and removed with it', async () => {
    await rm(folder(instance), { recursive: true });
    await lab.driver.close();
    await lab.startDriver();
    expect(await told('instances')).toEqual([named(instance)]);
    await lab.instances.remove(instance, never);
    expect(await domains()).toEqual([]);
    expect(await told('instances')).toEqual([]);
    // Its disk is nobody's business here.
    expect(await told('disks')).toEqual([named(boot)]);
  }, 240_000);

  it('is a disk that was copied by hand with its note; it goes alone', async () => {
    const copy = { ...refTo('disk'), tenantId: 'lost' };
    await cp(folder(boot), folder(copy), { recursive: true });
    await writeFile(join(folder(copy), 'ref.json'), JSON.stringify(copy));
    expect(await told('disks')).toEqual([named(boot), named(copy)].sort());
    await lab.disks.remove(copy, never);
    expect(await told('disks')).toEqual([named(boot)]);
    expect((await stat(lab.diskPath(boot))).size).toBeGreaterThan(0);
  }, 60_000);

  it('is not what has our name and no mark, nor what has another installation’s: nobody is told, and it stays', async () => {
    const unmarked = domainName(lab.installation, randomUUID());
    const others = domainName('0a1b2c3d', randomUUID());
    for (const name of [unmarked, others, 'by-hand']) await define(name);
    const noteless = refTo('disk');
    await mkdir(folder(noteless));
    await cp(lab.diskPath(boot), join(folder(noteless), 'disk.qcow2'));
    expect(await told('instances')).toEqual([]);
    expect(await told('disks')).toEqual([named(boot)]);
    await lab.disks.remove(boot, never);
    expect(await domains()).toEqual([unmarked, others, 'by-hand'].sort());
    expect(await readdir(folder(noteless))).toEqual(['disk.qcow2']);
  }, 60_000);
});
