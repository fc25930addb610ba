/**
 * One WebSocket at a console: binary messages are bytes both ways, text messages are JSON about the console. Ends with
 * its machine, its node, its token, or with a client that reads no more.
 */
import type { WebSocket } from 'ws';
import { RhyzomeError, type StreamGuard } from '#libs/core';
import type { AttachedConsole } from '#libs/nodes';

export interface ConsoleSessionOptions {
  socket: WebSocket;
  console: AttachedConsole;
  mayType: boolean;
  /** Aborts when the caller may no longer be here. */
  guard: StreamGuard;
  /** Aborts when this server ends. */
  closing: AbortSignal;
}

/** Close codes (RFC 6455 §7.4.1, and the registry of close codes for 1012 and 1013). */
const codes = { normal: 1000, unsupported: 1003, policy: 1008, internal: 1011, restart: 1012, tryAgain: 1013 };

const PING_MS = 20_000;
/** What the client has not read is kept up to here; then the console waits for it, and lets it go if it lasts. */
const MAX_BUFFERED_BYTES = 256 * 1024;
/** For the client's half of the closing handshake. */
const CLOSE_MS = 5_000;

/** Until the end, which is told in the close frame. Never rejects. */
export async function runConsole(options: ConsoleSessionOptions): Promise<void> {
  const session = new ConsoleSession(options);
  await session.run();
}

class ConsoleSession {
  private readonly left = new AbortController();
  private readonly timers: NodeJS.Timeout[] = [];
  private isAlive = true;

  constructor(private readonly options: ConsoleSessionOptions) {}

  async run(): Promise<void> {
    const { socket, closing, guard } = this.options;
    socket.once('close', () => this.left.abort());
    socket.on('error', () => undefined); // Its close follows, with a code.
    socket.on('pong', () => {
      this.isAlive = true;
    });
    socket.on('message', (data, isBinary) => this.take(data as Buffer, isBinary));
    const restart = () => this.close(codes.restart, 'restart: The server restarts; attach again.');
    closing.addEventListener('abort', restart, { once: true });
    const unwelcome = () => this.close(codes.policy, `${guard.reason!.code}: ${guard.reason!.message}`);
    guard.signal.addEventListener('abort', unwelcome, { once: true });
    this.timers.push(setInterval(() => this.ping(), PING_MS));
    if (guard.signal.aborted) unwelcome();
    if (closing.aborted) restart();
    try {
      await this.pump();
      this.close(codes.normal, 'The console has ended.');
    } catch (error) {
      this.close(...endOf(error));
    } finally {
      closing.removeEventListener('abort', restart);
      await this.gone();
      for (const timer of this.timers) clearInterval(timer);
    }
  }

  private async pump(): Promise<void> {
    for await (const { data, hasKeyboard } of this.options.console.output) {
      if (this.left.signal.aborted) return;
      if (hasKeyboard !== undefined) await this.send(JSON.stringify({ type: 'keyboard', has: hasKeyboard }));
      if (data.byteLength > 0) await this.send(data);
    }
  }

  /** Resolves when the client has room for more, or is gone. */
  private send(data: Uint8Array | string): Promise<void> | undefined {
    const { socket } = this.options;
    if (socket.readyState !== socket.OPEN) return undefined;
    if (socket.bufferedAmount <= MAX_BUFFERED_BYTES) {
      socket.send(data, () => undefined); // A failure is followed by the socket's close.
      return undefined;
    }
    return new Promise((resolve) => {
      const done = () => {
        this.left.signal.removeEventListener('abort', done);
        resolve();
      };
      this.left.signal.addEventListener('abort', done, { once: true });
      socket.send(data, done);
    });
  }

  private take(data: Buffer, isBinary: boolean): void {
    const { socket, console, mayType } = this.options;
    if (!isBinary) {
      this.close(codes.unsupported, 'unsupported: Send binary messages; they are typed.');
      return;
    }
    if (!mayType || this.left.signal.aborted) return;
    // The next message is read when there is room for it.
    socket.pause();
    console.type(data).then(
      () => socket.resume(),
      () => undefined, // The console has ended, which its output says.
    );
  }

  private ping(): void {
    const { socket } = this.options;
    if (!this.isAlive) {
      socket.terminate();
      return;
    }
    this.isAlive = false;
    if (socket.readyState === socket.OPEN) socket.ping();
  }

  private close(code: number, reason: string): void {
    const { socket } = this.options;
    if (socket.readyState !== socket.OPEN) return;
    socket.close(code, cut(reason));
    this.timers.push(setTimeout(() => socket.terminate(), CLOSE_MS));
  }

  private gone(): Promise<void> {
    const { signal } = this.left;
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
  }
}

function endOf(error: unknown): [code: number, reason: string] {
  if (!(error instanceof RhyzomeError)) return [codes.internal, 'internal: Something went wrong on our side.'];
  const reason = error.details.extensions?.reason;
  const said = `${typeof reason === 'string' ? reason : error.code}: ${error.message}`;
  if (error.code === 'not_ready') return [codes.normal, said];
  return [error.code === 'node_unreachable' || error.code === 'overloaded' ? codes.tryAgain : codes.internal, said];
}

/** A close frame's reason has at most 123 bytes (RFC 6455 §5.5). */
function cut(reason: string): string {
  let text = reason.slice(0, 123);
  while (Buffer.byteLength(text) > 123) text = text.slice(0, -1);
  return text;
}
