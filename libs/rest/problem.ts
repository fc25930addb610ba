/** The one place where errors become problems (RFC 9457). */

import { challengeOf } from '#libs/auth';
import { codeEntry, type ErrorCode, RhyzomeError } from '#libs/core';
import { type ProblemView, problemView } from '#libs/resources';

export interface Problem extends ProblemView {
  instance: string;
  requestId: string;
}

export interface RenderedProblem {
  status: number;
  headers: Record<string, string>;
  body: Problem;
}

interface ThrownByFramework {
  statusCode?: number;
  code?: string;
  message?: string;
  getStatus?: () => number;
}

/** Codes of what Fastify and Nest throw themselves. */
const frameworkCodes: Record<string, [ErrorCode, string]> = {
  FST_ERR_CTP_BODY_TOO_LARGE: ['body_too_large', 'The body is larger than 1 MiB.'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: ['unsupported_media_type', 'The body must be application/json.'],
  FST_ERR_CTP_EMPTY_JSON_BODY: ['malformed_json', 'The body is empty; it must be a JSON object.'],
  FST_ERR_CTP_INVALID_JSON_BODY: ['malformed_json', 'The body is not JSON.'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['malformed_request', 'The body is not as long as Content-Length says.'],
  FST_ERR_BAD_URL: ['malformed_request', 'The path is not a well-formed URI.'],
  FST_ERR_MAX_PARAM_LENGTH: ['uri_too_long', 'A part of the path is too long.'],
};

const statusCodes: Record<number, [ErrorCode, string]> = {
  400: ['malformed_request', 'The request is malformed.'],
  404: ['not_found', 'There is nothing at this path.'],
  405: ['method_not_allowed', 'This path does not have that method.'],
  408: ['request_timeout', 'The request took too long to arrive.'],
  413: ['body_too_large', 'The body is larger than 1 MiB.'],
  414: ['uri_too_long', 'The URI is too long.'],
  415: ['unsupported_media_type', 'The body must be application/json.'],
  431: ['headers_too_large', 'The headers are too large.'],
};

/** What any thrown value is to the client; what is no RhyzomeError and not the client's doing is `internal`, unexplained. */
export function toRhyzomeError(thrown: unknown): RhyzomeError {
  if (thrown instanceof RhyzomeError) return thrown;
  const error = thrown as ThrownByFramework;
  const known = frameworkCodes[error?.code ?? ''] ?? statusCodes[error?.statusCode ?? error?.getStatus?.() ?? 0];
  if (known) return new RhyzomeError(known[0], known[1], { cause: thrown });
  return new RhyzomeError('internal', 'Something went wrong on our side; the logs have it under the request id.', {
    cause: thrown,
  });
}

export function renderProblem(error: RhyzomeError, requestId: string, path: string): RenderedProblem {
  const entry = codeEntry(error.code);
  const { retryAfterSeconds } = error.details;
  const headers: Record<string, string> = { 'content-type': 'application/problem+json; charset=utf-8' };
  if (error.code === 'unauthenticated') headers['www-authenticate'] = challengeOf(error);
  if (retryAfterSeconds !== undefined || entry.http === 503 || entry.http === 429) {
    headers['retry-after'] = String(retryAfterSeconds ?? 2);
  }
  return {
    status: entry.http,
    headers,
    body: { ...problemView(error), instance: path.split('?')[0]!.slice(0, 500), requestId },
  };
}
