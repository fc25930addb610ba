/**
 * Whole tables in and out, by PostgreSQL's COPY in its text format, in chunks and with back-pressure, and a session of the
 * owner's to do it in. For backups only: row level security and triggers are their business.
 */
import pg from 'pg';
import { asRole, type Role } from './pools.js';

/** What of pg's connection is used; its own types leave it out. */
interface Wire {
  stream: { pause(): void; resume(): void; writableNeedDrain: boolean; once(event: 'drain', call: () => void): void };
  query(text: string): void;
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
  sendCopyFail(message: string): void;
}

/** Rows come in pieces of about this size, and at most so many bytes wait. */
const CHUNK_BYTES = 64 * 1024;
const MOST_WAITING_BYTES = 1024 * 1024;

/** One session without time limits, as `role`; ends with `work`. */
export async function withSession<T>(
  connection: pg.ClientConfig,
  role: Role | null,
  applicationName: string,
  work: (session: pg.Client) => Promise<T>,
): Promise<T> {
  const session = new pg.Client(asRole(connection, role, { applicationName, statementTimeoutMs: 0 }));
  let broken: Error | undefined;
  session.on('error', (error) => {
    broken = error;
  });
  await session.connect();
  try {
    await session.query('set idle_in_transaction_session_timeout = 0');
    return await work(session);
  } catch (error) {
    throw broken ?? error;
  } finally {
    await session.end();
  }
}

/** The rows of a query, each on its line, in pieces that end with a line. */
export async function* copyOut(session: pg.Client, query: string): AsyncGenerator<Buffer> {
  const copy = new CopyOut(`copy (${query}) to stdout`);
  session.query(copy as never);
  let done = false;
  try {
    for (;;) {
      const chunk = await copy.next();
      if (!chunk) break;
      yield chunk;
    }
    done = true;
  } finally {
    // Whoever stops in the middle cannot go on with the session.
    if (!done) copy.drop();
  }
}

/** Puts rows as `copyOut` gives them into a table; resolves with how many they were. */
export async function copyIn(session: pg.Client, target: string, rows: AsyncIterable<Buffer>): Promise<number> {
  const copy = new CopyIn(`copy ${target} from stdin`);
  session.query(copy as never);
  return copy.feed(rows);
}

/** What pg calls of a query that is being answered; most of it does not happen here. */
abstract class Exchange {
  readonly callback = undefined;
  protected wire: Wire | undefined;
  protected failure: Error | undefined;

  constructor(private readonly text: string) {}

  submit(wire: Wire): null {
    this.wire = wire;
    wire.query(this.text);
    return null;
  }
  handleRowDescription(): void {}
  handleDataRow(): void {}
  handlePortalSuspended(): void {}
  handleEmptyQuery(): void {}
  handleCommandComplete(_message: { text: string }): void {}
  handleCopyInResponse(wire: Wire): void {
    wire.sendCopyFail('nothing to give');
  }
  handleCopyData(_message: { chunk: Buffer }): void {}
  handleError(error: Error): void {
    this.failure ??= error;
    this.ended();
  }
  handleReadyForQuery(): void {
    this.ended();
  }
  protected abstract ended(): void;
}

class CopyOut extends Exchange {
  private waiting: Buffer[] = [];
  private bytes = 0;
  private isEnded = false;
  private isPaused = false;
  private wake: (() => void) | undefined;

  override handleCopyData({ chunk }: { chunk: Buffer }): void {
    // The parser uses its buffer again.
    this.waiting.push(Buffer.from(chunk));
    this.bytes += chunk.length;
    if (this.bytes > MOST_WAITING_BYTES && !this.isPaused) {
      this.isPaused = true;
      this.wire!.stream.pause();
    }
    if (this.bytes >= CHUNK_BYTES) this.wake?.();
  }

  protected override ended(): void {
    this.isEnded = true;
    this.wake?.();
  }

  /** What has come, at least a piece of it; undefined at the end. Throws what the server said. */
  async next(): Promise<Buffer | undefined> {
    if (this.bytes < CHUNK_BYTES && !this.isEnded) {
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
      this.wake = undefined;
    }
    if (this.failure) throw this.failure;
    const chunk = this.bytes > 0 ? Buffer.concat(this.waiting) : undefined;
    this.waiting = [];
    this.bytes = 0;
    if (this.isPaused) {
      this.isPaused = false;
      this.wire!.stream.resume();
    }
    return chunk;
  }

  drop(): void {
    this.handleCopyData = () => undefined;
    this.wire?.stream.resume();
  }
}

class CopyIn extends Exchange {
  private rows = 0;
  private readonly begun = Promise.withResolvers<void>();
  private readonly over = Promise.withResolvers<void>();

  override handleCopyInResponse(): void {
    this.begun.resolve();
  }
  override handleCommandComplete({ text }: { text: string }): void {
    this.rows = Number(text.split(' ')[1]);
  }
  protected override ended(): void {
    this.begun.resolve();
    this.over.resolve();
  }

  async feed(rows: AsyncIterable<Buffer>): Promise<number> {
    await this.begun.promise;
    try {
      for await (const chunk of rows) {
        if (this.failure) break;
        this.wire!.sendCopyFromChunk(chunk);
        const { stream } = this.wire!;
        if (stream.writableNeedDrain)
          await Promise.race([new Promise<void>((resolve) => stream.once('drain', resolve)), this.over.promise]);
      }
    } catch (error) {
      this.wire!.sendCopyFail('the rows could not be read');
      await this.over.promise;
      throw error;
    }
    if (!this.failure) this.wire!.endCopyFrom();
    await this.over.promise;
    if (this.failure) throw this.failure;
    return this.rows;
  }
}
