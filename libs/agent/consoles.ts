/**
 * Serial lines that several people share: the line of a machine is open once, everybody who watches gets what it says,
 * and of those who may type the first that came has the keyboard. A viewer who reads too slowly is let go and stops
 * nobody. The log's end comes first, so that who comes later sees what was said.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Capability, type ConsoleLine, DriverError, type Ref } from '#libs/drivers/contract';
import { itemKey } from './item.js';

/** What of a line goes to one viewer. Never waits: a viewer queues for itself. */
export interface Viewer {
  readonly mayType: boolean;
  /** False: it cannot take that any more, and has ended itself. */
  take(data: Uint8Array): boolean;
  keyboard(has: boolean): void;
  end(reason: DriverError): void;
}

/** A viewer's place at a line. */
export interface Seat {
  /** Typed only while the viewer has the keyboard. False: more than the guest takes. */
  type(data: Uint8Array): boolean;
  leave(): void;
}

const mostViewers = 20;
/** What was typed and the guest has not taken yet. */
const mostTypedBytes = 1024 * 1024;
/**
 * A line that says more than this in a second is read more slowly (bytes), as any serial line is: what comes after it
 * can take that much, and a guest that talks without end keeps nothing else from the controller.
 */
const mostBytesASecond = 2 * 1024 * 1024;
/** What the line says while the log is read for one who came. */
const mostHeldBytes = 4 * 1024 * 1024;

export class Consoles {
  private readonly lines = new Map<string, SharedLine>();

  constructor(private readonly onError: (error: unknown) => void) {}

  /**
   * Takes a seat; the last `tailBytes` of the log come first. Throws DriverError: what the driver throws (`not_running`,
   * `not_found`), `overloaded`.
   */
  async sit(capability: Capability<any, any>, ref: Ref, tailBytes: number, viewer: Viewer): Promise<Seat> {
    const key = itemKey(ref);
    let line = this.lines.get(key);
    if (!line) {
      line = new SharedLine(capability, ref, this.onError, () => {
        if (this.lines.get(key) === line) this.lines.delete(key);
      });
      this.lines.set(key, line);
    }
    return line.sit(tailBytes, viewer);
  }

  close(): void {
    for (const line of [...this.lines.values()]) {
      line.end(new DriverError('node_unreachable', 'The node’s stream has ended.'));
    }
  }
}

interface Place {
  viewer: Viewer;
  /** What the line said since the viewer came, while the log is read for it; undefined: it is up to date. */
  held: Uint8Array[] | undefined;
  heldBytes: number;
}

class SharedLine {
  private readonly places = new Set<Place>();
  private readonly opened: Promise<ConsoleLine>;
  private typist: Place | undefined;
  private typing: Promise<void> = Promise.resolve();
  private typedBytes = 0;
  private line: ConsoleLine | undefined;
  private ended: DriverError | undefined;

  constructor(
    private readonly capability: Capability<any, any>,
    private readonly ref: Ref,
    private readonly onError: (error: unknown) => void,
    private readonly onEnd: () => void,
  ) {
    this.opened = this.open();
    this.opened.catch(() => {}); // Whoever sits down gets it.
  }

  async sit(tailBytes: number, viewer: Viewer): Promise<Seat> {
    if (this.places.size >= mostViewers) {
      throw new DriverError('overloaded', `${mostViewers} people watch this console already.`);
    }
    const place: Place = { viewer, held: [], heldBytes: 0 };
    this.places.add(place);
    try {
      await this.opened;
      const tail = await this.tail(tailBytes);
      if (this.ended) throw this.ended;
      if (!this.places.has(place)) throw new DriverError('overloaded', 'The console says more than can be kept.');
      this.catchUp(place, tail);
    } catch (error) {
      this.leave(place);
      throw error;
    }
    return { type: (data) => this.type(place, data), leave: () => this.leave(place) };
  }

