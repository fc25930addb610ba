/** The content of an image over HTTP: PUT, whole or in pieces, and HEAD, which says where to go on. */
import type { Readable } from 'node:stream';
import { Controller, Head, Inject, type OnModuleDestroy, Param, Put, Req, Res } from '@nestjs/common';
import { invalid, RhyzomeError } from '#libs/core';
import { Database } from '#libs/db';
import { auditingRefusals, type Caller, JobService, KindRegistry, ResourceReader } from '#libs/resources';
import { callerOf, type Reply, type Request, refuseUnknownParameters, waitForJob } from '#libs/rest';
import { giveBack } from '#libs/storage';
import { ImageUploads, type Piece, type UploadState } from './upload.js';

/** A body that brings nothing for so long is given up; what has come of it stays. */
const STALL_MS = 60_000;

@Controller('v1/images')
export class ContentController implements OnModuleDestroy {
  private readonly uploads: ImageUploads;
  private readonly closing = new AbortController();

  constructor(
    @Inject(Database) private readonly db: Database,
    @Inject(KindRegistry) registry: KindRegistry,
    @Inject(ResourceReader) private readonly reader: ResourceReader,
    @Inject(JobService) private readonly jobs: JobService,
  ) {
    this.kind = registry.get('image');
    this.uploads = new ImageUploads(db, this.kind);
  }

  private readonly kind;

  /** What is under way ends now; its senders go on elsewhere. */
  onModuleDestroy(): void {
    this.closing.abort(new RhyzomeError('overloaded', 'The server restarts; go on where it stopped.'));
  }

  @Head(':id/content')
  async head(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    refuseUnknownParameters(request.query as Record<string, unknown>, []);
    offsets(reply, await this.uploads.state(callerOf(request), id));
    reply.status(200).send();
  }

  @Put(':id/content')
  async put(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    refuseUnknownParameters(request.query as Record<string, unknown>, ['wait']);
    const caller = callerOf(request);
    const body = bodyOf(request);
    const piece = pieceOf(request);
    const target = { kind: 'image', resourceName: id.slice(0, 63) };
    const { core, state } = await auditingRefusals(this.db, caller, 'upload', target, () =>
      this.uploads.receive(caller, id, piece, awake(request, body), this.closing.signal),
    );
    offsets(reply, state);
    await this.answer(request, reply, caller, core.id, state);
  }

  /** The image and its job; with `wait`, as they are when the job has ended. */
  private async answer(request: Request, reply: Reply, caller: Caller, id: string, state: UploadState): Promise<void> {
    const jobs = await this.jobs.list(caller, { resource: id, action: 'create', sort: '-createdAt', pageSize: '1' });
    const jobId = jobs.items[0]?.id;
    const hasEnded = state.isComplete && (await waitForJob(request, this.jobs, caller, jobId));
    const job = jobId === undefined ? undefined : await this.jobs.get(caller, jobId);
    const { body, etag } = await this.reader.get(caller, this.kind, id);
    reply.header('etag', etag);
    if (job) reply.header('location', `/v1/jobs/${job.id}`);
    reply
      .status(state.isComplete && !hasEnded ? 202 : 200)
      .send({ ...body, ...(job && { job: { id: job.id, state: job.state } }) });
  }
}

function offsets(reply: Reply, { offset, length }: UploadState): void {
  reply.header('upload-offset', String(offset));
  if (length !== undefined) reply.header('upload-length', String(length));
}

/** The raw stream that the server's parser has let through for this route. Throws RhyzomeError `unsupported_media_type`. */
function bodyOf(request: Request): Readable {
  const body = request.body as Readable | undefined;
  if (typeof body?.[Symbol.asyncIterator] === 'function') return body;
  if (body === undefined && request.headers['content-type'] === undefined) {
    throw invalid([{ header: 'Content-Length', code: 'required', message: 'there is no content in the request' }]);
  }
  throw new RhyzomeError('unsupported_media_type', 'The content is sent as application/octet-stream.');
}

/** Content-Range (RFC 9110 §14.4, in a request by §14.5) and Content-Length. Throws RhyzomeError `invalid`. */
function pieceOf(request: Request): Piece {
  const { 'content-range': range, 'content-length': sent, 'content-encoding': encoding } = request.headers;
  if (encoding !== undefined && encoding !== 'identity') {
    throw new RhyzomeError('unsupported_media_type', 'The content is sent as it is, without Content-Encoding.');
  }
  const length = sent === undefined ? undefined : Number(sent);
  if (length === 0) throw wrongHeader('Content-Length', 'out_of_range', 'must be at least 1');
  if (range === undefined) return { offset: undefined, length, total: length };
  const match = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/.exec(range);
  if (!match) throw wrongHeader('Content-Range', 'invalid_format', 'must be: bytes first-last/total');
  const [first, last] = [Number(match[1]), Number(match[2])];
  const total = match[3] === '*' ? undefined : Number(match[3]);
  if (last < first || (total !== undefined && last >= total)) {
    throw wrongHeader('Content-Range', 'out_of_range', 'must name bytes of the content, the first before the last');
  }
  if (length !== undefined && length !== last - first + 1) {
    throw wrongHeader('Content-Length', 'wrong_length', `must be the ${last - first + 1} of Content-Range`);
  }
  return { offset: first, length: last - first + 1, total };
}

function wrongHeader(header: string, code: string, message: string): RhyzomeError {
  return invalid([{ header, code, message }]);
}

/** The body, ended with an error where nothing comes any more; a broken connection is the client's doing. */
async function* awake(request: Request, body: Readable): AsyncGenerator<Uint8Array> {
  request.sendContinue?.();
  const stalled = new RhyzomeError('request_timeout', `Nothing came for ${STALL_MS / 1000} s; go on where it stopped.`);
  const stop = () => body.destroy(stalled);
  let timer = setTimeout(stop, STALL_MS);
  try {
    for await (const chunk of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      clearTimeout(timer);
      yield chunk;
      giveBack(chunk);
      timer = setTimeout(stop, STALL_MS);
    }
  } catch (error) {
    if (error === stalled) throw error;
    throw new RhyzomeError('malformed_request', 'The connection broke off; go on where it stopped.', { cause: error });
  } finally {
    clearTimeout(timer);
  }
}
