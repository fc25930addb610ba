/** The definition that libvirt has of an instance, made from its spec and from where its parts are on this machine. */
import { existsSync } from 'node:fs';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { type DriverContext, DriverError, type InstanceSpec, type Ref } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { bridgeName, findLink, leasePortName } from '#libs/drivers/network';
import type { Accelerator } from './accelerator.js';
import { type DomainParts, domainXml } from './domain-xml.js';
import { domainName, type Places } from './places.js';
import type { Virsh } from './virsh.js';

export interface DefinitionParts {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
  places: Places;
  accelerator: Accelerator;
}

/** Throws DriverError `network_missing`. */
export async function definitionOf(
  parts: DefinitionParts,
  ref: Ref,
  spec: InstanceSpec,
  disks: DomainParts['disks'],
): Promise<string> {
  const { context, runner, places, accelerator } = parts;
  const { installation } = context;
  const interfaces = [];
  for (const { networkId, mac } of spec.interfaces) {
    const bridge = bridgeName(installation, networkId);
    const link = await findLink(runner, bridge);
    if (!link) throw new DriverError('network_missing', `The network ${networkId} is not on this node yet.`);
    interfaces.push({ mac, bridge, port: leasePortName(installation, networkId, mac), mtu: link.mtu });
  }
  const { seed, consoleLog } = places.of(ref.id);
  const name = domainName(installation, ref.id);
  return domainXml({ name, ref, spec, accelerator, disks, seed, consoleLog, interfaces });
}

/** Gives libvirt the definition unless it has this very one. A running machine takes a new one at its next start. */
export async function define(
  parts: DefinitionParts,
  ref: Ref,
  spec: InstanceSpec,
  disks: DomainParts['disks'],
): Promise<void> {
  const { context, virsh, places } = parts;
  const place = places.of(ref.id);
  const xml = await definitionOf(parts, ref, spec, disks);
  const last = existsSync(place.definition) ? await readFile(place.definition, 'utf8') : '';
  if (last === xml && (await virsh.state(domainName(context.installation, ref.id))) !== null) return;
  await rm(place.definition, { force: true });
  await writeFile(`${place.definition}.new`, xml);
  await virsh.run(['define', '--file', `${place.definition}.new`]);
  await rename(`${place.definition}.new`, place.definition);
}