  /** Everybody leaves, and the line is closed. */
  end(reason: DriverError): void {
    if (this.ended) return;
    this.ended = reason;
    this.onEnd();
    this.line?.close();
    for (const { viewer, held } of this.places) {
      if (!held) viewer.end(reason); // The others are told by `sit`.
    }
    this.places.clear();
  }

  private async open(): Promise<ConsoleLine> {
    try {
      if (!this.capability.console) throw new DriverError('unknown_channel', 'This node has no consoles.');
      const line = await this.capability.console(this.ref);
      this.line = line;
      if (this.ended) line.close();
      else void this.listen(line);
      return line;
    } catch (error) {
      this.ended ??=
        error instanceof DriverError ? error : new DriverError('internal', 'The console cannot be opened.');
      this.onEnd();
      throw error;
    }
  }

  private async listen(line: ConsoleLine): Promise<void> {
    try {
      let [second, said] = [Date.now(), 0];
      for await (const data of line.output) {
        if (this.ended) return;
        for (const place of [...this.places]) this.give(place, data);
        said += data.length;
        const restMs = second + (said / mostBytesASecond) * 1000 - Date.now();
        if (restMs > 100) await sleep(restMs);
        if (restMs < 0) [second, said] = [Date.now(), 0];
      }
      this.end(new DriverError('machine_off', 'The machine went off.'));
    } catch (error) {
      if (!this.ended) this.onError(error);
      this.end(error instanceof DriverError ? error : new DriverError('machine_off', 'The console was cut off.'));
    }
  }

  private give(place: Place, data: Uint8Array): void {
    if (!place.held) {
      if (!place.viewer.take(data)) this.leave(place);
      return;
    }
    place.held.push(data);
    place.heldBytes += data.length;
    if (place.heldBytes > mostHeldBytes) this.places.delete(place);
  }

  private async tail(bytes: number): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of this.capability.consoleLog?.(this.ref, bytes) ?? []) {
      chunks.push(chunk);
      size += chunk.length;
      if (size >= bytes) break;
    }
    return Buffer.concat(chunks).subarray(0, bytes);
  }

  /** What the line said while the log was read stands in the log as well, or not yet: it is told once. */
  private catchUp(place: Place, tail: Buffer): void {
    const said = Buffer.concat(place.held ?? []);
    place.held = undefined;
    const rest = said.subarray(overlap(tail, said));
    if (tail.length > 0) place.viewer.take(tail);
    if (rest.length > 0) place.viewer.take(rest);
    if (place.viewer.mayType && !this.typist) this.pass(place);
    else place.viewer.keyboard(false);
  }

  private type(place: Place, data: Uint8Array): boolean {
    if (place !== this.typist || this.ended) return true;
    if (this.typedBytes + data.length > mostTypedBytes) return false;
    this.typedBytes += data.length;
    this.typing = this.typing
      .then(() => this.line?.write(data))
      .catch((error: unknown) => {
        if (!this.ended) this.onError(error);
        this.end(new DriverError('machine_off', 'The console takes no input any more.'));
      })
      .then(() => {
        this.typedBytes -= data.length;
      });
    return true;
  }

  private leave(place: Place): void {
    this.places.delete(place);
    if (this.ended) return;
    if (this.typist === place) {
      this.typist = undefined;
      for (const next of this.places) {
        if (!next.viewer.mayType || next.held) continue;
        this.pass(next);
        break;
      }
    }
    if (this.places.size === 0) this.end(new DriverError('left', 'Nobody watches any more.'));
  }

  private pass(place: Place): void {
    this.typist = place;
    place.viewer.keyboard(true);
  }
}

/** Bounds the comparison, which a guest could make long by what it says. */
const mostOverlap = 16 * 1024;

/** Length of the longest end of `before` that `after` begins with, looked for in the last 16 KiB. */
export function overlap(before: Buffer, after: Buffer): number {
  for (let length = Math.min(before.length, after.length, mostOverlap); length > 0; length -= 1) {
    if (before[before.length - length] !== after[0]) continue;
    if (before.subarray(before.length - length).equals(after.subarray(0, length))) return length;
  }
  return 0;
}
