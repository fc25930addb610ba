/** Writes down what was refused over HTTP: to callers that nobody can be held to, and reads of those who are known. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { claimedIssuer, InvalidToken } from '#libs/auth';
import type { RhyzomeError } from '#libs/core';
import type { RefusedReads, UnauthenticatedLog } from '#libs/events';
import type { KindRegistry } from '#libs/resources';

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

/** What is no kind, by the first part of its path. */
const others: Record<string, string> = {
  alarms: 'alarm',
  audit: 'audit',
  'deleted-disks': 'disk',
  jobs: 'job',
  quotas: 'quota',
};

const codes: Record<number, string> = { 403: 'forbidden', 404: 'not_found' };

/** For the gate's `onAnswer`: reads that a known caller may not do, or of what it may not know. Changes write their own. */
export function recordRefusedReads(record: RefusedReads, registry: KindRegistry) {
  const kindOf = new Map([
    ...registry.all.map(({ plural, name }) => [plural, name] as const),
    ...Object.entries(others),
  ]);
  return (request: FastifyRequest, reply: FastifyReply): void => {
    const code = codes[reply.statusCode];
    const { caller } = request;
    if (!code || !caller || request.is404 || !['GET', 'HEAD'].includes(request.method)) return;
    const url = request.routeOptions.url ?? '';
    const kind = kindOf.get(url.split('/')[2] ?? '');
    const isTyping = url.endsWith('/console/attach') && (request.query as { watch?: string }).watch !== 'true';
    if (kind === undefined || isTyping) return; // Who types has a row of its own.
    const [asked] = Object.values((request.params ?? {}) as Record<string, string>);
    record.tell({
      tenantId: caller.actor.tenantId,
      actor: caller.actor.subject,
      action: `${kind}.read`,
      kind,
      resourceName: asked?.slice(0, 63),
      code,
      requestId: caller.requestId,
      source: caller.source,
    });
  };
}
