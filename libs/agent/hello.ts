/** What a machine says of itself at the beginning of a stream: what it is, what it has, and what it knows already. */
import type { DriverLog } from '#libs/drivers/contract';
import type { Hello } from '#libs/rpc';
import { takeInventory } from './drift.js';
import type { Epoch } from './epoch.js';
import type { Installation } from './installation.js';
import type { Machine } from './machine.js';
import type { Wire } from './migration/index.js';
import type { KnownRevocations } from './revocations.js';

export interface HelloParts {
  /** As the settings of the agent have them. */
  readonly options: {
    version: string;
    labels: Record<string, string>;
    migration?: { advertise?: string };
    log: DriverLog;
  };
  readonly installation: Installation;
  readonly epoch: Epoch;
  readonly revocations: KnownRevocations;
  readonly wire: Wire;
}

/** `machine`: undefined before the first welcome, when there is no driver yet. */
export async function helloOf(machine: Machine | undefined, parts: HelloParts): Promise<Hello> {
  const { options, installation, epoch, revocations, wire } = parts;
  return {
    agentVersion: options.version,
    installationId: installation.id ?? '',
    driver: machine?.driver.name ?? '',
    capacity: await machine?.capacity(),
    labels: options.labels,
    inventory: machine ? await takeInventory(machine.driver, machine.reconciler) : [],
    kinds: machine?.driver.capabilities.map(({ kind }) => kind) ?? [],
    underlay: await underlayOf(machine, options),
    epoch: epoch.known,
    revocationsDigest: revocations.digest,
    sharedStorage: machine?.driver.sharedStorage?.() ?? undefined,
    migrationAddress: (wire.address && options.migration?.advertise) ?? wire.address ?? '',
  };
}

async function underlayOf(machine: Machine | undefined, { log }: HelloParts['options']): Promise<Hello['underlay']> {
  const underlay = await machine?.driver.underlay?.();
  if (!underlay) return undefined;
  const { address, port, networkMtu } = underlay;
  if (networkMtu === null)
    log.warn({ address }, 'the underlay address is on no link of this machine, or its link is not there');
  return { address, port, networkMtu: networkMtu ?? 0 };
}
