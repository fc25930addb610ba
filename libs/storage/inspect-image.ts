/**
 * What an image file is, by `qemu-img info`, and whether it may be used: a qcow2 that names a backing file or an external data
 * file could read the node's own files, and a small file can claim an endless disk. The file is not trusted; qemu-img runs
 * with limits on time and memory (qemu's own docs/secure-coding-practices and CVE-2015-5163 are why).
 */
import { execFile } from 'node:child_process';
import { open, stat } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { promisify } from 'node:util';
import { RhyzomeError } from '#libs/core';

export type ImageRefusal =
  | 'unknown_format'
  | 'backing_file'
  | 'external_data_file'
  | 'encrypted'
  | 'too_large'
  | 'truncated'
  | 'corrupt'
  | 'unreadable';

/** The image is refused for what it is; the reason is stable. Renders as 422. */
export class ImageRefused extends RhyzomeError {
  constructor(
    readonly reason: ImageRefusal,
    message: string,
    cause?: unknown,
  ) {
    super('image_refused', message, { cause, extensions: { imageRefusal: reason } });
  }
}

export interface InspectedImage {
  format: 'qcow2' | 'raw';
  virtualSizeBytes: number;
  sizeBytes: number;
}

export interface InspectImageOptions {
  /** Default 2 TiB. */
  maxVirtualSizeBytes?: number;
  /** 'raw': said by whoever imports it, for a raw image without a boot sector. Otherwise it is found out. */
  format?: 'raw';
  /** True: what is no known format is a raw disk, boot sector or not. */
  isRawElse?: boolean;
  /** Default 10 s. */
  timeoutMs?: number;
  /** Default `qemu-img`, found in PATH. */
  qemuImg?: string;
}

const defaults = { maxVirtualSizeBytes: 2 * 1024 ** 4, timeoutMs: 10_000, qemuImg: 'qemu-img' };
const SECTOR_BYTES = 512;
const memoryLimitBytes = 1024 ** 3;
const execute = promisify(execFile);

/**
 * @param path absolute, made by the application, on a file that nobody writes to any more.
 * @throws ImageRefused for what the file is; RhyzomeError `internal` when qemu-img is missing.
 */
export async function inspectImage(path: string, options: InspectImageOptions = {}): Promise<InspectedImage> {
  const { maxVirtualSizeBytes, timeoutMs, qemuImg } = { ...defaults, ...options };
  if (!isAbsolute(path)) throw new Error(`inspectImage takes an absolute path, not ${path}.`);
  const { size } = await stat(path);
  const format = options.format ?? (await decideFormat(path, options.isRawElse ?? false));
  if (format === 'raw') return inspectRaw(size, maxVirtualSizeBytes);
  const info = await runInfo(qemuImg, format, path, timeoutMs);
  refuseDangers(info);
  const virtualSizeBytes = info['virtual-size'];
  if (typeof virtualSizeBytes !== 'number' || virtualSizeBytes <= 0) {
    throw new ImageRefused('corrupt', 'The image has no size.');
  }
  refuseTooLarge(virtualSizeBytes, maxVirtualSizeBytes);
  await refuseTruncated(qemuImg, path, timeoutMs);
  return { format, virtualSizeBytes, sizeBytes: size };
}

/** A raw disk is what it is, to the next sector; nobody need be asked. */
function inspectRaw(size: number, maxVirtualSizeBytes: number): InspectedImage {
  if (size === 0) throw new ImageRefused('corrupt', 'The image has no size.');
  const virtualSizeBytes = Math.ceil(size / SECTOR_BYTES) * SECTOR_BYTES;
  refuseTooLarge(virtualSizeBytes, maxVirtualSizeBytes);
  return { format: 'raw', virtualSizeBytes, sizeBytes: size };
}

function refuseTooLarge(virtualSizeBytes: number, maxVirtualSizeBytes: number): void {
  if (virtualSizeBytes <= maxVirtualSizeBytes) return;
  throw new ImageRefused(
    'too_large',
    `The image’s disk has ${virtualSizeBytes} bytes; ${maxVirtualSizeBytes} are allowed.`,
  );
}

interface QemuImgInfo {
  format?: string;
  'virtual-size'?: number;
  'backing-filename'?: string;
  'full-backing-filename'?: string;
  encrypted?: boolean;
  'format-specific'?: { data?: Record<string, unknown> };
}

/**
 * Decides by the first bytes and no more than is needed: qcow2's magic, else a boot sector's signature. Never by qemu's own
 * probing, which knows a score of formats, some of which name further files.
 */
async function decideFormat(path: string, isRawElse: boolean): Promise<'qcow2' | 'raw'> {
  const head = Buffer.alloc(SECTOR_BYTES);
  const file = await open(path, 'r');
  try {
    await file.read(head, 0, head.length, 0);
  } finally {
    await file.close();
  }
  if (head.readUInt32BE(0) === 0x5146_49fb) {
    refuseHeader(head);
    return 'qcow2';
  }
  refuseOtherFormats(head);
  if (isRawElse || (head[510] === 0x55 && head[511] === 0xaa)) return 'raw';
  const message = 'The image is neither qcow2 nor a raw disk with a boot sector.';
  throw new ImageRefused('unknown_format', message);
}

