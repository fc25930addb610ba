/** What a call of the admin API is given and answers, and how it refuses in Keycloak's words. */
import type { RealmState } from './realm-state.js';

export interface AdminCall {
  realm: RealmState;
  /** Of the path's pattern, in their order. */
  params: string[];
  query: URLSearchParams;
  /** Parsed JSON; undefined: none was sent. */
  body: any;
  /** Ends what somebody has open; null: all of the realm. */
  endSessions(accountId: string | null): void;
}

export interface AdminAnswer {
  status: number;
  body?: unknown;
  /** What was made, below the address that it was sent to. */
  madeId?: string;
}

export type AdminHandler = (call: AdminCall) => AdminAnswer;

/** A handler with its method and the path below /admin/realms/{realm}; a segment that begins with `:` is any. */
export type AdminRoute = readonly [method: string, pattern: string, handler: AdminHandler];

/** Answered as Keycloak does: 404 has `error`, others have `errorMessage`. */
export class AdminRefusal extends Error {
  override readonly name = 'AdminRefusal';
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export const done: AdminAnswer = { status: 204 };

export function found(body: unknown): AdminAnswer {
  return { status: 200, body };
}

/** Throws AdminRefusal 404 with these words. */
export function orMissing<T>(value: T | undefined, words: string): T {
  if (value === undefined) throw new AdminRefusal(404, words);
  return value;
}

/** Throws AdminRefusal 400 where it is not text. */
export function textOf(value: unknown, member: string): string {
  if (typeof value !== 'string' || value === '') throw new AdminRefusal(400, `${member} is missing`);
  return value;
}

/** `first` and `max` of a list. */
export function paged<T>(list: readonly T[], query: URLSearchParams): T[] {
  const first = Number(query.get('first') ?? 0);
  return list.slice(first, first + Number(query.get('max') ?? list.length));
}
