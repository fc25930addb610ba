/**
 * Statements with parameters are prepared once a connection (PostgreSQL's protocol, extended query): rewriting them under
 * row level security and planning them costs as much as running them.
 */
import { createHash } from 'node:crypto';
import type pg from 'pg';

/** More texts than this are sent as they are: lists of changing length must not fill the server's memory. */
const MAX_PREPARED = 300;

let names = new Map<string, string>();
let epoch = 0;

/** One name a text, undefined where there are too many. */
export function preparedName(text: string): string | undefined {
  let name = names.get(text);
  if (name === undefined) {
    if (names.size >= MAX_PREPARED) return undefined;
    name = `r${epoch}_${createHash('sha256').update(text).digest('hex').slice(0, 24)}`;
    names.set(text, name);
  }
  return name;
}

/** After a migration a prepared statement may answer with other columns; PostgreSQL refuses it then (0A000). */
export function isStalePlan(error: unknown): boolean {
  const { code, message } = (error ?? {}) as { code?: string; message?: string };
  return code === '0A000' && message !== undefined && message.includes('cached plan');
}

/** From now on everything is prepared anew, under other names. */
export function forgetPrepared(): void {
  names = new Map();
  epoch += 1;
}

/** A statement that was prepared before everything was forgotten says nothing of those that were prepared since. */
function forgetIfKnown(text: string, name: string | undefined): void {
  if (name !== undefined && names.get(text) === name) forgetPrepared();
}

/** What pg's client has and its types do not say. */
interface ClientInternals {
  connection?: { stream?: { cork(): void; uncork(): void } };
}

/**
 * Lets a pool's client prepare what it sends with parameters, and send what is asked in one turn of the event loop by one
 * system call: those calls cost more than building the messages.
 */
export function prepareStatements(client: pg.PoolClient): void {
  const query = client.query.bind(client) as (...args: unknown[]) => unknown;
  const stream = (client as unknown as ClientInternals).connection?.stream;
  let isCorked = false;
  client.query = ((text: unknown, values?: unknown, callback?: unknown) => {
    if (stream && !isCorked) {
      isCorked = true;
      stream.cork();
      setImmediate(() => {
        isCorked = false;
        stream.uncork();
      });
    }
    if (typeof text !== 'string' || !Array.isArray(values) || values.length === 0) return query(text, values, callback);
    const name = preparedName(text);
    const answer = query({ name, text, values }, callback);
    // Whoever asked hears of it, too; here it is seen to that it does not come again, whatever they do.
    if (answer instanceof Promise) answer.catch((error) => isStalePlan(error) && forgetIfKnown(text, name));
    return answer;
  }) as typeof client.query;
}
