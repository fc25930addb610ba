/**
 * Metrics of a resource: what a name, a label and a value may be (Prometheus' data model), how many there may be, and
 * their text exposition format 0.0.4 both ways. No I/O; used where they are reported and where they are read.
 */
import type { FieldError } from './errors.js';

export type MetricType = 'counter' | 'gauge';

export interface MetricSample {
  name: string;
  type: MetricType;
  labels: Record<string, string>;
  value: number;
}

/** Metrics that one source may have on one resource. */
export const MAX_METRICS = 100;
const MAX_LABELS = 10;
const MAX_NAME = 128;
const MAX_LABEL_VALUE = 255;

const nameShape = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const labelShape = /^[a-zA-Z_][a-zA-Z0-9_]*$/;
/** What the platform says of each sample itself. */
const reservedLabels: ReadonlySet<string> = new Set(['instance', 'name', 'source', 'job']);
const reservedPrefix = 'rhyzome_';
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is refused.
const controlCharacters = /[\u0000-\u001f\u007f]/;

const loneSurrogate = /\p{Surrogate}/u;

/** All that is wrong with what somebody reports, each with a pointer; empty: it can be taken. Never throws. */
export function metricErrors(samples: readonly MetricSample[]): FieldError[] {
  if (samples.length > MAX_METRICS) {
    return [{ pointer: '/metrics', code: 'too_many', message: `must have at most ${MAX_METRICS} metrics` }];
  }
  const errors: FieldError[] = [];
  const seen = new Map<string, MetricType>();
  const series = new Set<string>();
  for (const [index, sample] of samples.entries()) {
    const at = `/metrics/${index}`;
    errors.push(...sampleErrors(sample, at));
    const type = seen.get(sample.name);
    if (type !== undefined && type !== sample.type) {
      errors.push({ pointer: `${at}/type`, code: 'invalid_value', message: `is ${type} in another line of this name` });
    }
    seen.set(sample.name, sample.type);
    const key = seriesKey(sample);
    if (series.has(key)) errors.push({ pointer: at, code: 'duplicate', message: 'has the name and labels of another' });
    series.add(key);
  }
  return errors.slice(0, 100);
}

function sampleErrors({ name, type, labels, value }: MetricSample, at: string): FieldError[] {
  const errors: FieldError[] = [];
  const wrong = (pointer: string, code: string, message: string) => errors.push({ pointer, code, message });
  if (name.length > MAX_NAME || !nameShape.test(name)) {
    wrong(`${at}/name`, 'invalid_format', `must be 1-${MAX_NAME} letters, digits, _ or :, and start with no digit`);
  } else if (name.startsWith(reservedPrefix)) {
    wrong(`${at}/name`, 'invalid_value', `must not start with ${reservedPrefix}: those are the platform’s`);
  }
  if (type !== 'counter' && type !== 'gauge') wrong(`${at}/type`, 'invalid_value', 'must be counter or gauge');
  if (!Number.isFinite(value)) wrong(`${at}/value`, 'invalid_value', 'must be a finite number');
  const entries = Object.entries(labels);
  if (entries.length > MAX_LABELS) wrong(`${at}/labels`, 'too_many', `must have at most ${MAX_LABELS} labels`);
  for (const [label, text] of entries.slice(0, MAX_LABELS)) {
    const where = `${at}/labels/${label.slice(0, 100).replaceAll('~', '~0').replaceAll('/', '~1')}`;
    if (label.length > MAX_NAME || !labelShape.test(label) || label.startsWith('__')) {
      wrong(where, 'invalid_format', 'must be letters, digits or _, start with no digit and not with __');
    } else if (reservedLabels.has(label)) wrong(where, 'invalid_value', 'is a label that the platform sets itself');
    if (text.length > MAX_LABEL_VALUE || controlCharacters.test(text) || loneSurrogate.test(text)) {
      wrong(where, 'invalid_value', `must be at most ${MAX_LABEL_VALUE} printable characters`);
    }
  }
  return errors;
}

function seriesKey({ name, labels }: MetricSample): string {
  return JSON.stringify([name, Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1))]);
}

/** The text exposition format 0.0.4: one TYPE line a name, samples of one name together. */
export function renderMetrics(samples: readonly MetricSample[]): string {
  const families = new Map<string, MetricSample[]>();
  for (const sample of samples) {
    const family = families.get(sample.name);
    if (family) family.push(sample);
    else families.set(sample.name, [sample]);
  }
  const blocks = [...families].map(([name, family]) => {
    const [first] = family;
    const type = family.every((sample) => sample.type === first!.type) ? first!.type : 'untyped';
    return [`# TYPE ${name} ${type}`, ...family.map(renderSample)].join('\n');
  });
  return blocks.map((block) => `${block}\n`).join('');
}

function renderSample({ name, labels, value }: MetricSample): string {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapeValue(text)}"`);
  return `${name}${pairs.length > 0 ? `{${pairs.join(',')}}` : ''} ${value}`;
}

function escapeValue(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}

const unescaped: Record<string, string> = { '\\': '\\', '"': '"', n: '\n' };

/**
 * Reads the text exposition format; timestamps are passed over, a type of neither counter nor gauge is a gauge. Returns
 * the first line that is none as `error`. Names, labels and values are judged by `metricErrors`.
 */
export function parseMetricsText(text: string): { samples: MetricSample[] } | { error: string } {
  const types = new Map<string, MetricType>();
  const samples: MetricSample[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    const trimmed = line.trim();
    const [, typed, type] = /^#\s+TYPE\s+(\S+)\s+(\S+)$/.exec(trimmed) ?? [];
    if (typed) types.set(typed, type === 'counter' ? 'counter' : 'gauge');
    if (trimmed === '' || trimmed.startsWith('#')) continue;
    const sample = parseSample(trimmed);
    if (!sample) return { error: `line ${index + 1} is no sample of the Prometheus text format` };
    samples.push({ ...sample, type: types.get(sample.name) ?? 'gauge' });
    if (samples.length > MAX_METRICS) break;
  }
  return { samples };
}

function parseSample(line: string): Omit<MetricSample, 'type'> | undefined {
  const [, name, block, number] =
    /^([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?\s*([^\s{}"]+)(?:\s+-?\d+)?$/.exec(line) ?? [];
  const value = number === undefined ? Number.NaN : numberOf(number);
  const labels = parseLabels(block?.slice(1, -1) ?? '');
  return name === undefined || value === undefined || !labels ? undefined : { name, labels, value };
}

/** Go's ParseFloat as far as samples have it; what is not finite is kept, and refused by its value. */
function numberOf(text: string): number | undefined {
  if (/^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i.test(text)) return Number(text);
  return /^([+-]?inf|nan)$/i.test(text) ? Number.NaN : undefined;
}

function parseLabels(block: string): Record<string, string> | undefined {
  const labels: Record<string, string> = {};
  const pair = /\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\["\\n])*)"\s*(?:,|$)/y;
  while (pair.lastIndex < block.length) {
    const at = pair.lastIndex;
    const [, label, text] = pair.exec(block) ?? [];
    if (label === undefined) return block.slice(at).trim() === '' ? labels : undefined;
    if (Object.hasOwn(labels, label)) return undefined;
    labels[label] = text!.replaceAll(/\\(["\\n])/g, (_, code: string) => unescaped[code]!);
  }
  return labels;
}
