/** The HTTP side of a pipeline call: who calls, which conditions come in headers and query, how an answer is sent. */
import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type FieldError, invalid, RhyzomeError } from '#libs/core';
import {
  type Caller,
  type ChangeOptions,
  type ChangeResult,
  checkIdempotencyKey,
  hashRequest,
  type JobService,
} from '#libs/resources';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the guard of the API; absent on public routes. */
    caller?: Caller;
    requestId: string;
    /** Set where the client waits for a word before it sends its body. */
    sendContinue?: () => void;
  }
}

export type Request = FastifyRequest;
export type Reply = FastifyReply;

/** The caller of a guarded route. */
export const CallerParam = createParamDecorator((_: unknown, context: ExecutionContext): Caller => {
  return callerOf(context.switchToHttp().getRequest<FastifyRequest>());
});

export function callerOf(request: FastifyRequest): Caller {
  if (!request.caller) throw new RhyzomeError('unauthenticated', 'A bearer token is needed.');
  return request.caller;
}

type Query = Record<string, unknown>;

/** Query parameters other than these are refused. */
export function refuseUnknownParameters(query: Query, known: readonly string[]): void {
  const errors: FieldError[] = [];
  for (const [name, value] of Object.entries(query)) {
    if (!known.includes(name)) {
      const hint = known.length > 0 ? `there are ${known.join(', ')}` : 'there are none';
      errors.push({
        parameter: name.slice(0, 100),
        code: 'unknown_parameter',
        message: `is not a parameter here; ${hint}`,
      });
    } else if (typeof value !== 'string') {
      errors.push({ parameter: name, code: 'invalid_value', message: 'must be given once' });
    }
  }
  if (errors.length > 0) throw invalid(errors);
}

function header(request: FastifyRequest, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(', ') : value;
}

/**
 * dryRun, If-Match and Idempotency-Key of a change, checked. `further` are parameters that say what is to be done, and so
 * belong to the request that a key stands for. Throws RhyzomeError `invalid`.
 */
export function changeOptionsOf(
  request: FastifyRequest,
  caller: Caller,
  further: readonly string[] = [],
): ChangeOptions {
  const query = request.query as Query;
  refuseUnknownParameters(query, ['dryRun', 'wait', ...further]);
  waitMsOf(query);
  const key = header(request, 'idempotency-key');
  if (key !== undefined) checkIdempotencyKey(key);
  return {
    dryRun: flagOf(query, 'dryRun'),
    ifMatch: header(request, 'if-match'),
    ...(key !== undefined && {
      idempotency: {
        subject: caller.actor.subject,
        key,
        hash: hashRequest(
          request.method,
          request.url.split('?')[0],
          request.body ?? null,
          header(request, 'if-match'),
          ...further.flatMap((name) => (query[name] === undefined ? [] : [[name, query[name]]])),
        ),
      },
    }),
  };
}

/** A parameter that is true or false; false where it is not given. Throws RhyzomeError `invalid`. */
export function flagOf(query: Query, name: string): boolean {
  const value = query[name];
  if (value === undefined || value === 'false') return false;
  if (value === 'true') return true;
  throw invalid([{ parameter: name, code: 'invalid_value', message: 'must be true or false' }]);
}

const MAX_WAIT_SECONDS = 60;

/** `wait=30s` in milliseconds; undefined where it is not given. Throws RhyzomeError `invalid`. */
export function waitMsOf(query: Query): number | undefined {
  const { wait } = query;
  if (wait === undefined) return undefined;
  const seconds = typeof wait === 'string' && /^\d{1,3}s$/.test(wait) ? Number(wait.slice(0, -1)) : -1;
  if (seconds >= 0 && seconds <= MAX_WAIT_SECONDS) return seconds * 1000;
  throw invalid([{ parameter: 'wait', code: 'out_of_range', message: 'must be 0s to 60s, e.g. 30s' }]);
}

/** Sends what a change answered. */
export function sendChange(reply: FastifyReply, result: ChangeResult): FastifyReply {
  if (result.etag) reply.header('etag', result.etag);
  if (result.jobId) reply.header('location', `/v1/jobs/${result.jobId}`);
  if (result.replay) reply.header('idempotency-replayed', 'true');
  return reply.status(result.status).send({ ...result.body, ...result.secrets });
}

/** Waits for a change's job where the client asked for it; true if the job ended in time. */
export async function waitForJob(
  request: FastifyRequest,
  jobs: JobService,
  caller: Caller,
  jobId: string | undefined,
): Promise<boolean> {
  const waitMs = waitMsOf(request.query as Query);
  if (!waitMs || !jobId) return false;
  return untilGone(request, (signal) => jobs.wait(caller, jobId, waitMs, signal));
}

/** Runs work that the client's hanging up aborts. A connection outlives its requests: nothing of them stays on it. */
export async function untilGone<T>(request: FastifyRequest, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const gone = new AbortController();
  const { socket } = request.raw;
  const abort = () => gone.abort();
  socket.once('close', abort);
  try {
    return await work(gone.signal);
  } finally {
    socket.removeListener('close', abort);
  }
}

/** If-None-Match (RFC 9110 §13.1.2), weak comparison. */
export function isUnchanged(request: FastifyRequest, etag: string): boolean {
  const sent = header(request, 'if-none-match');
  if (sent === undefined) return false;
  return sent.trim() === '*' || sent.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag);
}

const mergePatchTypes = ['application/merge-patch+json', 'application/json'];

/** PATCH takes merge patches only; plain JSON is taken for one. Throws RhyzomeError `unsupported_media_type`. */
export function refuseOtherPatches(request: FastifyRequest): void {
  const type = header(request, 'content-type')?.split(';')[0]?.trim().toLowerCase();
  if (type !== undefined && mergePatchTypes.includes(type)) return;
  throw new RhyzomeError('unsupported_media_type', 'PATCH takes application/merge-patch+json (RFC 7396).');
}

/** The body of a change; throws RhyzomeError `not_an_object`. */
export function objectBody(request: FastifyRequest): Record<string, unknown> {
  const { body } = request;
  if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body as Record<string, unknown>;
  throw new RhyzomeError('not_an_object', 'The body must be a JSON object.');
}
