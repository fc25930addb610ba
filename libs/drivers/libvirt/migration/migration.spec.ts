/**
 * Machines from one real libvirt to another, each in a host of namespaces of its own, over the agents' own way with
 * mutual TLS: live with memory and disks, cold with snapshots, broken off in the middle, and with the sender lost in its last.
 */

import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Wire } from '#libs/agent';
import type {
  DiskSpec,
  Incoming,
  InstanceSpec,
  MigrateArguments,
  MigrationProgress,
  MigrationWire,
  Ref,
} from '#libs/drivers/contract';
import { machineState } from '#libs/drivers/host';
import { type CredentialsSource, initPki, issueCertificate, watchCredentials } from '#libs/pki';
import { canLab, never, refTo, Shell, until, VirtLab } from '../lab.js';
import { domainName, openPlaces } from '../places.js';
import { type Outgoing, outgoingOf } from './records.js';

const log = { info() {}, warn() {}, error() {}, debug() {} };
const GIB = 1024 ** 3;

describe.skipIf(!(await canLab('machines that move between two libvirts')))('a machine moves', () => {
  let dir: string;
  let before: Record<string, string>;
  let one: VirtLab;
  let two: VirtLab;
  const wires: Wire[] = [];
  const credentials: CredentialsSource[] = [];
  /** Channels on which the second host does not hear the first one. */
  const deaf = new Set<string>();

  const wireOf = async (name: string) => {
    const files = await issueCertificate({ dir, type: 'node', name });
    const source = await watchCredentials(files);
    credentials.push(source);
    const wire = await Wire.start({ credentials: source, listen: '127.0.0.1:0', log });
    wires.push(wire);
    return wire;
  };

  beforeAll(async () => {
    before = await machineState();
    dir = await mkdtemp(join(tmpdir(), 'rz-moving-'));
    await initPki({ dir });
    const installation = randomUUID().slice(0, 8);
    const wire = await wireOf('node-1');
    const migration: MigrationWire = {
      expect: (...given) => wire.expect(...given),
      forget: (id) => wire.forget(id),
      open: (peer, id, channel, ...rest) =>
        deaf.has(channel) ? Promise.reject(new Error('deaf')) : wire.open(peer, id, channel, ...rest),
    };
    one = await VirtLab.open('rz-move-1', { installation, migration });
    two = await VirtLab.open('rz-move-2', { installation, migration: await wireOf('node-2') });
  }, 240_000);
  afterAll(async () => {
    await one?.close();
    await two?.close();
    for (const wire of wires) await wire.close();
    for (const source of credentials) source.close();
    await rm(dir, { recursive: true, force: true });
    expect(await machineState()).toEqual(before);
  }, 60_000);

  const active = async (lab: VirtLab, { id }: Ref) => {
    const name = domainName(lab.installation, id);
    return (await lab.virsh('list', '--name', '--state-running')).split('\n').includes(name);
  };
  const runsOn = async (ref: Ref) => ({ one: await active(one, ref), two: await active(two, ref) });

  /** One with a disk, running on the first host. */
  const machine = async (changes: Partial<InstanceSpec> = {}) => {
    const [disk, instance] = [refTo('disk'), refTo('instance')];
    const diskSpec: DiskSpec = { sizeBytes: GIB, image: one.image, snapshot: null };
    const spec = one.spec([disk], changes);
    await one.disks.apply(disk, diskSpec, never);
    await one.instances.apply(instance, spec, never);
    return { disk, instance, diskSpec, spec };
  };
  type Made = Awaited<ReturnType<typeof machine>>;

  const awaitOn = async (lab: VirtLab, { disk, instance, diskSpec, spec }: Made, incoming: Incoming) => {
    await lab.disks.apply(disk, { ...diskSpec, incoming }, never);
    return lab.instances.apply(instance, { ...spec, incoming }, never);
  };
  const argumentsFor = (made: Made, incoming: Incoming, mayStop = false): MigrateArguments => {
    const { operationId, mode } = incoming;
    const to = { node: 'node-2', address: wires[1]!.address! };
    return { operationId, to, mode, disks: [made.disk.id], mayStop };
  };
  const newMove = (mode: Incoming['mode']): Incoming => ({ operationId: randomUUID(), from: 'node-1', mode });
  const removeOn = async (lab: VirtLab, made: Made) => {
    await lab.instances.remove(made.instance, never);
    await lab.disks.remove(made.disk, never);
  };

  it('while it runs, with its memory and its disks, and runs there alone', async () => {
    const made = await machine();
    const shell = await Shell.open(one, made.instance);
    await shell.run('kept=in-memory; dd if=/dev/urandom of=/dev/vda bs=1M count=8 seek=100');
    const sum = 'dd if=/dev/vda bs=1M count=8 skip=100 2>/dev/null | md5sum | head -c 32';
    const written = await shell.run(sum);
    const move = newMove('live');
    expect(await awaitOn(two, made, move)).toEqual({ powerState: 'paused' });
    const progress: MigrationProgress[] = [];
    const outcome = await one.instances.operate?.(made.instance, 'migrate', argumentsFor(made, move), never, (now) =>
      progress.push(now),
    );
    expect(outcome).toEqual({ moved: true });
    expect(await runsOn(made.instance)).toEqual({ one: false, two: true });
    expect(progress.every(({ doneBytes, totalBytes }) => doneBytes <= totalBytes)).toBe(true);
    // Nothing starts it again here, whatever is still desired of it.
    expect(await one.instances.apply(made.instance, made.spec, never)).toEqual({ powerState: 'running' });
    expect(await runsOn(made.instance)).toEqual({ one: false, two: true });
    await two.disks.apply(made.disk, made.diskSpec, never);
    expect(await two.instances.apply(made.instance, made.spec, never)).toEqual({ powerState: 'running' });
    const moved = await Shell.open(two, made.instance);
    expect(await moved.run('echo $kept')).toBe('in-memory');
    expect(await moved.run(sum)).toBe(written);
    // Asked again, as after the death of an agent that had not told of it.
    expect(await one.instances.operate?.(made.instance, 'migrate', argumentsFor(made, move), never)).toEqual(outcome);
    await removeOn(one, made);
    expect(existsSync(one.diskPath(made.disk))).toBe(false);
    expect(await runsOn(made.instance)).toEqual({ one: false, two: true });
    await removeOn(two, made);
  }, 300_000);

  it('off, with the snapshots in its disk, and goes on where the sending broke off', async () => {
    const made = await machine();
    const shell = await Shell.open(one, made.instance);
    await shell.run('dd if=/dev/urandom of=/dev/vda bs=1M count=30 seek=100; sync');
    shell.close();
    const snapshot = refTo('snapshot');
    const held = await one.snapshots.apply(snapshot, { diskId: made.disk.id }, never);
    const move = newMove('cold');
    await awaitOn(two, made, move);
    await expect(
      one.instances.operate?.(made.instance, 'migrate', argumentsFor(made, move), never),
    ).rejects.toMatchObject({ code: 'in_use' });
    // The other node's connections end in the middle; the sending is repeated from where it stopped.
    const part = `${two.diskPath(made.disk)}.incoming`;
    const sending = one.instances.operate?.(made.instance, 'migrate', argumentsFor(made, move, true), never);
    await until('a part of the disk', () => existsSync(part));
    wires[1]!.forget(move.operationId);
    await awaitOn(two, made, move);
    expect(await sending).toEqual({ moved: true });
    expect(await runsOn(made.instance)).toEqual({ one: false, two: false });
    await two.disks.apply(made.disk, made.diskSpec, never);
    expect(await two.snapshots.apply(snapshot, { diskId: made.disk.id }, never)).toEqual(held);
    await two.instances.apply(made.instance, made.spec, never);
    expect(await runsOn(made.instance)).toEqual({ one: false, two: true });
    await one.instances.remove(made.instance, never);
    await one.snapshots.remove(snapshot, never);
    await one.disks.remove(made.disk, never);
    await two.instances.remove(made.instance, never);
    await two.snapshots.remove(snapshot, never);
    await two.disks.remove(made.disk, never);
  }, 300_000);

  it('and comes back when the move is abandoned in the middle, or the other node dies under it', async () => {
    const made = await machine();
    const shell = await Shell.open(one, made.instance);
    await shell.run('kept=in-memory; dd if=/dev/urandom of=/dev/vda bs=1M count=60 seek=100; sync');
    const move = newMove('live');
    await awaitOn(two, made, move);
    const name = domainName(one.installation, made.instance.id);
    const comesIn = () =>
      until('it to come in', async () => {
        const state = await two.virsh('domstate', '--reason', name).catch(() => '');
        return state.includes('migrating');
      });
    // Slow enough to be caught at it.
    await one.virsh('migrate-setspeed', name, '4');
    const sending = expect(
      one.instances.operate?.(made.instance, 'migrate', argumentsFor(made, move), never),
    ).rejects.toBeDefined();
    await comesIn();
    one.instances.interrupt?.(made.instance, 'abandon', { operationId: move.operationId });
    await sending;
    const abandon = { operationId: move.operationId };
    expect(await one.instances.operate?.(made.instance, 'abandon', abandon, never)).toEqual({ moved: false });
    await removeOn(two, made);
    expect(await runsOn(made.instance)).toEqual({ one: true, two: false });

    const again = newMove('live');
    await awaitOn(two, made, again);
    const dying = expect(
      one.instances.operate?.(made.instance, 'migrate', argumentsFor(made, again), never),
    ).rejects.toMatchObject({ code: 'migration_failed', permanent: true });
    await comesIn();
    await two.virsh('destroy', name);
    await dying;
    expect(await runsOn(made.instance)).toEqual({ one: true, two: false });
    expect(await shell.run('echo $kept')).toBe('in-memory');
    await removeOn(two, made);
    await removeOn(one, made);
  }, 300_000);

  /** Sends it until it has come so far that the sender does not get past, where its agent dies. */
  const sendUntil = async (made: Made, move: Incoming, phase: Outgoing['phase'], channel: string) => {
    deaf.add(channel);
    await awaitOn(two, made, move);
    const agent = new AbortController();
    const sending = one.instances.operate?.(made.instance, 'migrate', argumentsFor(made, move), agent.signal);
    const place = openPlaces(one.context.stateDir).of(made.instance.id);
    await until(`it is ${phase}`, async () => (await outgoingOf(place))?.phase === phase);
    agent.abort(new Error('the agent dies'));
    await expect(sending).rejects.toThrow('the agent dies');
    deaf.clear();
  };
  afterEach(() => deaf.clear());
  const fenced = (move: Incoming, mayRun = true): Incoming => ({ ...move, fenced: { mayRun } });

  it('and is let run where it is whole, when the one that had it is lost before it could let go', async () => {
    const made = await machine();
    const shell = await Shell.open(one, made.instance);
    await shell.run('kept=in-memory');
    // It had not said that it is off there: it may have gone on since, for all that is known here.
    const unsaid = newMove('live');
    await sendUntil(made, unsaid, 'gone', 'state');
    expect(await runsOn(made.instance)).toEqual({ one: false, two: false });
    const closed = { powerState: 'paused', closed: true };
    expect(await awaitOn(two, made, fenced(unsaid))).toEqual(closed);
    const { operationId } = unsaid;
    const late = one.context.migration.open(argumentsFor(made, unsaid).to, operationId, 'release', {}, never);
    await expect(late).rejects.toMatchObject({ code: 'not_expected' });
    const back = { operationId, settled: 'here' };
    expect(await one.instances.operate?.(made.instance, 'abandon', back, never)).toEqual({ moved: false });
    expect(await runsOn(made.instance)).toEqual({ one: true, two: false });
    await removeOn(two, made);

    shell.close();
    const again = await Shell.open(one, made.instance);
    await again.run('kept=anew');
    const said = newMove('live');
    await sendUntil(made, said, 'releasing', 'release');
    expect(await runsOn(made.instance)).toEqual({ one: false, two: false });
    expect(await awaitOn(two, made, fenced(said, false))).toEqual(closed);
    expect(await awaitOn(two, made, fenced(said))).toEqual({ powerState: 'running', closed: true });
    expect(await awaitOn(two, made, fenced(said))).toEqual({ powerState: 'running', closed: true });
    expect(await runsOn(made.instance)).toEqual({ one: false, two: true });
    await two.disks.apply(made.disk, made.diskSpec, never);
    expect(await two.instances.apply(made.instance, made.spec, never)).toEqual({ powerState: 'running' });
    expect(await (await Shell.open(two, made.instance)).run('echo $kept')).toBe('anew');
    // The first one is back.
    await one.instances.apply(made.instance, made.spec, never);
    const theirs = { operationId: said.operationId, settled: 'there' };
    expect(await one.instances.operate?.(made.instance, 'abandon', theirs, never)).toEqual({ moved: true });
    expect(await runsOn(made.instance)).toEqual({ one: false, two: true });
    await removeOn(one, made);
    expect(await runsOn(made.instance)).toEqual({ one: false, two: true });
    await removeOn(two, made);
  }, 300_000);

  it('and so is one that was off, with its disk', async () => {
    const made = await machine({ powerState: 'stopped' });
    const move = newMove('cold');
    await sendUntil(made, move, 'releasing', 'release');
    expect(await awaitOn(two, made, fenced(move))).toEqual({ powerState: 'stopped', closed: true });
    await two.disks.apply(made.disk, made.diskSpec, never);
    expect(await two.instances.apply(made.instance, made.spec, never)).toEqual({ powerState: 'stopped' });
    expect(existsSync(two.diskPath(made.disk))).toBe(true);
    await removeOn(one, made);
    await removeOn(two, made);
  }, 120_000);
});
