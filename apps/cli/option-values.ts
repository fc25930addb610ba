/** Parsers of option values, which end a wrong command line with status 2. */
import { InvalidArgumentError } from 'commander';
import { parseDuration } from '#libs/core';

/** `k=v`, repeatable. */
export function pair(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('It must be of the form key=value.');
  const key = text.slice(0, at);
  if (Object.hasOwn(before, key)) throw new InvalidArgumentError(`The key ${key} stands twice.`);
  return { ...before, [key]: text.slice(at + 1) };
}

export interface OfTenant {
  tenantId: string;
  /** Or an id. */
  name: string;
}

/** `tenant/name`: a resource of one of all tenants. */
export function ofTenant(text: string): OfTenant {
  const [, tenantId, name] = /^([a-z0-9]{1,63})\/(.{1,63})$/.exec(text) ?? [];
  if (!tenantId || !name) throw new InvalidArgumentError('It must be of the form TENANT/NAME.');
  return { tenantId, name };
}

/** Repeatable. */
export function collect(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

/** `a,b`. */
export function commaList(text: string): string[] {
  const entries = text.split(',').map((entry) => entry.trim());
  if (entries.some((entry) => entry === '')) throw new InvalidArgumentError('It must be a list like a,b.');
  return entries;
}

/** A length of time such as 1h; gives milliseconds. */
export function duration(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined) throw new InvalidArgumentError('It must be a length of time such as 45s, 30m, 12h or 30d.');
  return ms;
}

/** A whole number in a range. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) throw new InvalidArgumentError(`It must be a number from ${min} to ${max}.`);
    return value;
  };
}

/** Between which factors nodes may be promised, as the database has it (migration 0029). */
export const limits = {
  vcpus: { min: 1, max: 100 },
  memory: { min: 0.5, max: 4 },
  disk: { min: 0.5, max: 20 },
  reserveMiB: 16 * 1024 * 1024,
} as const;

/** A factor with up to two decimals. */
export function factor({ min, max }: { min: number; max: number }): (text: string) => number {
  return (text) => {
    const value = /^\d{1,3}(\.\d{1,2})?$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) {
      throw new InvalidArgumentError(`It must be a factor from ${min} to ${max}, with up to two decimals.`);
    }
    return value;
  };
}

/** Or the word `default`: what holds for the whole installation. */
export function orDefault(parse: (text: string) => number): (text: string) => number | 'default' {
  return (text) => (text === 'default' ? text : parse(text));
}
