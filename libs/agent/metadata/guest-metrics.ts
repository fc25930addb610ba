/**
 * What guests report of themselves: checked, the last of each kept until it is sent. In memory only: a guest reports
 * again anyway.
 */
import { type FieldError, MAX_METRICS, type MetricSample, metricErrors, parseMetricsText } from '#libs/core';
import type { Ref } from '#libs/drivers/contract';

export interface GuestReport {
  ref: Ref;
  at: Date;
  metrics: MetricSample[];
}

/** Guests of which something is kept at once. */
const mostGuests = 10_000;

export class GuestMetrics {
  private readonly reports = new Map<string, GuestReport>();
  private unsent = new Set<string>();

  /** Takes all that a guest reports in place of what it said before. Returns what is wrong with it instead. */
  take(ref: Ref, type: string, body: string): FieldError[] {
    const parsed = type === 'application/json' ? parseJson(body) : parseText(body);
    if ('errors' in parsed) return parsed.errors;
    const errors = metricErrors(parsed.samples);
    if (errors.length > 0) return errors;
    if (this.reports.size >= mostGuests && !this.reports.has(ref.id)) {
      const [oldest] = this.reports.keys();
      this.reports.delete(oldest!);
    }
    this.reports.delete(ref.id);
    this.reports.set(ref.id, { ref, at: new Date(), metrics: parsed.samples });
    this.unsent.add(ref.id);
    return [];
  }

  /** When a guest reported last (ms since the epoch); 0: never. */
  lastAt(id: string): number {
    return this.reports.get(id)?.at.getTime() ?? 0;
  }

  /** What was not sent yet; it counts as sent from now on. */
  takeUnsent(): GuestReport[] {
    const ids = [...this.unsent];
    this.unsent = new Set();
    return ids.flatMap((id) => this.reports.get(id) ?? []);
  }

  /** Another stream: what the one before was given may never have arrived. */
  sendAgain(): void {
    this.unsent = new Set(this.reports.keys());
  }
}

type Parsed = { samples: MetricSample[] } | { errors: FieldError[] };

/** {name: value}: gauges without labels. */
function parseJson(body: string): Parsed {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    return { errors: [{ pointer: '', code: 'malformed_json', message: 'is not JSON' }] };
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return { errors: [{ pointer: '', code: 'wrong_type', message: 'must be an object {name: value}' }] };
  }
  const entries = Object.entries(value);
  if (entries.length > MAX_METRICS) {
    return { errors: [{ pointer: '', code: 'too_many', message: `must have at most ${MAX_METRICS} metrics` }] };
  }
  const wrong = entries.find(([, number]) => typeof number !== 'number');
  if (wrong) {
    return { errors: [{ pointer: `/${wrong[0].slice(0, 100)}`, code: 'wrong_type', message: 'must be a number' }] };
  }
  return { samples: entries.map(([name, number]) => ({ name, type: 'gauge', labels: {}, value: number as number })) };
}

function parseText(body: string): Parsed {
  const parsed = parseMetricsText(body);
  if ('samples' in parsed) return parsed;
  return { errors: [{ pointer: '', code: 'invalid_format', message: parsed.error }] };
}
