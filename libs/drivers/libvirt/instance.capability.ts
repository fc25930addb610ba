/**
 * Instances as libvirt domains: definition, attached disks, seed and power converge to the spec whatever was there before.
 * What is on the machine is asked of libvirt; the directory of an instance only adds whose it is.
 */
import { existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import {
  type Capability,
  type DriverContext,
  DriverError,
  type Found,
  type InstanceSpec,
  type InstanceStatus,
  type Metric,
  type Ref,
} from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { checkRef } from '#libs/drivers/network';
import type { Accelerator } from './accelerator.js';
import { limitConsoleLog, readConsoleLog } from './console.js';
import { define } from './definition.js';
import type { Disks } from './disks.js';
import { metadataNamespace } from './domain-xml.js';
import { adjustDisks } from './hotplug.js';
import { checkInstanceSpec } from './instance-spec.js';
import { macsOf, metricsOf } from './metrics.js';
import { isAbandon } from './migration/arguments.js';
import { Arrivals } from './migration/arrivals.js';
import { Departures } from './migration/departures.js';
import { awaitedOf, outgoingOf } from './migration/records.js';
import { domainName, instanceOf, type Place, type Places } from './places.js';
import { destroyDomain, isActive, powerStateOf, startDomain, stopDomain } from './power.js';
import { toDiskError } from './qcow2.js';
import { ensureSeed, seedFiles, wantSeed } from './seed.js';
import { SerialLines } from './serial-line.js';
import type { SnapshotRecords } from './snapshot-records.js';
import { isNoDomain, isNoMetadata, type Virsh } from './virsh.js';
import { Known, watchInstances } from './watch.js';

export interface InstanceParts {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
  places: Places;
  disks: Disks;
  snapshots: SnapshotRecords;
  accelerator: Accelerator;
  /** Where the machine's / lies for this process; empty unless it looks into another mount namespace. */
  root: string;
  stopGraceMs: number;
  releaseGraceMs: number;
  /** Called every now and then while somebody watches. */
  tend(): Promise<void>;
}

/** Kind `instance`. Verbs: `reboot`, `reset`; `migrate` and `abandon`, with the contract's arguments. */
export function createInstanceCapability(parts: InstanceParts): Capability<InstanceSpec, InstanceStatus> {
  const { context, virsh, places } = parts;
  const known = new Known();
  const lines = new SerialLines(virsh);
  const arrivals = new Arrivals(parts);
  const departures = new Departures(parts);
  const noted = (ref: Ref, status: InstanceStatus) => {
    known.note(ref.id, status);
    return status;
  };
  return {
    kind: 'instance',
    after: ['network', 'disk'],
    async apply(ref, spec, signal) {
      checkRef(context.installation, ref);
      checkInstanceSpec(spec);
      return known.during(ref.id, async () => {
        try {
          const outgoing = await outgoingOf(places.of(ref.id));
          // What was sent away is started by nobody here until it is known whose it is.
          if (outgoing) return noted(ref, { powerState: outgoing.wasRunning ? 'running' : 'stopped' });
          if (spec.incoming) {
            await arrivals.expect(ref, spec, spec.incoming);
            const state = await virsh.state(domainName(context.installation, ref.id));
            const place = places.of(ref.id);
            return noted(ref, {
              powerState: (await movingState(place)) ?? powerStateOf(state),
              ...(await closedNote(place)),
            });
          }
          await arrivals.settle(ref.id);
          return noted(ref, await apply(parts, ref, spec, signal));
        } catch (error) {
          throw toDiskError(error, false);
        }
      });
    },
    async remove(ref, signal) {
      checkRef(context.installation, ref);
      signal.throwIfAborted();
      await known.during(ref.id, async () => {
        await arrivals.drop(ref.id);
        await remove(parts, ref);
      });
      known.forget(ref.id);
    },
    async halt(ref) {
      checkRef(context.installation, ref);
      await known.during(ref.id, async () => {
        await destroyDomain(parts, domainName(context.installation, ref.id));
      });
    },
    async inventory() {
      const found = await inventory(parts);
      for (const { ref, status } of found) noted(ref, status);
      return found;
    },
    interrupt(ref, verb, args) {
      if (verb === 'abandon' && isAbandon(args)) departures.interrupt(ref.id, args);
    },
    async operate(ref, verb, args, signal, progress = () => {}) {
      checkRef(context.installation, ref);
      if (verb === 'migrate') return known.during(ref.id, () => departures.migrate(ref, args, signal, progress));
      if (verb === 'abandon' && isAbandon(args)) {
        return known.during(ref.id, () => departures.abandon(ref, args, signal));
      }
      const deed = deeds.get(verb);
      if (!deed) throw new DriverError('unknown_verb', `Unknown verb ${verb}.`, { permanent: true });
      await known.during(ref.id, async () => {
        await deed(parts, ref, signal);
        noted(ref, { powerState: 'running' });
      });
      return undefined;
    },
    watch: (onChange) =>
      watchInstances(
        {
          virsh,
          known,
          log: context.log,
          inventory: () => inventory(parts),
          tend: async () => {
            for (const id of await places.ids()) await limitConsoleLog(places.of(id));
            await parts.tend();
          },
        },
        onChange,
      ),
    consoleLog(ref, tailBytes) {
      checkRef(context.installation, ref);
      return readConsoleLog(places.of(ref.id), tailBytes);
    },
    async console(ref) {
      checkRef(context.installation, ref);
      return lines.take(domainName(context.installation, ref.id));
    },
    metrics: () => metrics(parts),
  };
}

async function apply(parts: InstanceParts, ref: Ref, spec: InstanceSpec, signal: AbortSignal): Promise<InstanceStatus> {
  const { places, disks, context } = parts;
  const domain = domainName(context.installation, ref.id);
  const place = places.of(ref.id);
  await places.claim(ref);
  await wantSeed(place, seedFiles(ref, spec));
  if (spec.powerState === 'stopped') await stopDomain(parts, domain, signal);
  const attached = await disks.attachedTo(ref.id);
  const wanted = spec.disks.map((disk) => ({ ...disk, path: disks.path(disk.diskId) }));
  const ids = wanted.map(({ diskId }) => diskId);
  await disks.using([...attached, ...ids], signal, async () => {
    for (const id of ids) await disks.attach(id, ref.id);
    await define(parts, ref, spec, wanted);
    await adjustDisks(parts, domain, place, wanted, (path) => disks.idOf(path) !== null, signal);
    if (spec.powerState === 'running') await start(parts, ref);
    for (const id of attached) if (!ids.includes(id)) await disks.detach(id, ref.id);
  });
  await rm(place.rebooting, { force: true });
  return { powerState: spec.powerState };
}

/** What is off first gets what its guest is to be told. */
async function start(parts: InstanceParts, ref: Ref): Promise<void> {
  const { virsh, places, runner, context } = parts;
  const domain = domainName(context.installation, ref.id);
  if (!isActive(await virsh.state(domain))) await ensureSeed(runner, places.of(ref.id));
  await startDomain(parts, domain);
}

/** Off and on again, with what its definition says by now. */
async function reboot(parts: InstanceParts, ref: Ref, signal: AbortSignal): Promise<void> {
  const { virsh, places, disks, context } = parts;
  const domain = domainName(context.installation, ref.id);
  if ((await virsh.state(domain)) === null) {
    throw new DriverError('not_found', 'There is no such instance on this node.', { permanent: true });
  }
  const { rebooting } = places.of(ref.id);
  await writeFile(rebooting, '', { flush: true });
  await stopDomain(parts, domain, signal);
  await disks.using(await disks.attachedTo(ref.id), signal, () => start(parts, ref));
  await rm(rebooting, { force: true });
}

/** As the button on a machine does it: the guest is not asked. */
async function reset({ virsh, context }: InstanceParts, ref: Ref): Promise<void> {
  const domain = domainName(context.installation, ref.id);
  if (!isActive(await virsh.state(domain))) {
    throw new DriverError('not_running', 'The instance is off.', { permanent: true });
  }
  await virsh.run(['reset', domain]);
}

async function remove(parts: InstanceParts, ref: Ref): Promise<void> {
  const { virsh, places, disks, context } = parts;
  const domain = domainName(context.installation, ref.id);
  await destroyDomain(parts, domain);
  try {
    const all = ['--managed-save', '--snapshots-metadata', '--checkpoints-metadata', '--nvram'];
    await virsh.run(['undefine', domain, ...all]);
  } catch (error) {
    if (!isNoDomain(error)) throw error;
  }
  for (const id of await disks.attachedTo(ref.id)) await disks.detach(id, ref.id);
  await places.release(ref.id);
}

async function inventory(parts: InstanceParts): Promise<Found<InstanceStatus>[]> {
  const { virsh, places, context } = parts;
  const states = await virsh.states();
  const ids = new Set(await places.ids());
  for (const domain of states.keys()) {
    const id = instanceOf(context.installation, domain);
    if (id) ids.add(id);
  }
  const found: Found<InstanceStatus>[] = [];
  for (const id of ids) {
    const domain = domainName(context.installation, id);
    const state = states.get(domain) ?? null;
    const ref = (await places.ref(id)) ?? (state && (await refFromMetadata(virsh, domain, id)));
    const moving = await movingState(places.of(id));
    const isRebooting = !isActive(state) && existsSync(places.of(id).rebooting);
    const powerState = moving ?? (isRebooting ? 'unknown' : powerStateOf(state));
    const damaged = powerState === 'unknown' && { damaged: true };
    const status = { powerState, ...(await closedNote(places.of(id))) };
    if (ref) found.push({ ref, status, ...damaged });
    else context.log.warn({ instance: id }, 'something with an instance’s name is nobody’s; left as it is');
  }
  return found;
}

/** Of one that is on its way, whatever libvirt says of it at the moment; null: it is on none, or was let go here. */
async function movingState(place: Place): Promise<InstanceStatus['powerState'] | null> {
  const outgoing = await outgoingOf(place);
  if (outgoing) return outgoing.wasRunning ? 'running' : 'stopped';
  const awaited = await awaitedOf(place);
  if (!awaited) return null;
  if (!awaited.released) return 'paused';
  return awaited.mode === 'cold' ? 'stopped' : null;
}

async function closedNote(place: Place): Promise<Pick<InstanceStatus, 'closed'>> {
  return (await awaitedOf(place))?.closed ? { closed: true } : {};
}

const deeds = new Map<string, (parts: InstanceParts, ref: Ref, signal: AbortSignal) => Promise<void>>([
  ['reboot', reboot],
  ['reset', reset],
]);

async function metrics({ virsh, places, disks, context }: InstanceParts): Promise<{ ref: Ref; metrics: Metric[] }[]> {
  const all = [];
  for (const [domain, stats] of await virsh.stats()) {
    const id = instanceOf(context.installation, domain);
    const ref = id && (await places.ref(id));
    if (!ref) continue;
    const { definition } = places.of(ref.id);
    const macs = existsSync(definition) ? macsOf(await readFile(definition, 'utf8')) : new Map<string, string>();
    all.push({ ref, metrics: metricsOf(stats, { diskOf: (path) => disks.idOf(path), macs }) });
  }
  return all;
}

/** Whose a domain is, by what its definition says. Null: somebody defined it by hand, or it is gone since. */
async function refFromMetadata(virsh: Virsh, domain: string, id: string): Promise<Ref | null> {
  let xml: string;
  try {
    xml = await virsh.run(['metadata', domain, '--uri', metadataNamespace]);
  } catch (error) {
    if (isNoMetadata(error) || isNoDomain(error)) return null;
    throw error;
  }
  const tenantId = /\btenant=["']([a-z0-9]{1,63})["']/.exec(xml)?.[1];
  return tenantId ? { tenantId, kind: 'instance', id } : null;
}
