/**
 * Fetches a URL into a part, under the guard of source-guard.ts: each connection, of each redirect too, goes to the very
 * addresses that were judged. Goes on where an earlier try stopped, where the server can. The URL may hold a secret in its
 * query: messages name its host only.
 */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { LookupFunction } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { RhyzomeError } from '#libs/core';
import { type PartStore, TooManyBytes } from './part-store.js';
import type { ResolvedAddress, SourceGuard } from './source-guard.js';

export interface DownloadOptions {
  maxBytes: number;
  signal: AbortSignal;
  /** Between two chunks (default 60 s). */
  stallMs?: number;
  /** For the whole of it (default 6 h). */
  timeoutMs?: number;
  /** Before a further try (default 1 s, doubled each time). */
  retryMs?: number;
}

const MAX_REDIRECTS = 5;
const TRIES = 5;
const MAX_HEADER_BYTES = 16 * 1024;
/** Slower than this on average after the first minute, it would hold its worker for ever (bytes per second). */
const LEAST_RATE = 16 * 1024;

/**
 * Brings the whole of `url` into the part `id`. Throws RhyzomeError `source_refused`, `source_unavailable`,
 * `body_too_large`; the signal's reason when that aborts.
 */
export async function download(
  guard: SourceGuard,
  parts: PartStore,
  id: string,
  url: string,
  options: DownloadOptions,
): Promise<void> {
  const timeout = AbortSignal.timeout(options.timeoutMs ?? 6 * 60 * 60_000);
  const signal = AbortSignal.any([options.signal, timeout]);
  const state: Attempt = { validator: undefined };
  for (let attempt = 1; ; attempt++) {
    try {
      return await fetchOnce(guard, parts, id, url, { ...options, signal }, state);
    } catch (error) {
      options.signal.throwIfAborted();
      if (timeout.aborted) throw unavailable(url, 'it took too long', error);
      if (error instanceof TooManyBytes) throw tooLarge(options.maxBytes);
      const isFinal = error instanceof RhyzomeError && !(error instanceof Interrupted);
      if (isFinal) throw error;
      if (isOwnFault(error)) throw error;
      if (attempt === TRIES) throw error instanceof Interrupted ? error : unavailable(url, reasonOf(error), error);
      await sleep((options.retryMs ?? 1_000) * 2 ** (attempt - 1), undefined, { signal }).catch(() => undefined);
    }
  }
}

interface Attempt {
  /** Strong ETag of what is coming, for If-Range (RFC 9110 §13.1.5). */
  validator: string | undefined;
}

/** Worth another try. */
class Interrupted extends RhyzomeError {}

async function fetchOnce(
  guard: SourceGuard,
  parts: PartStore,
  id: string,
  url: string,
  options: DownloadOptions,
  state: Attempt,
): Promise<void> {
  const offset = await parts.size(id);
  const response = await follow(guard, new URL(url), offset, state.validator, options);
  try {
    const { statusCode = 0, headers } = response;
    // All of it had come, and whoever fetched it could not say so any more.
    if (statusCode === 416 && offset > 0 && headers['content-range'] === `bytes */${offset}`) return;
    if (statusCode === 416) {
      await parts.cut(id, 0);
      throw new Interrupted('source_unavailable', 'The source does not go on where it stopped.');
    }
    if (statusCode !== 200 && statusCode !== 206) throw statusFailure(url, statusCode);
    const from = statusCode === 206 ? rangeStart(headers['content-range'], offset) : 0;
    const length = headers['content-length'] === undefined ? undefined : Number(headers['content-length']);
    if (length !== undefined && from + length > options.maxBytes) throw tooLarge(options.maxBytes);
    const etag = headers.etag;
    state.validator = etag?.startsWith('"') ? etag : undefined;
    const size = await parts.write(id, from, paced(response, options), { maxBytes: options.maxBytes - from });
    if (!response.complete || (length !== undefined && size !== from + length)) {
      throw new Interrupted('source_unavailable', `The source ended after ${size} bytes.`);
    }
  } finally {
    response.destroy();
  }
}

