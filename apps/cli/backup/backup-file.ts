/**
 * A backup's file: a gzip stream of text that people can read with zcat, much like a plain dump. A header as JSON, then each
 * table's rows as COPY writes them, then the sequences, and at the end the number and the SHA-256 of each table's rows; a
 * file that was cut off has no end. Nothing here knows the database.
 */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createGzip } from 'node:zlib';
import { CliError, exitStatus } from '../exit-status.js';

export const FORMAT = 1;
const FIRST_LINE = `rhyzome backup ${FORMAT}`;
const END_OF_ROWS = '\\.';
/** No row of any table comes near it; what does is no backup. */
const MAX_LINE_BYTES = 256 * 1024 * 1024;
const NEW_LINE = 0x0a;

export interface BackupHeader {
  id: string;
  /** When its one snapshot was taken, ISO 8601. */
  takenAt: string;
  installationId: string;
  /** Of the program that made it. */
  version: string;
  /** Of the PostgreSQL that it was taken from. */
  server: string;
  migrations: { name: string; checksum: string }[];
}

export interface TableSum {
  rows: number;
  sha256: string;
}

export type Part =
  | { type: 'header'; header: BackupHeader }
  /** `rows` must be read before the next part is asked for. */
  | { type: 'table'; name: string; columns: string[]; rows: AsyncIterable<Buffer> }
  | { type: 'sequence'; name: string; value: number; isCalled: boolean }
  | { type: 'end'; tables: Record<string, TableSum> };

/** What `writeBackup` takes: as `Part`, without the end, which it makes. */
export type Given = Exclude<Part, { type: 'end' }>;

/** Writes aside, syncs, renames; what is there stays until then. For the owner's eyes only: it holds secrets. */
export async function writeBackup(file: string, parts: AsyncIterable<Given>): Promise<Record<string, TableSum>> {
  const aside = `${file}.part`;
  await rm(aside, { force: true });
  const sums: Record<string, TableSum> = {};
  try {
    const sink = createWriteStream(aside, { flags: 'wx', mode: 0o600, flush: true });
    await pipeline(Readable.from(textOf(parts, sums)), createGzip({ level: 5 }), sink);
  } catch (error) {
    await rm(aside, { force: true });
    throw error;
  }
  await rename(aside, file);
  const folder = await open(dirname(resolve(file)), 'r');
  await folder.sync().finally(() => folder.close());
  return sums;
}

async function* textOf(parts: AsyncIterable<Given>, sums: Record<string, TableSum>): AsyncGenerator<Buffer> {
  yield line(FIRST_LINE);
  for await (const part of parts) {
    if (part.type === 'header') yield line(`header ${JSON.stringify(part.header)}`);
    if (part.type === 'sequence') {
      const { name, value, isCalled } = part;
      yield line(`sequence ${JSON.stringify({ name, value, isCalled })}`);
    }
    if (part.type !== 'table') continue;
    yield line(`table ${JSON.stringify({ name: part.name, columns: part.columns })}`);
    const sum = new Sum();
    for await (const chunk of part.rows) {
      sum.add(chunk);
      yield chunk;
    }
    sums[part.name] = sum.end();
    yield line(END_OF_ROWS);
  }
  yield line(`end ${JSON.stringify({ tables: sums })}`);
}

function line(text: string): Buffer {
  return Buffer.from(`${text}\n`);
}

class Sum {
  private readonly hash: Hash = createHash('sha256');
  private rows = 0;

  add(chunk: Buffer): void {
    this.hash.update(chunk);
    for (let at = chunk.indexOf(NEW_LINE); at >= 0; at = chunk.indexOf(NEW_LINE, at + 1)) this.rows++;
  }

  end(): TableSum {
    return { rows: this.rows, sha256: this.hash.digest('hex') };
  }
}

/** The parts in their order, the end last and checked. Throws CliError `backup_damaged` for anything else. */
export async function* readBackup(file: string): AsyncGenerator<Part> {
  const source = createReadStream(file);
  const unzipped = source.pipe(createGunzip());
  // An error of the file is told through the stream that is read.
  source.on('error', (error) => unzipped.destroy(error));
  try {
    yield* partsOf(new Lines(unzipped));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (error instanceof CliError || !(code.startsWith('Z_') || error instanceof SyntaxError)) throw error;
    throw damaged(`it cannot be unpacked (${(error as Error).message})`);
  } finally {
    source.destroy();
    unzipped.destroy();
  }
}

