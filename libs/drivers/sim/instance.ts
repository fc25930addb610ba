/**
 * Machines of the simulated host. They boot at once, run without a process, keep running over an agent's restart, and
 * write a serial log as the tiny guest does.
 */
import {
  type Capability,
  DriverError,
  type DriverLog,
  type Found,
  type ImageSource,
  type InstanceSpec,
  type InstanceStatus,
  type Ref,
} from '#libs/drivers/contract';
import type { SimFaults } from './faults.js';
import type { SimInstance, SimState } from './state.js';

/** How often a watcher looks for guests that shall shut themselves down (ms). */
const watchIntervalMs = 200;

export class SimInstanceCapability implements Capability<InstanceSpec, InstanceStatus> {
  readonly kind = 'instance';
  readonly after = ['network'];
  private readonly watchers = new Set<(found: Found<InstanceStatus>) => void>();
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly state: SimState,
    private readonly faults: SimFaults,
    private readonly images: ImageSource | undefined,
    private readonly log: DriverLog,
  ) {}

  async apply(ref: Ref, spec: InstanceSpec, signal: AbortSignal): Promise<InstanceStatus> {
    assertSpec(spec);
    await this.faults.strike('apply', { ...ref, name: spec.name }, signal);
    for (const { networkId } of spec.interfaces) {
      if (!this.state.networks.has(networkId)) {
        throw new DriverError('network_missing', `Network ${networkId} is not on this node yet.`);
      }
    }
    const before = this.state.instances.get(ref.id);
    if (!before) await this.images?.path(spec.image, signal);
    signal.throwIfAborted();
    const boots = (before?.boots ?? 0) + (spec.powerState === 'running' && before?.powerState !== 'running' ? 1 : 0);
    this.state.instances.set(ref.id, { ref, spec, powerState: spec.powerState, boots });
    await this.state.save();
    return { powerState: spec.powerState };
  }

  async remove(ref: Ref, signal: AbortSignal): Promise<void> {
    await this.faults.strike('remove', { ...ref, name: this.state.instances.get(ref.id)?.spec.name }, signal);
    this.state.instances.delete(ref.id);
    await this.state.save();
  }

  async inventory(): Promise<Found<InstanceStatus>[]> {
    await this.faults.strike('inventory', { kind: this.kind, id: '' });
    return [...this.state.instances.values()].map(found);
  }

  async operate(ref: Ref, verb: string, _args: unknown, signal: AbortSignal): Promise<void> {
    if (verb !== 'reboot')
      throw new DriverError('unknown_verb', `An instance knows no “${verb}”.`, { permanent: true });
    const instance = this.require(ref);
    await this.faults.strike('operate', { ...ref, name: instance.spec.name }, signal);
    if (instance.powerState !== 'running') {
      throw new DriverError('not_running', `Instance ${instance.spec.name} does not run.`, { permanent: true });
    }
    instance.boots += 1;
    await this.state.save();
  }

  watch(onChange: (found: Found<InstanceStatus>) => void): () => void {
    this.watchers.add(onChange);
    this.timer ??= setInterval(() => this.lookForShutdowns(), watchIntervalMs).unref();
    return () => {
      this.watchers.delete(onChange);
      if (this.watchers.size === 0) this.close();
    };
  }

  close(): void {
    clearInterval(this.timer);
    this.timer = undefined;
  }

  async *consoleLog(ref: Ref, tailBytes: number): AsyncIterable<Uint8Array> {
    const log = Buffer.from(this.serialLog(this.require(ref)));
    const chunkBytes = 16 * 1024;
    for (let at = Math.max(0, log.length - tailBytes); at < log.length; at += chunkBytes) {
      yield log.subarray(at, at + chunkBytes);
    }
  }

  /** As if the guest had switched itself off. */
  async shutDownGuest(id: string): Promise<void> {
    const instance = this.state.instances.get(id);
    if (instance?.powerState !== 'running') return;
    instance.powerState = 'stopped';
    await this.state.save();
    for (const watcher of this.watchers) watcher(found(instance));
  }

  private lookForShutdowns(): void {
    this.shutDownInjected().catch((error: Error) => this.log.warn({ reason: error.message }, 'faults cannot be read'));
  }

  private async shutDownInjected(): Promise<void> {
    for (const { ref, spec, powerState } of [...this.state.instances.values()]) {
      if (powerState !== 'running') continue;
      if (await this.faults.take('shutdown', { ...ref, name: spec.name })) await this.shutDownGuest(ref.id);
    }
  }

  private require(ref: Ref): SimInstance {
    const instance = this.state.instances.get(ref.id);
    if (!instance)
      throw new DriverError('not_found', `There is no instance ${ref.id} on this node.`, { permanent: true });
    return instance;
  }

  private serialLog({ spec, boots }: SimInstance): string {
    const lines: string[] = [];
    for (let boot = 1; boot <= Math.min(boots, 1000); boot += 1) {
      lines.push('[    0.000000] Linux version 6.1.0-sim (simulated)', `[    0.100000] boot ${boot} of ${spec.name}`);
      for (const { networkId, mac, ip } of spec.interfaces) {
        const lease = this.state.networks.get(networkId)?.spec.leases.find((candidate) => candidate.mac === mac);
        lines.push(`address=${ip}`, `hostname=${lease?.hostname ?? spec.name}`);
      }
      lines.push('ready');
    }
    return lines.map((line) => `${line}\r\n`).join('');
  }
}

function assertSpec(spec: InstanceSpec): void {
  const fits =
    typeof spec?.name === 'string' &&
    Array.isArray(spec.interfaces) &&
    spec.vcpus >= 1 &&
    spec.memoryMiB >= 1 &&
    (spec.powerState === 'running' || spec.powerState === 'stopped');
  if (!fits)
    throw new DriverError('invalid_spec', 'The instance’s specification is not complete.', { permanent: true });
}

function found(instance: SimInstance): Found<InstanceStatus> {
  return { ref: instance.ref, status: { powerState: instance.powerState } };
}