/** First bytes of what is often taken for an image of ours by mistake. */
const otherFormats: readonly [string, Buffer][] = [
  ['a gzip file; unpack it', Buffer.from([0x1f, 0x8b, 0x08])],
  ['an xz file; unpack it', Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00])],
  ['a zstd file; unpack it', Buffer.from([0x28, 0xb5, 0x2f, 0xfd])],
  ['a bzip2 file; unpack it', Buffer.from('BZh', 'latin1')],
  ['a zip file; unpack it', Buffer.from([0x50, 0x4b, 0x03, 0x04])],
  ['a VMDK; convert it to qcow2', Buffer.from('KDMV', 'latin1')],
  ['a VMDK’s description; convert it to qcow2', Buffer.from('# Disk DescriptorFile', 'latin1')],
  ['a VHDX; convert it to qcow2', Buffer.from('vhdxfile', 'latin1')],
  ['a VHD; convert it to qcow2', Buffer.from('conectix', 'latin1')],
  ['a VDI; convert it to qcow2', Buffer.from('<<< ', 'latin1')],
];

/** Whoever means the bytes as they are says that they are raw. */
function refuseOtherFormats(head: Buffer): void {
  const found = otherFormats.find(([, magic]) => head.subarray(0, magic.length).equals(magic));
  if (found) throw new ImageRefused('unknown_format', `The content is ${found[0]}, or announce it as raw.`);
}

/**
 * The header's own words, before qemu-img opens the file: it would open the data file that the header names, whatever that
 * is (CVE-2024-4467). Offsets: qemu's docs/interop/qcow2.
 */
function refuseHeader(head: Buffer): void {
  const version = head.readUInt32BE(4);
  if (version < 2) throw new ImageRefused('unknown_format', 'The image is a qcow of version 1; convert it to qcow2.');
  if (head.readBigUInt64BE(8) !== 0n) throw backingFile();
  if (head.readUInt32BE(32) !== 0) throw new ImageRefused('encrypted', 'The image is encrypted.');
  const incompatibleFeatures = version >= 3 ? head.readBigUInt64BE(72) : 0n;
  if (incompatibleFeatures & externalDataFileBit) throw externalDataFile();
}

const externalDataFileBit = 0b100n;
const backingFile = () =>
  new ImageRefused('backing_file', 'The image has a backing file; flatten it (qemu-img convert) first.');
const externalDataFile = () =>
  new ImageRefused('external_data_file', 'The image keeps its data in another file; convert it first.');

/** Everything that an image can name outside of itself, or that needs a secret. */
function refuseDangers(info: QemuImgInfo): void {
  const specific = info['format-specific']?.data ?? {};
  if (info['backing-filename'] !== undefined || info['full-backing-filename'] !== undefined) throw backingFile();
  if (specific['data-file'] !== undefined || specific['data-file-raw'] === true) throw externalDataFile();
  if (info.encrypted === true || specific.encrypt !== undefined) {
    throw new ImageRefused('encrypted', 'The image is encrypted.');
  }
  if (specific.corrupt === true) throw new ImageRefused('corrupt', 'The image is marked as corrupt.');
}

async function runInfo(qemuImg: string, format: string, path: string, timeoutMs: number): Promise<QemuImgInfo> {
  const { stdout } = await run(qemuImg, ['info', '--output=json', '-f', format, '--', path], timeoutMs);
  return JSON.parse(stdout) as QemuImgInfo;
}

/** `info` reads the header only; `check` walks the tables and says where data would lie beyond the file's end. */
async function refuseTruncated(qemuImg: string, path: string, timeoutMs: number): Promise<void> {
  const { stdout } = await run(qemuImg, ['check', '--output=json', '-f', 'qcow2', '--', path], timeoutMs, [0, 2, 3]);
  const report = JSON.parse(stdout) as { corruptions?: number; 'check-errors'?: number };
  if (report.corruptions || report['check-errors']) {
    throw new ImageRefused('truncated', 'The image is damaged or was cut off (qemu-img check finds errors).');
  }
}

interface ExecFailure extends Error {
  code?: string | number;
  killed?: boolean;
  stdout?: string;
  stderr?: string;
}

/** Runs qemu-img under prlimit where there is one. Exit codes of `check`: 2 corruption, 3 leaked clusters (harmless). */
async function run(qemuImg: string, args: string[], timeoutMs: number, exitCodes: number[] = [0]) {
  const seconds = Math.ceil(timeoutMs / 1000);
  const limits = [`--as=${memoryLimitBytes}`, `--cpu=${seconds}`, '--fsize=0', '--core=0', '--'];
  const options = {
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
    maxBuffer: 1024 ** 2,
    env: { PATH: process.env.PATH, LC_ALL: 'C' },
  } as const;
  try {
    return await execute('prlimit', [...limits, qemuImg, ...args], options).catch((error: ExecFailure) => {
      if (error.code === 'ENOENT') return execute(qemuImg, args, options);
      throw error;
    });
  } catch (caught) {
    const error = caught as ExecFailure;
    if (typeof error.code === 'number' && exitCodes.includes(error.code)) return { stdout: error.stdout ?? '' };
    throw failureOf(error, qemuImg);
  }
}

function failureOf(error: ExecFailure, qemuImg: string): Error {
  const isMissing = error.code === 'ENOENT' || /failed to execute .*No such file/.test(error.stderr ?? '');
  if (isMissing) {
    const message = `${qemuImg} is not installed on this machine (Debian: qemu-utils); images cannot be inspected.`;
    return new RhyzomeError('internal', message, { cause: error });
  }
  const why = error.killed ? 'it took too long' : (error.stderr ?? error.message).trim().split('\n').at(-1);
  return new ImageRefused('unreadable', `qemu-img cannot read the image: ${withoutPaths(why ?? '')}`, error);
}

/** The owner of an image need not know where it lies. */
function withoutPaths(text: string): string {
  return text.replaceAll(/'?\/[^\s':]+'?/g, 'the image').slice(0, 300);
}