/** The answer behind all redirects. */
async function follow(
  guard: SourceGuard,
  start: URL,
  offset: number,
  validator: string | undefined,
  options: DownloadOptions,
): Promise<IncomingMessage> {
  let url = start;
  for (let redirects = 0; ; redirects++) {
    const addresses = await guard.addressesOf(url);
    const response = await connect(url, addresses, offset, validator, options);
    const { statusCode = 0, headers } = response;
    if (![301, 302, 303, 307, 308].includes(statusCode)) return response;
    response.destroy();
    if (redirects === MAX_REDIRECTS) throw unavailable(url.href, `it redirects more than ${MAX_REDIRECTS} times`);
    if (!headers.location || !URL.canParse(headers.location, url.href))
      throw unavailable(url.href, 'it redirects to nowhere');
    const next = new URL(headers.location, url);
    if (url.protocol === 'https:' && next.protocol !== 'https:') {
      throw new RhyzomeError('source_refused', 'The source redirects from https to http.');
    }
    url = next;
  }
}

function connect(
  url: URL,
  addresses: readonly ResolvedAddress[],
  offset: number,
  validator: string | undefined,
  { signal, stallMs = 60_000 }: DownloadOptions,
): Promise<IncomingMessage> {
  // The name is not resolved again: it could name another address by now.
  const pinned: LookupFunction = (_host, { all }, done) => {
    if (all) done(null, addresses as never);
    else done(null, addresses[0]!.address, addresses[0]!.family);
  };
  return new Promise((resolve, reject) => {
    const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
    const request = send(url, {
      agent: false,
      lookup: pinned,
      signal,
      timeout: stallMs,
      maxHeaderSize: MAX_HEADER_BYTES,
      headers: {
        'user-agent': 'rhyzome',
        'accept-encoding': 'identity',
        connection: 'close',
        ...(offset > 0 && { range: `bytes=${offset}-`, ...(validator && { 'if-range': validator }) }),
      },
    });
    request.on('timeout', () => request.destroy(new Error('it does not answer')));
    request.on('response', resolve);
    request.on('error', reject);
    request.end();
  });
}

/** The body; ends with an error where nothing comes any more, or hardly anything. */
async function* paced(response: IncomingMessage, { stallMs = 60_000 }: DownloadOptions): AsyncGenerator<Uint8Array> {
  const began = performance.now();
  let received = 0;
  const stall = () => response.destroy(new Error(`nothing came for ${stallMs} ms`));
  let timer = setTimeout(stall, stallMs);
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      clearTimeout(timer);
      received += chunk.byteLength;
      const seconds = (performance.now() - began) / 1000;
      if (seconds > 60 && received / seconds < LEAST_RATE) throw new RhyzomeError('source_unavailable', tooSlow);
      yield chunk;
      timer = setTimeout(stall, stallMs);
    }
  } finally {
    clearTimeout(timer);
  }
}

const tooSlow = `The source brings less than ${LEAST_RATE} bytes a second.`;

/** `bytes a-b/total` (RFC 9110 §14.4); anything but what was asked for is a server that cannot go on. */
function rangeStart(contentRange: string | undefined, offset: number): number {
  const start = /^bytes (\d{1,16})-\d{1,16}\/(?:\d{1,16}|\*)$/.exec(contentRange ?? '')?.[1];
  if (start !== undefined && Number(start) === offset) return offset;
  throw new RhyzomeError('source_unavailable', 'The source sends another part than it was asked for.');
}

function statusFailure(url: string, status: number): RhyzomeError {
  const message = `The host ${new URL(url).hostname} answered with status ${status}.`;
  const isWorthAnother = status >= 500 || status === 408 || status === 429;
  return isWorthAnother
    ? new Interrupted('source_unavailable', message)
    : new RhyzomeError('source_unavailable', message);
}

function unavailable(url: string, reason: string, cause?: unknown): RhyzomeError {
  const host = new URL(url).hostname;
  return new RhyzomeError('source_unavailable', `The content cannot be fetched from ${host}: ${reason}.`, { cause });
}

function tooLarge(maxBytes: number): RhyzomeError {
  return new RhyzomeError('body_too_large', `The content is larger than ${maxBytes} bytes.`);
}

/** A full or failing disk here is not the source's doing. */
function isOwnFault(error: unknown): boolean {
  return ['ENOSPC', 'EDQUOT', 'EIO', 'EROFS', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '');
}

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code ?? message;
}