async function* partsOf(lines: Lines): AsyncGenerator<Part> {
  const first = await lines.next();
  if (first !== FIRST_LINE)
    throw damaged(
      first?.startsWith('rhyzome backup ') ? 'its format is of a later version' : 'it is no backup of Rhyzome',
    );
  const sums: Record<string, TableSum> = {};
  for (;;) {
    const text = await lines.next();
    if (text === undefined) throw damaged('it was cut off: its end is missing');
    const at = text.indexOf(' ');
    const value = JSON.parse(text.slice(at + 1));
    switch (text.slice(0, at)) {
      case 'header':
        yield { type: 'header', header: value };
        break;
      case 'table': {
        const sum = new Sum();
        yield { type: 'table', name: value.name, columns: value.columns, rows: lines.rows(sum) };
        // What nobody read still counts in the sum.
        if (lines.isInRows) for await (const _ of lines.rows(sum));
        sums[value.name] = sum.end();
        break;
      }
      case 'sequence':
        yield { type: 'sequence', ...value };
        break;
      case 'end':
        compare(value.tables, sums);
        if ((await lines.next()) !== undefined) throw damaged('something follows its end');
        yield { type: 'end', tables: sums };
        return;
      default:
        throw damaged(`a line of it makes no sense: ${text.slice(0, 40)}`);
    }
  }
}

function compare(wanted: Record<string, TableSum>, found: Record<string, TableSum>): void {
  for (const name of new Set([...Object.keys(wanted), ...Object.keys(found)])) {
    const [a, b] = [wanted[name], found[name]];
    if (a?.sha256 !== b?.sha256 || a?.rows !== b?.rows)
      throw damaged(`the rows of ${name} are not those that were written`);
  }
}

/** Reads line by line, and the rows of a table in pieces. */
class Lines {
  private readonly chunks: AsyncIterator<Buffer>;
  private rest: Buffer = Buffer.alloc(0);
  isInRows = false;

  constructor(source: AsyncIterable<Buffer>) {
    this.chunks = source[Symbol.asyncIterator]();
  }

  async next(): Promise<string | undefined> {
    for (;;) {
      const at = this.rest.indexOf(NEW_LINE);
      if (at >= 0) {
        const text = this.rest.subarray(0, at).toString();
        this.rest = this.rest.subarray(at + 1);
        if (text.startsWith('table ')) this.isInRows = true;
        return text;
      }
      if (!(await this.more())) {
        if (this.rest.length > 0) throw damaged('it was cut off in the middle of a line');
        return undefined;
      }
    }
  }

  /** Whole lines up to the one that ends the rows. */
  async *rows(sum: Sum): AsyncGenerator<Buffer> {
    while (this.isInRows) {
      const whole = this.rest.subarray(0, this.rest.lastIndexOf(NEW_LINE) + 1);
      const end = endOfRows(whole);
      const piece = end < 0 ? whole : whole.subarray(0, end);
      this.rest = this.rest.subarray(end < 0 ? whole.length : end + END_OF_ROWS.length + 1);
      if (end >= 0) this.isInRows = false;
      if (piece.length > 0) {
        sum.add(piece);
        yield piece;
      }
      if (this.isInRows && !(await this.more())) throw damaged('it was cut off in the middle of a table');
    }
  }

  private async more(): Promise<boolean> {
    const { value, done } = await this.chunks.next();
    if (done) return false;
    this.rest = this.rest.length === 0 ? value : Buffer.concat([this.rest, value]);
    if (this.rest.length > MAX_LINE_BYTES) throw damaged('a line of it is longer than any can be');
    return true;
  }
}

/** Where the line stands that ends the rows; -1: not here. COPY doubles every backslash, so no row is this line. */
function endOfRows(lines: Buffer): number {
  const mark = Buffer.from(`${END_OF_ROWS}\n`);
  if (lines.subarray(0, mark.length).equals(mark)) return 0;
  const at = lines.indexOf(Buffer.from(`\n${END_OF_ROWS}\n`));
  return at < 0 ? -1 : at + 1;
}

export interface Verified {
  header: BackupHeader;
  tables: Record<string, TableSum>;
}

/** Reads all of it. Throws CliError `backup_damaged`. */
export async function verifyBackup(file: string): Promise<Verified> {
  let header: BackupHeader | undefined;
  for await (const part of readBackup(file)) {
    if (part.type === 'header') header = part.header;
    if (part.type === 'end' && header) return { header, tables: part.tables };
  }
  throw damaged('it has no header');
}

function damaged(why: string): CliError {
  return new CliError(exitStatus.refused, 'backup_damaged', `This backup cannot be used: ${why}. Take another one.`);
}
