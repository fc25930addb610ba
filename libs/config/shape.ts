/**
 * A small typed checker for settings: each shape turns a value of unknown type into a typed one, or notes what is wrong
 * and where. All problems of a file are found in one go. A settings file is checked before any framework is loaded,
 * hence no decorators here.
 */
import { isAbsolute, resolve } from 'node:path';
import { formatDuration, parseDuration } from '#libs/core';
import type { ConfigProblem } from './config-error.js';

/** What a shape needs to know while it checks one value. */
export interface Place {
  pointer: string;
  /** Folder that relative paths start from. */
  folder: string;
  problems: ConfigProblem[];
}

/** Returns the typed value; when it is wrong, notes that in `place.problems` and returns anything of the type. */
export type Shape<T> = (value: unknown, place: Place) => T;

/** A member that may be missing, with what stands for it then. */
interface Member<T> {
  shape: Shape<T>;
  optional: boolean;
  fallback?: () => unknown;
}

function refuse<T>(place: Place, message: string): T {
  place.problems.push({ pointer: place.pointer, message });
  return undefined as T;
}

function typeName(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

export function text(options: { pattern?: RegExp; expected?: string } = {}): Shape<string> {
  return (value, place) => {
    if (typeof value !== 'string') return refuse(place, `must be a string, not ${typeName(value)}`);
    if (value === '') return refuse(place, 'must not be empty');
    if (options.pattern && !options.pattern.test(value)) return refuse(place, `must be ${options.expected}`);
    return value;
  };
}

export function integer(min: number, max: number): Shape<number> {
  return (value, place) => {
    if (typeof value !== 'number') return refuse(place, `must be a number, not ${typeName(value)}`);
    if (!Number.isInteger(value) || value < min || value > max)
      return refuse(place, `must be a whole number from ${min} to ${max}`);
    return value;
  };
}

/** A length of time such as `30d`; gives milliseconds. */
export function duration(minMs: number, maxMs: number): Shape<number> {
  const any = text();
  return (value, place) => {
    const given = any(value, place);
    const ms = given === undefined ? undefined : parseDuration(given);
    if (given === undefined || (ms !== undefined && ms >= minMs && ms <= maxMs)) return ms as number;
    return refuse(place, `must be from ${formatDuration(minMs)} to ${formatDuration(maxMs)}, such as 45s, 12h or 30d`);
  };
}

export function flag(): Shape<boolean> {
  return (value, place) =>
    typeof value === 'boolean' ? value : refuse(place, `must be true or false, not ${typeName(value)}`);
}

export function oneOf<const T extends string>(...choices: T[]): Shape<T> {
  return (value, place) =>
    choices.includes(value as T) ? (value as T) : refuse(place, `must be one of ${choices.join(', ')}`);
}

/** A path; a relative one starts from the folder of the file that it stands in. */
export function path(): Shape<string> {
  const any = text();
  return (value, place) => {
    const given = any(value, place);
    return given === undefined || isAbsolute(given) ? given : resolve(place.folder, given);
  };
}

/** Host (name, IPv4, or IPv6 in brackets), colon, port. Port 0 is any free one. */
export function address(): Shape<string> {
  return text({
    pattern:
      /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(0|[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])$/,
    expected: 'host:port',
  });
}

/** As `address`, or `unix:` and the path of a socket; a relative path starts from the folder of the file. */
export function endpoint(): Shape<string> {
  const any = text();
  const network = address();
  return (value, place) => {
    const given = any(value, place);
    if (!given?.startsWith('unix:')) return given === undefined ? given : network(given, place);
    const socket = resolve(place.folder, given.slice('unix:'.length));
    // sun_path of unix(7).
    if (Buffer.byteLength(socket) > 107) return refuse(place, 'names a socket whose path is longer than 107 bytes');
    return `unix:${socket}`;
  };
}

export function url(): Shape<string> {
  const any = text();
  return (value, place) => {
    const given = any(value, place);
    if (given === undefined) return given;
    const parsed = URL.canParse(given) ? new URL(given) : undefined;
    if (parsed?.protocol !== 'http:' && parsed?.protocol !== 'https:')
      return refuse(place, 'must be an http or https URL');
    return given.replace(/\/+$/, '');
  };
}

export function list<T>(item: Shape<T>, max: number): Shape<T[]> {
  return (value, place) => {
    if (!Array.isArray(value)) return refuse(place, `must be a list, not ${typeName(value)}`);
    if (value.length === 0 || value.length > max) return refuse(place, `must have 1 to ${max} entries`);
    return value.map((entry, i) => item(entry, { ...place, pointer: `${place.pointer}/${i}` }));
  };
}

/** One, or a list; a list in any case. */
export function oneOrMore<T>(item: Shape<T>, max: number): Shape<T[]> {
  const several = list(item, max);
  return (value, place) => {
    if (Array.isArray(value)) return several(value, place);
    return [item(value, place)];
  };
}

/** An object with keys of the user's own choice. */
export function map<T>(item: Shape<T>, max: number): Shape<Record<string, T>> {
  return (value, place) => {
    if (!isObject(value)) return refuse(place, `must be an object, not ${typeName(value)}`);
    const entries = Object.entries(value);
    if (entries.length > max) return refuse(place, `must have at most ${max} entries`);
    return Object.fromEntries(entries.map(([key, entry]) => [key, item(entry, below(place, key))]));
  };
}

export function required<T>(shape: Shape<T>): Member<T> {
  return { shape, optional: false };
}

/** May be missing; `fallback` makes what is then checked in its stead, as if it had been written. */
export function optional<T>(shape: Shape<T>, fallback?: () => unknown): Member<T> {
  return { shape, optional: true, fallback };
}

/** An object with these members and no others. */
export function object<T extends object>(members: { [K in keyof Required<T>]: Member<any> }): Shape<T> {
  return (value, place) => {
    if (!isObject(value)) return refuse(place, `must be an object, not ${typeName(value)}`);
    for (const key of Object.keys(value)) {
      if (!Object.hasOwn(members, key))
        refuse(below(place, key), `is not known here; known are ${Object.keys(members).join(', ')}`);
    }
    const result: Record<string, unknown> = {};
    for (const [key, member] of Object.entries<Member<unknown>>(members)) {
      const given = Object.hasOwn(value, key) ? value[key] : member.fallback?.();
      if (given !== undefined) result[key] = member.shape(given, below(place, key));
      else if (!member.optional) refuse(below(place, key), 'is missing');
    }
    return result as T;
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** RFC 6901, section 3: ~ and / are escaped. */
function below(place: Place, key: string): Place {
  return { ...place, pointer: `${place.pointer}/${key.replaceAll('~', '~0').replaceAll('/', '~1')}` };
}
