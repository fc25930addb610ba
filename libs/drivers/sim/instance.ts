/**
 * Machines of the simulated host. They boot at once, run without a process, keep running over an agent's restart, and
 * write a serial log as the tiny guest does.
 */
import {
  type AbandonArguments,
  type Capability,
  type ConsoleLine,
  DriverError,
  type DriverLog,
  type Found,
  type InstanceSpec,
  type InstanceStatus,
  type Metric,
  type MigrateArguments,
  type MigrationOutcome,
  type MigrationProgress,
  type Ref,
} from '#libs/drivers/contract';
import { SimConsole } from './console.js';
import type { SimFaults } from './faults.js';
import { type SimMoves, statusOf } from './moves.js';
import type { SharedContent } from './shared-content.js';
import type { SimInstance, SimState } from './state.js';

/** How often a watcher looks for guests that shall shut themselves down (ms). */
const watchIntervalMs = 200;

export class SimInstanceCapability implements Capability<InstanceSpec, InstanceStatus> {
  readonly kind = 'instance';
  readonly after = ['network', 'disk'];
  private readonly lines = new Map<string, SimConsole>();
  private readonly watchers = new Set<(found: Found<InstanceStatus>) => void>();
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly state: SimState,
    private readonly faults: SimFaults,
    private readonly log: DriverLog,
    private readonly shared: SharedContent,
    private readonly moves: SimMoves,
  ) {}

  async apply(ref: Ref, spec: InstanceSpec, signal: AbortSignal): Promise<InstanceStatus> {
    assertSpec(spec);
    await this.faults.strike('apply', { ...ref, name: spec.name }, signal);
    const moving = await this.moves.apply(ref, spec);
    if (moving) return moving;
    this.requireParts(ref, spec);
    await this.requireOwn(spec);
    signal.throwIfAborted();
    const before = this.state.instances.get(ref.id);
    const starts = spec.powerState === 'running' && before?.powerState !== 'running';
    const boots = (before?.boots ?? 0) + (starts ? 1 : 0);
    const startedAt = starts ? Date.now() : (before?.startedAt ?? 0);
    this.state.instances.set(ref.id, { ref, spec, powerState: spec.powerState, boots, startedAt });
    if (spec.powerState !== 'running') this.hangUp(ref.id);
    await this.state.save();
    return { powerState: spec.powerState };
  }

  async remove(ref: Ref, signal: AbortSignal): Promise<void> {
    await this.faults.strike('remove', { ...ref, name: this.state.instances.get(ref.id)?.spec.name }, signal);
    this.moves.drop(ref.id);
    this.state.instances.delete(ref.id);
    this.hangUp(ref.id);
    await this.state.save();
  }

  async halt(ref: Ref): Promise<void> {
    await this.faults.strike('halt', ref);
    const instance = this.state.instances.get(ref.id);
    if (!instance) return;
    instance.powerState = 'stopped';
    this.hangUp(ref.id);
    await this.state.save();
  }

  async inventory(): Promise<Found<InstanceStatus>[]> {
    await this.faults.strike('inventory', { kind: this.kind, id: '' });
    return [...this.state.instances.values()].map(found);
  }

  interrupt(ref: Ref, verb: string, args: unknown): void {
    if (verb === 'abandon') this.moves.interrupt(ref.id, args as AbandonArguments);
  }

  async operate(
    ref: Ref,
    verb: string,
    args: unknown,
    signal: AbortSignal,
    progress: (progress: MigrationProgress) => void = () => {},
  ): Promise<MigrationOutcome | undefined> {
    if (verb === 'migrate') return this.moves.migrate(ref, args as MigrateArguments, signal, progress);
    if (verb === 'abandon') return this.moves.abandon(ref, args as AbandonArguments, signal);
    if (verb !== 'reboot' && verb !== 'reset')
      throw new DriverError('unknown_verb', `An instance knows no “${verb}”.`, { permanent: true });
    const instance = this.require(ref);
    await this.faults.strike('operate', { ...ref, name: instance.spec.name }, signal);
    this.requireRunning(instance);
    instance.boots += 1;
    await this.state.save();
  }

  watch(onChange: (found: Found<InstanceStatus>) => void): () => void {
    this.watchers.add(onChange);
    this.timer ??= setInterval(() => this.lookForShutdowns(), watchIntervalMs).unref();
    return () => {
      this.watchers.delete(onChange);
      if (this.watchers.size > 0) return;
      clearInterval(this.timer);
      this.timer = undefined;
    };
  }

  /** Ends the watching and the open consoles. */
  close(): void {
    for (const id of [...this.lines.keys()]) this.hangUp(id);
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

  /** A line whose guest echoes what is typed and answers a few commands (console.ts). */
  async console(ref: Ref): Promise<ConsoleLine> {
    const instance = this.require(ref);
    this.requireRunning(instance);
    if (this.lines.has(ref.id)) throw new DriverError('console_busy', 'The console is open already.');
    const line = new SimConsole({
      hostname: instance.spec.guest.hostname,
      onPowerOff: () => this.shutDownGuest(ref.id),
      onClose: () => {
        if (this.lines.get(ref.id) === line) this.lines.delete(ref.id);
      },
    });
    this.lines.set(ref.id, line);
    return line;
  }

  /** Counters that grow with the time that it runs. */
  async metrics(): Promise<{ ref: Ref; metrics: Metric[] }[]> {
    return [...this.state.instances.values()].map((instance) => ({ ref: instance.ref, metrics: metricsOf(instance) }));
  }

  /** As if the guest had switched itself off. */
  async shutDownGuest(id: string): Promise<void> {
    const instance = this.state.instances.get(id);
    if (instance?.powerState !== 'running') return;
    instance.powerState = 'stopped';
    this.hangUp(id);
    await this.state.save();
    for (const watcher of this.watchers) watcher(found(instance));
  }

  private lookForShutdowns(): void {
    this.shutDownInjected().catch((error: Error) => this.log.warn({ reason: error.message }, 'faults cannot be read'));
  }

  private async shutDownInjected(): Promise<void> {
    if (!(await this.faults.isInjected('shutdown'))) return;
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

  private requireRunning({ powerState, spec }: SimInstance): void {
    if (powerState === 'running') return;
    throw new DriverError('not_running', `Instance ${spec.name} does not run.`, { permanent: true });
  }

  private requireParts(ref: Ref, spec: InstanceSpec): void {
    for (const { networkId } of spec.interfaces) {
      if (this.state.networks.has(networkId)) continue;
      throw new DriverError('network_missing', `Network ${networkId} is not on this node yet.`);
    }
    for (const { diskId } of spec.disks) {
      if (!this.state.disks.has(diskId))
        throw new DriverError('disk_missing', `Disk ${diskId} is not on this node yet.`);
      const user = this.state.userOf(diskId);
      if (user && user.ref.id !== ref.id)
        throw new DriverError('in_use', `Disk ${diskId} is still attached to instance ${user.spec.name}.`);
    }
  }

  /** A disk that is another node's by now is opened by nobody here. */
  private async requireOwn(spec: InstanceSpec): Promise<void> {
    for (const { diskId } of spec.disks) {
      const disk = this.state.disks.get(diskId)!;
      if (!(await this.shared.isOthers(disk))) continue;
      throw new DriverError('not_ours', `Disk ${diskId} on the shared storage is another node’s.`);
    }
  }

  private hangUp(id: string): void {
    this.lines.get(id)?.close();
  }

  private serialLog({ spec, boots }: SimInstance): string {
    const lines: string[] = [];
    for (let boot = 1; boot <= Math.min(boots, 1000); boot += 1) {
      lines.push('[    0.000000] Linux version 6.1.0-sim (simulated)', `[    0.100000] boot ${boot} of ${spec.name}`);
      for (const { networkId, mac, ip, ip6 } of spec.interfaces) {
        const lease = this.state.networks.get(networkId)?.spec.leases.find((candidate) => candidate.mac === mac);
        lines.push(`address=${ip}`, `hostname=${lease?.hostname ?? spec.name}`);
        if (ip6) lines.push(`address6=${ip6}`);
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
    Array.isArray(spec.disks) &&
    typeof spec.guest?.hostname === 'string' &&
    spec.vcpus >= 1 &&
    spec.memoryMiB >= 1 &&
    (spec.powerState === 'running' || spec.powerState === 'stopped');
  if (!fits)
    throw new DriverError('invalid_spec', 'The instance’s specification is not complete.', { permanent: true });
}

function found(instance: SimInstance): Found<InstanceStatus> {
  return { ref: instance.ref, status: statusOf(instance) };
}

function metricsOf({ spec, powerState, startedAt }: SimInstance): Metric[] {
  const up = powerState === 'running';
  const metrics: Metric[] = [{ name: 'up', type: 'gauge', value: up ? 1 : 0 }];
  if (!up) return metrics;
  const seconds = Math.max(0, (Date.now() - startedAt) / 1000);
  const counter = (name: string, value: number, labels?: Record<string, string>): Metric => ({
    ...{ name, type: 'counter', value },
    ...(labels && { labels }),
  });
  metrics.push(counter('cpu_seconds_total', (seconds * spec.vcpus) / 100));
  metrics.push({ name: 'memory_bytes', type: 'gauge', value: (spec.memoryMiB * 1024 ** 2) / 2 });
  for (const { diskId: disk } of spec.disks) {
    metrics.push(counter('disk_read_bytes_total', Math.floor(seconds * 4096), { disk }));
    metrics.push(counter('disk_written_bytes_total', Math.floor(seconds * 2048), { disk }));
  }
  for (const { mac } of spec.interfaces) {
    metrics.push(counter('network_received_bytes_total', Math.floor(seconds * 512), { interface: mac.toLowerCase() }));
    metrics.push(counter('network_sent_bytes_total', Math.floor(seconds * 256), { interface: mac.toLowerCase() }));
  }
  return metrics;
}
