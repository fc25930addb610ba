/** Power of a domain: started, shut down by its guest, or cut off when the guest does not within the limit. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { InstanceStatus } from '#libs/drivers/contract';
import { type DomainState, domainState, isNoDomain, type Virsh } from './virsh.js';

/** How often the power button is pressed while a guest does not react (one that boots misses it). */
const pressEveryMs = 5000;
const pollMs = 200;

export interface Power {
  virsh: Virsh;
  /** How long a guest has to shut down. */
  stopGraceMs: number;
}

/** virDomainShutoffReason: by the guest (or its power button), or by a destroy. */
const deliberate = new Set([1, 2]);

/**
 * What a state means to the controller. Off for any other reason than a shutdown (the machine went down, the emulator
 * crashed) is `unknown`: nobody wanted it off, and the next apply settles it.
 */
export function powerStateOf(found: DomainState | null): InstanceStatus['powerState'] {
  if (found === null) return 'unknown';
  const { running, blocked, shuttingDown, paused, suspended, off } = domainState;
  if ([running, blocked, shuttingDown].includes(found.state)) return 'running';
  if ([paused, suspended].includes(found.state)) return 'paused';
  return found.state === off && deliberate.has(found.reason) ? 'stopped' : 'unknown';
}

export function isActive(found: DomainState | null): boolean {
  return found !== null && found.state !== domainState.off && found.state !== 0;
}

/** Starts what is off, resumes what is paused, starts anew what crashed. */
export async function startDomain({ virsh }: Power, domain: string): Promise<void> {
  let found = await virsh.state(domain);
  if (found?.state === domainState.crashed) {
    await destroyDomain({ virsh }, domain);
    found = await virsh.state(domain);
  }
  if (found?.state === domainState.paused) await virsh.run(['resume', domain]);
  else if (found?.state === domainState.suspended) await virsh.run(['dompmwakeup', domain]);
  else if (!isActive(found)) await virsh.run(['start', domain]);
}

/** Asks the guest by ACPI, then cuts the power. Off or not there is success. */
export async function stopDomain(power: Power, domain: string, signal: AbortSignal): Promise<void> {
  const { virsh, stopGraceMs } = power;
  const started = Date.now();
  let pressed = Number.NEGATIVE_INFINITY;
  for (;;) {
    const found = await virsh.state(domain);
    if (!isActive(found)) return;
    if (found?.state !== domainState.running || Date.now() - started > stopGraceMs) break;
    if (Date.now() - pressed > pressEveryMs) {
      await unlessOff(power, domain, ['shutdown', domain, '--mode', 'acpi']);
      pressed = Date.now();
    }
    await sleep(pollMs, undefined, { signal });
  }
  await destroyDomain(power, domain);
}

/** Cuts the power. Off or not there is success. */
export async function destroyDomain({ virsh }: Pick<Power, 'virsh'>, domain: string): Promise<void> {
  if (isActive(await virsh.state(domain))) await unlessOff({ virsh }, domain, ['destroy', domain]);
}

/** Runs a command that fails when the domain has gone off meanwhile, which is what it was for. */
async function unlessOff({ virsh }: Pick<Power, 'virsh'>, domain: string, args: readonly string[]): Promise<void> {
  try {
    await virsh.run(args);
  } catch (error) {
    if (!isNoDomain(error) && isActive(await virsh.state(domain))) throw error;
  }
}
