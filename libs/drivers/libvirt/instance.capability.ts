/**
 * Instances as libvirt domains: disk, definition and power converge to the spec whatever was there before. What is on
 * the machine is asked of libvirt; the directory of an instance only adds whose it is.
 */
import { existsSync } from 'node:fs';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import {
  type Capability,
  type DriverContext,
  DriverError,
  type Found,
  type InstanceSpec,
  type InstanceStatus,
  type Ref,
} from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { bridgeName, checkRef, findLink, leasePortName } from '#libs/drivers/network';
import type { Accelerator } from './accelerator.js';
import { limitConsoleLog, readConsoleLog } from './console.js';
import { ensureDisk } from './disk.js';
import { domainXml, metadataNamespace } from './domain-xml.js';
import { checkInstanceSpec } from './instance-spec.js';
import { domainName, instanceOf, type Places } from './places.js';
import { destroyDomain, isActive, powerStateOf, startDomain, stopDomain } from './power.js';
import { isNoDomain, type Virsh } from './virsh.js';
import { Known, watchInstances } from './watch.js';

export interface InstanceParts {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
  places: Places;
  accelerator: Accelerator;
  stopGraceMs: number;
}

/** Kind `instance`. Verbs: `reboot`. */
export function createInstanceCapability(parts: InstanceParts): Capability<InstanceSpec, InstanceStatus> {
  const { context, virsh, places } = parts;
  const known = new Known();
  const name = (ref: Ref) => domainName(context.installation, ref.id);
  const noted = (ref: Ref, status: InstanceStatus) => {
    known.note(ref.id, status);
    return status;
  };
  return {
    kind: 'instance',
    after: ['network'],
    async apply(ref, spec, signal) {
      checkRef(context.installation, ref);
      checkInstanceSpec(spec);
      return known.during(ref.id, async () => noted(ref, await apply(parts, ref, spec, signal)));
    },
    async remove(ref, signal) {
      checkRef(context.installation, ref);
      signal.throwIfAborted();
      await known.during(ref.id, () => remove(parts, ref));
      known.forget(ref.id);
    },
    async inventory() {
      const found = await inventory(parts);
      for (const { ref, status } of found) noted(ref, status);
      return found;
    },
    async operate(ref, verb, _args, signal) {
      checkRef(context.installation, ref);
      if (verb !== 'reboot') throw new DriverError('unknown_verb', `Unknown verb ${verb}.`, { permanent: true });
      if ((await virsh.state(name(ref))) === null) {
        throw new DriverError('not_found', 'There is no such instance on this node.', { permanent: true });
      }
      await known.during(ref.id, async () => {
        const { rebooting } = places.of(ref.id);
        await writeFile(rebooting, '', { flush: true });
        await stopDomain(parts, name(ref), signal);
        await startDomain(parts, name(ref));
        await rm(rebooting, { force: true });
        noted(ref, { powerState: 'running' });
      });
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
          },
        },
        onChange,
      ),
    consoleLog(ref, tailBytes) {
      checkRef(context.installation, ref);
      return readConsoleLog(places.of(ref.id), tailBytes);
    },
  };
}

async function apply(parts: InstanceParts, ref: Ref, spec: InstanceSpec, signal: AbortSignal): Promise<InstanceStatus> {
  const { virsh, places, context, runner } = parts;
  const domain = domainName(context.installation, ref.id);
  const place = places.of(ref.id);
  await places.claim(ref);
  const before = await virsh.state(domain);
  if (!isActive(before) && (spec.powerState === 'running' || !existsSync(place.disk))) {
    const image = await context.images.path(spec.image, signal);
    await ensureDisk(runner, place.disk, image, spec);
  }
  signal.throwIfAborted();
  await define(parts, ref, spec, before !== null);
  if (spec.powerState === 'running') await startDomain(parts, domain);
  else await stopDomain(parts, domain, signal);
  await rm(place.rebooting, { force: true });
  return { powerState: spec.powerState };
}

/** Gives libvirt the definition unless it has this very one. A running machine takes a new one at its next start. */
async function define(parts: InstanceParts, ref: Ref, spec: InstanceSpec, isDefined: boolean): Promise<void> {
  const { context, runner, virsh, places, accelerator } = parts;
  const { installation } = context;
  const place = places.of(ref.id);
  const interfaces = [];
  for (const { networkId, mac } of spec.interfaces) {
    const bridge = bridgeName(installation, networkId);
    const link = await findLink(runner, bridge);
    if (!link) throw new DriverError('network_missing', `The network ${networkId} is not on this node yet.`);
    interfaces.push({ mac, bridge, port: leasePortName(installation, networkId, mac), mtu: link.mtu });
  }
  const { disk, consoleLog } = place;
  const name = domainName(installation, ref.id);
  const xml = domainXml({ name, ref, spec, accelerator, disk, consoleLog, interfaces });
  const last = existsSync(place.definition) ? await readFile(place.definition, 'utf8') : '';
  if (isDefined && last === xml) return;
  await rm(place.definition, { force: true });
  await writeFile(`${place.definition}.new`, xml);
  await virsh.run(['define', '--file', `${place.definition}.new`]);
  await rename(`${place.definition}.new`, place.definition);
}

async function remove(parts: InstanceParts, ref: Ref): Promise<void> {
  const { virsh, places, context } = parts;
  const domain = domainName(context.installation, ref.id);
  await destroyDomain(parts, domain);
  try {
    const all = ['--managed-save', '--snapshots-metadata', '--checkpoints-metadata', '--nvram'];
    await virsh.run(['undefine', domain, ...all]);
  } catch (error) {
    if (!isNoDomain(error)) throw error;
  }
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
    const powerState = !isActive(state) && existsSync(places.of(id).rebooting) ? 'unknown' : powerStateOf(state);
    const damaged = powerState === 'unknown' && { damaged: true };
    if (ref) found.push({ ref, status: { powerState }, ...damaged });
    else context.log.warn({ instance: id }, 'something with an instance’s name is nobody’s; left as it is');
  }
  return found;
}

/** Whose a domain is, by what its definition says. */
async function refFromMetadata(virsh: Virsh, domain: string, id: string): Promise<Ref | null> {
  const xml = await virsh.run(['metadata', domain, '--uri', metadataNamespace]);
  const tenantId = /\btenant=["']([a-z0-9]{1,63})["']/.exec(xml)?.[1];
  return tenantId ? { tenantId, kind: 'instance', id } : null;
}
