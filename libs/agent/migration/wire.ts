/**
 * The agents' own way from node to node, for machines that move. A node takes in only what the controller told it to
 * expect: one operation, from one node, which proves by its certificate that it is that node. Each channel of an
 * operation is a connection of its own: a line with the question, a line with the answer, then the channel's bytes.
 */
import type { Duplex } from 'node:stream';
import { type Asked, DriverError, type DriverLog, type Message, type MigrationWire } from '#libs/drivers/contract';
import { type CredentialsSource, dialNode, listenForNodes, type NodeListener } from '#libs/pki';
import { readMessage, writeMessage } from './lines.js';

export interface WireOptions {
  credentials: CredentialsSource;
  /** host:port; undefined: this node takes in no machines, and only sends. */
  listen?: string;
  log: DriverLog;
}

interface Expected {
  from: string;
  serve: (asked: Asked) => Promise<void>;
  open: Set<Duplex>;
}

/** How long an answer may take: preparing fetches an image (ms). */
const ANSWER_MS = 30 * 60_000;

export class Wire implements MigrationWire {
  private readonly expected = new Map<string, Expected>();
  private listener: NodeListener | undefined;

  private constructor(private readonly options: WireOptions) {}

  static async start(options: WireOptions): Promise<Wire> {
    const wire = new Wire(options);
    const { listen, credentials, log } = options;
    if (listen !== undefined) {
      wire.listener = await listenForNodes({
        listen,
        credentials,
        onNode: (name, socket) => void wire.take(name, socket),
        onRefused: (error) => log.warn({ reason: error.message }, 'a connection from another node was refused'),
      });
    }
    return wire;
  }

  /** Where it listens; undefined: nowhere. */
  get address(): string | undefined {
    return this.listener?.address;
  }

  async close(): Promise<void> {
    await this.listener?.close();
  }

  expect(operationId: string, from: string, serve: (asked: Asked) => Promise<void>): void {
    const known = this.expected.get(operationId);
    if (known?.from === from) known.serve = serve;
    else this.expected.set(operationId, { from, serve, open: new Set() });
  }

  forget(operationId: string): void {
    const known = this.expected.get(operationId);
    this.expected.delete(operationId);
    for (const stream of known?.open ?? []) stream.destroy();
  }

  async open(
    peer: { node: string; address: string },
    operationId: string,
    channel: string,
    question: Message,
    signal: AbortSignal,
  ): Promise<{ answer: Message; stream: Duplex }> {
    let stream: Duplex | undefined;
    const abort = () => stream?.destroy(signal.reason as Error);
    try {
      stream = await dialNode({ ...peer, credentials: this.options.credentials, signal });
      signal.addEventListener('abort', abort, { once: true });
      await writeMessage(stream, { operationId, channel, question });
      const { answer, failure } = await readMessage(stream, ANSWER_MS);
      if (failure) throw failureFrom(peer.node, failure);
      return { answer: (answer ?? {}) as Message, stream };
    } catch (error) {
      stream?.destroy();
      signal.throwIfAborted();
      if (error instanceof DriverError) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new DriverError('peer_unreachable', `Node ${peer.node} cannot be reached: ${reason}`, { cause: error });
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  /** Serves one connection. Whatever goes wrong with it ends it and nothing else. */
  private async take(from: string, stream: Duplex): Promise<void> {
    try {
      const { operationId, channel, question } = await readMessage(stream);
      const known = this.expected.get(String(operationId));
      if (known?.from !== from) {
        throw new DriverError('not_expected', 'This node expects nothing of that operation from you.');
      }
      known.open.add(stream);
      stream.once('close', () => known.open.delete(stream));
      await known.serve({
        channel: String(channel),
        question: (question ?? {}) as Message,
        accept: async (answer) => {
          await writeMessage(stream, { answer });
          return stream;
        },
      });
    } catch (error) {
      const isTold = error instanceof DriverError;
      this.options.log[isTold ? 'warn' : 'error']({ err: error, from }, 'a connection from another node failed');
      const failure = isTold
        ? { code: error.code, message: error.message, permanent: error.permanent }
        : { code: 'internal', message: 'Something went wrong on that node; its log says what.' };
      // It may be the connection itself that failed; then there is nobody to tell.
      await writeMessage(stream, { failure }).catch(() => undefined);
      stream.end();
    }
  }
}

function failureFrom(node: string, failure: unknown): DriverError {
  const { code, message, permanent } = failure as Record<string, unknown>;
  return new DriverError(String(code), `Node ${node}: ${String(message)}`, { permanent: permanent === true });
}
