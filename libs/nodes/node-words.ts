/**
 * What comes from a node, before anything of it reaches the database: numbers that a column can hold, text without what
 * PostgreSQL cannot store. What is not so is the node's fault and refused as such; nothing else of the message counts.
 */
import { toUSVString } from 'node:util';
import { isIpv4, isNestedDeeper, isUuid, RhyzomeError } from '#libs/core';
import type { Failure, SharedStorage, Underlay } from '#libs/rpc';
import type { NodeUnderlay } from './registry.js';
import type { NodeStorage } from './shared-storage.js';

const mostInt = 2 ** 31 - 1;
const MAX_MESSAGE_CHARACTERS = 1_000;

/** A count that fits a bigint column and a JavaScript number. Throws RhyzomeError `malformed_request`. */
export function countFrom(value: bigint, what: string): number {
  if (value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  throw garbage(`${what} is out of range`);
}

/** A count that fits an int column. Throws RhyzomeError `malformed_request`. */
export function smallCountFrom(value: number, what: string): number {
  if (Number.isInteger(value) && value >= 0 && value <= mostInt) return value;
  throw garbage(`${what} is out of range`);
}

/** Text cut to so many characters. Throws RhyzomeError `malformed_request`. */
export function textFrom(value: string, most: number, what: string): string {
  if (!isStorable(value)) throw garbage(`${what} has a NUL character or is ill-formed`);
  return toUSVString(value.slice(0, most));
}

/**
 * The object in a JSON text; null where it is empty, too large, or no JSON object: then the node says nothing. Throws
 * RhyzomeError `malformed_request` for an object that cannot be stored.
 */
export function objectFrom(json: string, mostBytes: number, what: string): Record<string, unknown> | null {
  if (json === '' || json.length > mostBytes) return null;
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return null; // What it reports beside this still counts.
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  if (isNestedDeeper(value)) throw garbage(`${what} is nested too deep`);
  refuseUnstorable(value, what);
  return value as Record<string, unknown>;
}

/** Labels and the like. Throws RhyzomeError `malformed_request`. */
export function labelsFrom(labels: Record<string, string>, what: string): Record<string, string> {
  const entries = Object.entries(labels).slice(0, 100);
  return Object.fromEntries(entries.map(([key, value]) => [textFrom(key, 253, what), textFrom(value, 1_000, what)]));
}

/** Where other nodes reach it. Throws RhyzomeError `malformed_request`. */
export function underlayFrom({ address, port, networkMtu }: Underlay): NodeUnderlay {
  if (!isIpv4(address)) throw garbage('The underlay’s address is no IPv4 address');
  if (port < 1 || port > 65_535) throw garbage('The underlay’s port is out of range');
  if (networkMtu > mostInt) throw garbage('The underlay’s MTU is out of range');
  return { address, port, networkMtu: networkMtu === 0 ? null : networkMtu };
}

/** The storage that it shares with others. Throws RhyzomeError `malformed_request`. */
export function storageFrom({ name, id }: SharedStorage): NodeStorage {
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) throw garbage('The shared storage’s name is none');
  if (!isUuid(id)) throw garbage('The shared storage’s id is no UUID');
  return { name, id };
}

/** A failure cut to what is stored. Throws RhyzomeError `malformed_request`. */
export function failureFrom(failure: Failure | undefined): { code: string; message: string } | null {
  if (!failure) return null;
  return {
    code: textFrom(failure.code, 63, 'A failure’s code'),
    message: textFrom(failure.message, MAX_MESSAGE_CHARACTERS, 'A failure’s message'),
  };
}

function refuseUnstorable(value: unknown, what: string): void {
  if (typeof value === 'string' && !isStorable(value)) throw garbage(`${what} has a NUL character or is ill-formed`);
  if (typeof value !== 'object' || value === null) return;
  for (const [key, member] of Object.entries(value)) {
    refuseUnstorable(key, what);
    refuseUnstorable(member, what);
  }
}

function isStorable(text: string): boolean {
  return !text.includes('\0') && toUSVString(text) === text;
}

function garbage(problem: string): RhyzomeError {
  return new RhyzomeError('malformed_request', `The node’s message cannot be taken: ${problem}.`);
}
