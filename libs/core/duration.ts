/** Lengths of time as people write them in settings and on command lines: `45s`, `30m`, `12h`, `30d`. */

const unitMs: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** In milliseconds; undefined for what is no such length. */
export function parseDuration(text: string): number | undefined {
  const [, count, unit] = /^([1-9]\d{0,8})([smhd])$/.exec(text) ?? [];
  return count === undefined || unit === undefined ? undefined : Number(count) * unitMs[unit]!;
}

/** In the largest unit that leaves nothing over. */
export function formatDuration(ms: number): string {
  const unit = ['d', 'h', 'm'].find((name) => ms >= unitMs[name]! && ms % unitMs[name]! === 0) ?? 's';
  return `${Math.round(ms / unitMs[unit]!)}${unit}`;
}
