/** A reader of `GET /v1/events` (WHATWG HTML §9.2.6) that keeps what it saw. */
import type { Client } from './client.js';
import { until } from './until.js';

export interface SeenEvent {
  id: string;
  type: string;
  data: any;
}

export class EventStream {
  readonly seen: SeenEvent[] = [];
  readonly comments: string[] = [];
  private readonly controller = new AbortController();
  private reading: Promise<void> | undefined;
  private rest = '';
  /** The server has ended it. */
  hasEnded = false;
  /** The connection broke. */
  wasCut = false;

  private constructor() {}

  /** Opens it; resolves when the server has begun to answer. */
  static async open(
    base: string,
    client: Client,
    query = '',
    headers: Record<string, string> = {},
  ): Promise<EventStream> {
    const stream = new EventStream();
    const response = await fetch(`${base}/v1/events${query}`, {
      headers: { authorization: `Bearer ${client.token}`, accept: 'text/event-stream', ...headers },
      signal: stream.controller.signal,
    });
    if (response.status !== 200 || !response.body) throw new Error(`${response.status}: ${await response.text()}`);
    stream.reading = stream.read(response.body);
    return stream;
  }

  private async read(body: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    try {
      for await (const chunk of body) this.take(decoder.decode(chunk, { stream: true }));
      this.hasEnded = true;
    } catch (error) {
      // Closed by us, or the server went away: what was seen counts.
      if (!this.controller.signal.aborted && !(error instanceof TypeError)) throw error;
      this.wasCut = true;
    }
  }

  private take(text: string): void {
    const blocks = (this.rest + text).split('\n\n');
    this.rest = blocks.pop() ?? '';
    for (const block of blocks) {
      if (block.startsWith(':')) this.comments.push(block.slice(1).trim());
      else {
        const fields = new Map(block.split('\n').map((line) => line.split(/: (.*)/s).slice(0, 2) as [string, string]));
        const data = JSON.parse(fields.get('data') ?? 'null');
        this.seen.push({ id: fields.get('id') ?? '', type: fields.get('event') ?? '', data });
      }
    }
  }

  /** Resolves when it has ended or broken. */
  async ended(): Promise<void> {
    await this.reading;
  }

  /** Until something that fits was seen; gives it. */
  next(what: string, fits: (event: SeenEvent) => boolean): Promise<SeenEvent> {
    return until(`event ${what}`, () => this.seen.find(fits), 20_000);
  }

  async close(): Promise<void> {
    this.controller.abort();
    await this.reading;
  }
}
