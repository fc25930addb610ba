/**
 * Every few seconds, what the resources on this machine use and what their guests report, for the controller. Lost with
 * a stream that breaks: the next sample says more than a late one.
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
  everyMs: number;
}

/** Resources in one message, far below the largest message even with all metrics that each may have. */
const batchItems = 100;

export class MetricsPump {
  private readonly timer: NodeJS.Timeout;
  private running = false;
  private readonly complained = new Set<string>();

  constructor(private readonly options: MetricsOptions) {
    this.timer = setInterval(() => void this.pump(), options.everyMs);
  }

  close(): void {
    clearInterval(this.timer);
  }

  /** One sample of all; one at a time. */
  async pump(): Promise<void> {
    const send = this.options.sender();
    if (this.running || !send) return;
    this.running = true;
    try {
      const items = [...(await this.measured()), ...this.reported()];
      for (let at = 0; at < items.length; at += batchItems) await send({ items: items.slice(at, at + batchItems) });
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

function itemOf(ref: Ref, samples: MetricSample[], at: Date, custom: boolean): ResourceMetrics {
  const metrics = samples.map(({ name, type, labels, value }) => ({
    name,
    type: type === 'counter' ? MetricType.METRIC_TYPE_COUNTER : MetricType.METRIC_TYPE_GAUGE,
    labels,
    value,
  }));
  return { ref: { ...ref }, at, metrics, custom };
}
