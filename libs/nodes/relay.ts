/** From rhyzome-api to the replica that holds a node's stream: bytes in flight that do not go through PostgreSQL. */
import * as grpc from '@grpc/grpc-js';
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import type { CredentialsSource } from '#libs/pki';
import {
  type ConsoleLogResponse,
  createChannel,
  isUnavailable,
  RelayServiceClient,
  type RpcChannel,
  requestIdKey,
} from '#libs/rpc';

export interface ConsoleTarget {
  nodeId: string;
  tenantId: string;
  instanceId: string;
  /** At most so many bytes from the end. */
  tailBytes: number;
}

const FIRST_BYTE_MS = 10_000;
const MAX_CHANNELS = 64;

export class ConsoleRelay {
  private readonly channels = new Map<string, RpcChannel>();

  constructor(
    private readonly db: Database,
    private readonly credentials: CredentialsSource,
  ) {}

  /**
   * The serial log as it stands, in chunks; resolves with the first. Throws RhyzomeError `node_unreachable` when nobody
   * holds the node's stream or the node does not answer.
   */
  async open(
    target: ConsoleTarget,
    caller: { requestId: string; traceparent?: string },
    signal: AbortSignal,
  ): Promise<AsyncIterable<Uint8Array>> {
    const replica = await this.holderOf(target.nodeId);
    const metadata = new grpc.Metadata();
    metadata.set(requestIdKey, caller.requestId);
    if (caller.traceparent) metadata.set('traceparent', caller.traceparent);
    const call = this.channelTo(replica)
      .client(RelayServiceClient)
      .consoleLog({ ...target, tailBytes: BigInt(target.tailBytes) }, metadata, { deadline: Date.now() + 60_000 });
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

  private async holderOf(nodeId: string): Promise<string> {
    const [session] = await this.db.unscopedRead(
      sql<{ replica: string | null }>`
        select replica from node_session where node_id = ${nodeId} and heartbeat_at > now() - interval '60 seconds'`.compile(
        this.db.builder,
      ),
    );
    if (!session?.replica) throw unreachable();
    return session.replica;
  }

  private channelTo(replica: string): RpcChannel {
    const known = this.channels.get(replica);
    if (known) return known;
    if (this.channels.size >= MAX_CHANNELS) this.close();
    const channel = createChannel({ target: replica, credentials: this.credentials });
    this.channels.set(replica, channel);
    return channel;
  }

  close(): void {
    for (const channel of this.channels.values()) channel.close();
    this.channels.clear();
  }
}

async function* rest(
  first: IteratorResult<ConsoleLogResponse>,
  chunks: AsyncIterator<ConsoleLogResponse>,
): AsyncGenerator<Uint8Array> {
  for (let next = first; !next.done; next = await chunks.next()) yield next.value.data;
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
