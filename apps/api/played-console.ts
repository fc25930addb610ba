/** For this server's tests: a console whose other end the test holds, and what came to a client of it. */
import type WebSocket from 'ws';
import type { RhyzomeError } from '#libs/core';
import { type AttachedConsole, ConsoleRelay, type ConsoleTarget } from '#libs/nodes';

type Part = { data: Uint8Array; hasKeyboard?: boolean };

/** A console of which the test holds the other end. */
export class PlayedConsole implements AttachedConsole {
  readonly typed: string[] = [];
  hasLeft = false;
  private parts: Part[] = [];
  private ended: Error | true | undefined;
  private wake: () => void = () => {};

  constructor(
    readonly target: ConsoleTarget & { mayType: boolean },
    readonly signal: AbortSignal,
  ) {
    signal.addEventListener('abort', () => {
      this.hasLeft = true;
      this.end();
    });
  }

  /** What was said and not taken. */
  get waiting(): number {
    return this.parts.length;
  }

  get output() {
    return this.all();
  }

  say(text: string, hasKeyboard?: boolean): void {
    this.parts.push({ data: Buffer.from(text), hasKeyboard });
    this.wake();
  }

  end(error?: Error): void {
    this.ended ??= error ?? true;
    this.wake();
  }

  async type(data: Uint8Array): Promise<void> {
    this.typed.push(Buffer.from(data).toString());
  }

  private async *all(): AsyncGenerator<Part> {
    for (;;) {
      const next = this.parts.shift();
      if (next) yield next;
      else if (this.ended instanceof Error) throw this.ended;
      else if (this.ended) return;
      else
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
    }
  }
}

export class PlayedRelay extends ConsoleRelay {
  readonly consoles: PlayedConsole[] = [];
  refusal: RhyzomeError | undefined;

  override async attach(target: ConsoleTarget & { mayType: boolean }, _caller: unknown, signal: AbortSignal) {
    if (this.refusal) throw this.refusal;
    const console = new PlayedConsole(target, signal);
    this.consoles.push(console);
    return console;
  }
}

/** What came to a client. */
export class Client {
  text = '';
  readonly control: unknown[] = [];
  code = 0;
  reason = '';

  constructor(readonly socket: WebSocket) {
    socket.on('message', (data, isBinary) => {
      if (isBinary) this.text += data.toString();
      else this.control.push(JSON.parse(data.toString()));
    });
    socket.on('close', (code, reason) => {
      this.code = code;
      this.reason = reason.toString();
    });
  }
}
