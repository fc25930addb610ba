/** Writes down requests that nobody can be held to: from the HTTP request to the operators' record. */
import type { FastifyRequest } from 'fastify';
import { claimedIssuer, InvalidToken } from '#libs/auth';
import type { RhyzomeError } from '#libs/core';
import type { UnauthenticatedLog } from '#libs/events';

/** For the gate's `onUnauthenticated`. The path is the route's template: what was put into it may be a secret. */
export function recordRefusals(record: UnauthenticatedLog) {
  return (request: FastifyRequest, error: RhyzomeError): void =>
    record.tell({
      reason: error instanceof InvalidToken ? error.reason : error.code,
      source: request.addressed.client,
      issuer: claimedIssuer(request.headers.authorization),
      method: request.method,
      path: request.is404 ? undefined : request.routeOptions.url,
      requestId: request.requestId,
    });
}
