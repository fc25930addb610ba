/**
 * What the resources on this machine use and what their guests report, for the controller: soon what is new, and every half
 * minute what goes on as it was. Lost with a stream that breaks: the next sample says more than a late one.
 */
import { type MetricSample, metricErrors } from '#libs/core';
import type { Capability, DriverLog, Ref } from '#libs/drivers/contract';
import { type MetricsReport, MetricType, type ResourceMetrics } from '#libs/rpc';
import type { GuestMetrics } from './metadata/guest-metrics.js';

export interface MetricsOptions {
  capabilities: readonly Capability<any, any>[];
  guests: GuestMetrics;
  log: DriverLog;
  /** Sends to the controller; undefined: there is no stream now. */
  sender: () => ((report: MetricsReport) => Promise<void>) | undefined;
  /** Between two looks (ms). What guests report and what is seen for the first time is sent after each. */
  everyMs: number;
  /** Between two samples of the same resource (ms). */
  repeatMs: number;
}

/** A sample that was sent, and of what: a machine that stops or starts has others. */
interface Sent {
  at: number;
  names: string;
}

/** Resources in one message, far below the largest message even with all metrics that each may have. */
const batchItems = 100;

export class MetricsPump {
  private readonly timer: NodeJS.Timeout;
  private running = false;
  private readonly complained = new Set<string>();
  /** By the resource's id. */
  private readonly sent = new Map<string, Sent>();

  constructor(private readonly options: MetricsOptions) {
    this.timer = setInterval(() => void this.pump(), options.everyMs);
  }

  /** What was sent last may not have arrived. */
  sendAgain(): void {
    this.sent.clear();
  }

  close(): void {
    clearInterval(this.timer);
  }

  /** One look at all; one at a time. */
  async pump(): Promise<void> {
    const send = this.options.sender();
    if (this.running || !send) return;
    this.running = true;
    try {
      const measured = await this.measured();
      const now = performance.now();
      const due = measured.filter((item) => this.isDue(item, now));
      const items = [...due, ...this.reported()];
      for (let at = 0; at < items.length; at += batchItems) await send({ items: items.slice(at, at + batchItems) });
      this.note(measured, due, now);
    } catch (error) {
      this.options.log.warn({ err: error }, 'metrics could not be sent');
    } finally {
      this.running = false;
    }
  }

  private async measured(): Promise<ResourceMetrics[]> {
    const items: ResourceMetrics[] = [];
    for (const capability of this.options.capabilities) {
      try {
        for (const { ref, metrics } of (await capability.metrics?.()) ?? []) {
          const samples = metrics.map(({ labels = {}, ...metric }) => ({ ...metric, labels }));
          if (this.isSound(capability.kind, samples)) items.push(itemOf(ref, samples, new Date(), false));
        }
      } catch (error) {
        this.options.log.warn({ err: error, kind: capability.kind }, 'metrics cannot be read');
      }
    }
    return items;
  }

  private isDue({ ref, metrics }: ResourceMetrics, now: number): boolean {
    const last = this.sent.get(ref!.id);
    // Half a look early rather than half a look late: the looks themselves come a little late.
    return !last || last.names !== namesOf(metrics) || now - last.at > this.options.repeatMs - this.options.everyMs / 2;
  }

  /** What is no longer here is forgotten. */
  private note(measured: ResourceMetrics[], sent: ResourceMetrics[], at: number): void {
    for (const { ref, metrics } of sent) this.sent.set(ref!.id, { at, names: namesOf(metrics) });
    const present = new Set(measured.map(({ ref }) => ref!.id));
    for (const id of this.sent.keys()) if (!present.has(id)) this.sent.delete(id);
  }

  private reported(): ResourceMetrics[] {
    return this.options.guests.takeUnsent().map(({ ref, at, metrics }) => itemOf(ref, metrics, at, true));
  }

  /** A driver's own fault, told once a kind. */
  private isSound(kind: string, samples: MetricSample[]): boolean {
    const [error] = metricErrors(samples);
    if (error && !this.complained.has(kind)) {
      this.complained.add(kind);
      this.options.log.error({ kind, error }, 'the driver’s metrics are not well-formed');
    }
    return !error;
  }
}

function namesOf(metrics: readonly { name: string }[]): string {
  return metrics.map(({ name }) => name).join();
}

function itemOf(ref: Ref, samples: MetricSample[], at: Date, custom: boolean): ResourceMetrics {
  const metrics = samples.map(({ name, type, labels, value }) => ({
    name,
    type: type === 'counter' ? MetricType.METRIC_TYPE_COUNTER : MetricType.METRIC_TYPE_GAUGE,
    labels,
    value,
  }));
  return { ref: { ...ref }, at, metrics, custom };
}
