/**
 * Two real libvirts, each in a host of namespaces of its own, with one folder for the disks of both, as NFS would be: a
 * machine comes up on the other when its host is lost, moves there without a byte of its disks, and what one of them removes
 * is never what the other has.
 */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Wire } from '#libs/agent';
import type { DiskSpec, Incoming, InstanceSpec, Ref } from '#libs/drivers/contract';
import { machineState } from '#libs/drivers/host';
import { readJson } from '#libs/drivers/shared';
import { type CredentialsSource, initPki, issueCertificate, watchCredentials } from '#libs/pki';
import { canLab, never, refTo, Shell, VirtLab } from '../lab.js';
import { domainName } from '../places.js';

const log = { info() {}, warn() {}, error() {}, debug() {} };
const GIB = 1024 ** 3;
const [oneId, twoId] = [randomUUID(), randomUUID()];

describe.skipIf(!(await canLab('machines on storage that two libvirts share')))('on shared storage', () => {
  let dir: string;
  let before: Record<string, string>;
  let one: VirtLab;
  let two: VirtLab;
  let storageId: string;
  const wires: Wire[] = [];
  const credentials: CredentialsSource[] = [];
  const shared = () => ({ name: 'pool-a', dir });

  const wireOf = async (name: string) => {
    const source = await watchCredentials(await issueCertificate({ dir, type: 'node', name }));
    credentials.push(source);
    const wire = await Wire.start({ credentials: source, listen: '127.0.0.1:0', log });
    wires.push(wire);
    return wire;
  };

  beforeAll(async () => {
    before = await machineState();
    dir = await mkdtemp(join(tmpdir(), 'rz-shared-'));
    await chmod(dir, 0o711);
    await initPki({ dir });
    const installation = randomUUID().slice(0, 8);
    one = await VirtLab.open('rz-share-1', { installation, migration: await wireOf('node-1'), shared: shared() });
    two = await VirtLab.open('rz-share-2', { installation, migration: await wireOf('node-2'), shared: shared() });
    storageId = one.driver.sharedStorage!()!.id;
  }, 240_000);
  afterAll(async () => {
    await one?.close();
    await two?.close();
    for (const wire of wires) await wire.close();
    for (const source of credentials) source.close();
    await rm(dir, { recursive: true, force: true });
    expect(await machineState()).toEqual(before);
  }, 60_000);

  const on = (node: string, takeFrom: string[] = []) => ({
    shared: { storage: 'pool-a', storageId, node, takeFrom },
  });
  const fileOf = ({ id }: Ref) => join(dir, `rhyzome-${one.installation}`, 'disk', id, 'disk.qcow2');
  const states = async ({ id }: Ref) => {
    const name = domainName(one.installation, id);
    const runs = async (lab: VirtLab) =>
      (await lab.virsh('list', '--name', '--state-running')).split('\n').includes(name);
    return { one: await runs(one), two: await runs(two) };
  };
  const machine = async (powerState: InstanceSpec['powerState'] = 'running') => {
    const [disk, instance] = [refTo('disk'), refTo('instance')];
    const diskSpec: DiskSpec = { sizeBytes: GIB, image: one.image, snapshot: null };
    const spec: InstanceSpec = one.spec([disk], { powerState });
    await one.disks.apply(disk, { ...diskSpec, ...on(oneId) }, never);
    await one.instances.apply(instance, spec, never);
    return { disk, instance, diskSpec, spec };
  };
  const write = async (shell: Shell) => {
    await shell.run('dd if=/dev/urandom of=/dev/vda bs=1M count=8 seek=100; sync');
    return shell.run('dd if=/dev/vda bs=1M count=8 skip=100 2>/dev/null | md5sum | head -c 32');
  };
  const sumOf = (shell: Shell) => shell.run('dd if=/dev/vda bs=1M count=8 skip=100 2>/dev/null | md5sum | head -c 32');

  it('both see that it is the same', () => {
    expect(two.driver.sharedStorage!()).toEqual(one.driver.sharedStorage!());
  });

  it('a machine of a host that is off comes up on the other with all that it had written, and its snapshots', async () => {
    const { disk, instance, diskSpec, spec } = await machine();
    const shell = await Shell.open(one, instance);
    const written = await write(shell);
    const snapshot = refTo('snapshot');
    const held = await one.snapshots.apply(snapshot, { diskId: disk.id }, never);
    // While the file is the first one's, the other neither takes it nor opens it, and removes nothing of it.
    await expect(two.disks.apply(disk, { ...diskSpec, ...on(twoId) }, never)).rejects.toMatchObject({
      code: 'not_ours',
    });
    await two.disks.remove(disk, never);
    expect(existsSync(fileOf(disk))).toBe(true);
    // Were the first one still on, whatever its administrator says, the emulators' own locks keep the second out.
    await two.disks.apply(disk, { ...diskSpec, ...on(twoId, [oneId]) }, never);
    await expect(two.instances.apply(instance, spec, never)).rejects.toMatchObject({
      message: expect.stringMatching(/lock/),
    });
    expect(await states(instance)).toEqual({ one: true, two: false });

    await one.virsh('destroy', domainName(one.installation, instance.id));
    expect(await two.instances.apply(instance, spec, never)).toEqual({ powerState: 'running' });
    expect(await two.snapshots.apply(snapshot, { diskId: disk.id }, never)).toEqual(held);
    const moved = await Shell.open(two, instance);
    expect(await sumOf(moved)).toBe(written);

    // The first one is back: it starts nothing of it, and what it forgets stays the other's.
    await expect(one.instances.apply(instance, spec, never)).rejects.toMatchObject({ code: 'not_ours' });
    expect(await states(instance)).toEqual({ one: false, two: true });
    expect((await one.disks.inventory()).map(({ ref }) => ref.id)).toContain(disk.id);
    await one.instances.remove(instance, never);
    await one.snapshots.remove(snapshot, never);
    await one.disks.remove(disk, never);
    expect((await one.disks.inventory()).map(({ ref }) => ref.id)).not.toContain(disk.id);
    expect(existsSync(fileOf(disk))).toBe(true);
    expect(await sumOf(moved)).toBe(written);
    await two.snapshots.operate?.(snapshot, 'export', { operationId: 'kept' }, never);
    await two.instances.remove(instance, never);
    await two.snapshots.remove(snapshot, never);
    await two.disks.remove(disk, never);
    expect(existsSync(fileOf(disk))).toBe(false);
  }, 300_000);

  /** Moves it as the controller has it moved, and takes it away where it was. */
  const move = async (made: Awaited<ReturnType<typeof machine>>, mode: Incoming['mode']) => {
    const { disk, instance, diskSpec, spec } = made;
    const incoming: Incoming = { operationId: randomUUID(), from: 'node-1', mode };
    await two.disks.apply(disk, { ...diskSpec, ...on(twoId), incoming: { ...incoming, stays: true } }, never);
    await two.instances.apply(instance, { ...spec, incoming }, never);
    const to = { node: 'node-2', address: wires[1]!.address! };
    const [disks, operationId] = [[disk.id], incoming.operationId];
    const args = { operationId, to, mode, disks, shared: disks, mayStop: false };
    expect(await one.instances.operate?.(instance, 'migrate', args, never)).toEqual({ moved: true });
    expect(await readJson(join(fileOf(disk), '..', 'owner.json'))).toEqual({ node: twoId });
    await two.disks.apply(disk, { ...diskSpec, ...on(twoId) }, never);
    await two.instances.apply(instance, spec, never);
    await one.instances.remove(instance, never);
    await one.disks.remove(disk, never);
  };
  const removeAll = async (lab: VirtLab, { disk, instance }: Awaited<ReturnType<typeof machine>>) => {
    await lab.instances.remove(instance, never);
    await lab.disks.remove(disk, never);
    expect(existsSync(fileOf(disk))).toBe(false);
  };

  it('a machine moves while it runs, and its disk stays where it is', async () => {
    const made = await machine();
    const shell = await Shell.open(one, made.instance);
    await shell.run('kept=in-memory');
    const written = await write(shell);
    const { ino } = await stat(fileOf(made.disk));
    await move(made, 'live');
    expect(await states(made.instance)).toEqual({ one: false, two: true });
    expect((await stat(fileOf(made.disk))).ino).toBe(ino);
    const moved = await Shell.open(two, made.instance);
    expect(await moved.run('echo $kept')).toBe('in-memory');
    expect(await sumOf(moved)).toBe(written);
    await removeAll(two, made);
  }, 300_000);

  it('one that is off moves without a byte, too', async () => {
    const made = await machine('stopped');
    const { ino } = await stat(fileOf(made.disk));
    await move(made, 'cold');
    expect((await stat(fileOf(made.disk))).ino).toBe(ino);
    await removeAll(two, made);
  }, 120_000);

  it('one whose host is lost before it could let go of it is the other’s, with its file', async () => {
    const made = await machine('stopped');
    const { disk, instance, diskSpec, spec } = made;
    const incoming: Incoming = { operationId: randomUUID(), from: 'node-1', mode: 'cold' };
    await two.disks.apply(disk, { ...diskSpec, ...on(twoId), incoming: { ...incoming, stays: true } }, never);
    await two.instances.apply(instance, { ...spec, incoming }, never);
    const to = { node: 'node-2', address: wires[1]!.address! };
    const { stream } = await wires[0]!.open(to, incoming.operationId, 'state', { off: true }, never);
    stream.destroy();
    const fenced = { ...incoming, fenced: { mayRun: true } };
    expect(await two.instances.apply(instance, { ...spec, incoming: fenced }, never)).toMatchObject({
      powerState: 'stopped',
    });
    expect(await readJson(join(fileOf(disk), '..', 'owner.json'))).toEqual({ node: twoId });
    await two.disks.apply(disk, { ...diskSpec, ...on(twoId) }, never);
    await two.instances.apply(instance, spec, never);
    // The first one is back, and forgets it.
    await one.instances.remove(instance, never);
    await one.disks.remove(disk, never);
    expect(existsSync(fileOf(disk))).toBe(true);
    await removeAll(two, made);
  }, 120_000);

  it('a disk that no machine has goes to a host that does not share as a file, with its snapshots', async () => {
    const [disk, snapshot] = [refTo('disk'), refTo('snapshot')];
    const spec: DiskSpec = { sizeBytes: GIB, image: one.image, snapshot: null };
    await one.disks.apply(disk, spec, never);
    const held = await one.snapshots.apply(snapshot, { diskId: disk.id }, never);
    const incoming: Incoming = { operationId: randomUUID(), from: 'node-1', mode: 'cold', alone: true };
    await two.disks.apply(disk, { ...spec, incoming }, never);
    const to = { node: 'node-2', address: wires[1]!.address! };
    const [disks, operationId] = [[disk.id], incoming.operationId];
    const args = { operationId, to, mode: 'cold' as const, disks, mayStop: false };
    const sent = await readFile(one.diskPath(disk));
    expect(await one.disks.operate?.(disk, 'migrate', args, never)).toEqual({ moved: true });
    expect((await readFile(two.diskPath(disk))).equals(sent)).toBe(true);
    // Again, as after the death of an agent that had not told of it.
    expect(await one.disks.operate?.(disk, 'migrate', args, never)).toEqual({ moved: true });
    await two.disks.apply(disk, spec, never);
    expect(await two.snapshots.apply(snapshot, { diskId: disk.id }, never)).toEqual(held);
    await one.snapshots.remove(snapshot, never);
    await one.disks.remove(disk, never);
    await two.snapshots.remove(snapshot, never);
    await two.disks.remove(disk, never);
  }, 120_000);

  it('a move that is taken back leaves the file to the one that had it', async () => {
    const made = await machine('stopped');
    const { disk, diskSpec } = made;
    const incoming: Incoming = { operationId: randomUUID(), from: 'node-1', mode: 'live', stays: true };
    await two.disks.apply(disk, { ...diskSpec, ...on(twoId), incoming }, never);
    await two.disks.remove(disk, never);
    expect(existsSync(fileOf(disk))).toBe(true);
    await removeAll(one, made);
  }, 120_000);
});
