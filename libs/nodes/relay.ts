/** From rhyzome-api to the replica that holds a node's stream: bytes in flight that do not go through PostgreSQL. */

import { once } from 'node:events';
import * as grpc from '@grpc/grpc-js';
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import type { CredentialsSource } from '#libs/pki';
import {
  type ConsoleLogResponse,
  type ConsoleRequest,
  type ConsoleResponse,
  isUnavailable,
  problemOf,
  requestIdKey,
} from '#libs/rpc';
import { ReplicaChannels } from './replica-channels.js';

export interface ConsoleTarget {
  nodeId: string;
  tenantId: string;
  instanceId: string;
  /** At most so many bytes from the end. */
  tailBytes: number;
}

/** A console that is open. */
export interface AttachedConsole {
  /**
   * The log's end, whether this viewer has the keyboard, then what the machine says and changes of the keyboard. Throws RhyzomeError when it ends: `not_ready` (the machine went
   * off), `node_unreachable`, `overloaded` (the reader is too slow).
   */
  output: AsyncIterable<{ data: Uint8Array; hasKeyboard?: boolean }>;
  /** Resolves when there is room for the next. */
  type(data: Uint8Array): Promise<void>;
}

interface RelayCaller {
  requestId: string;
  traceparent?: string;
}

type ConsoleDuplex = grpc.ClientDuplexStream<ConsoleRequest, ConsoleResponse>;

const FIRST_BYTE_MS = 10_000;

export class ConsoleRelay {
  private readonly channels: ReplicaChannels;

  constructor(
    private readonly db: Database,
    credentials: CredentialsSource,
  ) {
    this.channels = new ReplicaChannels(credentials);
  }

  /**
   * The serial log as it stands, in chunks; resolves with the first. Throws RhyzomeError `node_unreachable` when nobody
   * holds the node's stream or the node does not answer.
   */
  async open(target: ConsoleTarget, caller: RelayCaller, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    const replica = await this.holderOf(target.nodeId);
    const call = this.channels.call(replica, (client) =>
      client.consoleLog({ ...target, tailBytes: BigInt(target.tailBytes) }, metadataOf(caller), {
        deadline: Date.now() + 60_000,
      }),
    );
    signal.addEventListener('abort', () => call.cancel(), { once: true });
    const chunks = (call as AsyncIterable<ConsoleLogResponse>)[Symbol.asyncIterator]();
    const timer = setTimeout(() => call.cancel(), FIRST_BYTE_MS);
    try {
      const first = await chunks.next();
      return rest(first, chunks);
    } catch (error) {
      throw asUnreachable(error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * A seat at the console of a machine that runs; resolves when it is taken. Throws RhyzomeError: `node_unreachable`,
   * `not_ready`, `overloaded`. `signal` leaves it.
   */
  async attach(
    target: ConsoleTarget & { mayType: boolean },
    caller: RelayCaller,
    signal: AbortSignal,
  ): Promise<AttachedConsole> {
    const replica = await this.holderOf(target.nodeId);
    const call = this.channels.call(replica, (client) =>
      client.console(metadataOf(caller), { deadline: Number.POSITIVE_INFINITY }),
    );
    call.on('error', () => undefined); // The loop over the output has it; before that, the first message.
    const leave = () => call.cancel();
    signal.addEventListener('abort', leave, { once: true });
    const timer = setTimeout(leave, FIRST_BYTE_MS);
    const parts = (call as AsyncIterable<ConsoleResponse>)[Symbol.asyncIterator]();
    const early: ConsoleResponse[] = [];
    try {
      call.write({ body: { $case: 'open', value: { ...target, tailBytes: BigInt(target.tailBytes) } } });
      // The log's end comes before the word on the keyboard, which says that the seat is taken.
      for (;;) {
        const next = await parts.next();
        if (next.done) throw unreachable();
        early.push(next.value);
        if (next.value.hasKeyboard !== undefined) break;
      }
    } catch (error) {
      call.cancel();
      throw asConsoleError(error);
    } finally {
      clearTimeout(timer);
    }
    return {
      output: consoleOutput(early, parts),
      type: (data) => write(call, { body: { $case: 'input', value: Buffer.from(data) } }, signal),
    };
  }

  private async holderOf(nodeId: string): Promise<string> {
    const [session] = await this.db.unscopedRead(
      sql<{ replica: string | null }>`
        select s.replica from node n join node_session s on s.node_id = n.id
        where n.id = ${nodeId} and node_connected(n)`.compile(this.db.builder),
    );
    if (!session?.replica) throw unreachable();
    return session.replica;
  }

  close(): void {
    this.channels.close();
  }
}

async function* rest(
  first: IteratorResult<ConsoleLogResponse>,
  chunks: AsyncIterator<ConsoleLogResponse>,
): AsyncGenerator<Uint8Array> {
  for (let next = first; !next.done; next = await chunks.next()) yield next.value.data;
}

function metadataOf(caller: RelayCaller): grpc.Metadata {
  const metadata = new grpc.Metadata();
  metadata.set(requestIdKey, caller.requestId);
  if (caller.traceparent) metadata.set('traceparent', caller.traceparent);
  return metadata;
}

async function* consoleOutput(
  early: ConsoleResponse[],
  parts: AsyncIterator<ConsoleResponse>,
): AsyncGenerator<ConsoleResponse> {
  yield* early;
  try {
    for (let next = await parts.next(); !next.done; next = await parts.next()) yield next.value;
  } catch (error) {
    throw asConsoleError(error);
  }
}

async function write(call: ConsoleDuplex, request: ConsoleRequest, signal: AbortSignal): Promise<void> {
  if (signal.aborted || call.write(request)) return;
  // A stream that ended has no room any more, and nobody to type for.
  await once(call, 'drain', { signal }).catch(() => undefined);
}

/** The console's own end in the words of the node; everything else is the way to it. */
function asConsoleError(error: unknown): unknown {
  const problem = problemOf(error);
  if (error instanceof RhyzomeError) return error;
  return problem && problem.code !== 'not_found' ? problem : asUnreachable(error);
}

function unreachable(cause?: unknown): RhyzomeError {
  return new RhyzomeError('node_unreachable', 'The node that carries the instance does not answer now; try again.', {
    retryAfterSeconds: 2,
    cause,
  });
}

function asUnreachable(error: unknown): unknown {
  const { code } = error as { code?: number };
  const away: (number | undefined)[] = [grpc.status.NOT_FOUND, grpc.status.CANCELLED, grpc.status.DEADLINE_EXCEEDED];
  return isUnavailable(error) || away.includes(code) ? unreachable(error) : error;
}
