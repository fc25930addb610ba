/**
 * Fastify under Nest: limits, who calls, which representations are accepted; and problems for all that the HTTP server
 * itself refuses. Bodies: bodies.ts.
 */
import type { Socket } from 'node:net';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

import { type Actor, type BearerVerifier, InvalidToken } from '#libs/auth';

import { newId, RhyzomeError, requestIdFrom } from '#libs/core';
import {
  type Addressed,
  type Addressing,
  bearerOf,
  type RateLimiter,
  renderProblem,
  routeUpgrades,
  shouldUpgrade,
  toRhyzomeError,
} from '#libs/rest';
import { docsTypeOf } from './controllers/docs.controller.js';
import { METADATA_PATH, type ProtectedResource } from './protected-resource.js';

const MAX_BODY_BYTES = 1024 * 1024;
const HEADERS_MS = 60_000;
const MAX_URL_LENGTH = 8_000;
const MAX_PARAM_LENGTH = 1_000;

export function createAdapter() {
  return new FastifyAdapter({
    bodyLimit: MAX_BODY_BYTES,
    routerOptions: { maxParamLength: MAX_PARAM_LENGTH },
    // Headers have their own time limit (Node's), bodies theirs below: one for all would end every long upload.
    requestTimeout: 0,
    // A request without a Host is refused by the gate, with a problem.
    http: { headersTimeout: HEADERS_MS, requireHostHeader: false, shouldUpgradeCallback: shouldUpgrade },
    keepAliveTimeout: 72_000,
    forceCloseConnections: 'idle',
    // Whoever comes on a connection that stands is served to the end (drain.ts).
    return503OnClosing: false,
    clientErrorHandler: (error, socket) => refuseRaw(error, socket as Socket),
    frameworkErrors: (error: unknown, request: FastifyRequest, reply: FastifyReply) => {
      request.requestId ??= newId();
      void sendProblem(request, reply, error);
    },
  } as ConstructorParameters<typeof FastifyAdapter>[0]);
}

/** Sends any thrown value as its problem. */
export function sendProblem(request: FastifyRequest, reply: FastifyReply, thrown: unknown): FastifyReply {
  const { status, headers, body } = renderProblem(toRhyzomeError(thrown), request.requestId ?? newId(), request.url);
  // RFC 9728, section 5.1.
  if (headers['www-authenticate'] && request.metadataUrl)
    headers['www-authenticate'] += `, resource_metadata="${request.metadataUrl}"`;
  return reply
    .status(status)
    .headers({ ...headers, 'x-request-id': body.requestId })
    .send(body);
}

/** What is so malformed that there is no request: answered on the socket. */
function refuseRaw(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const statusCode = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400;
  const { status, headers, body } = renderProblem(toRhyzomeError({ statusCode }), newId(), '/');
  const text = JSON.stringify(body);
  const lines = Object.entries({ ...headers, 'content-length': Buffer.byteLength(text), connection: 'close' });
  socket.end(
    `HTTP/1.1 ${status} ${body.title}\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${text}`,
  );
}

/** What everybody may read: the description of this API, the page that shows it, and whose tokens it takes. */
function isPublic(path: string): boolean {
  return path === '/v1/openapi.json' || path === METADATA_PATH || path === '/docs' || path.startsWith('/docs/');
}

export interface GateOptions {
  routes: RouteTable;
  verifier: BearerVerifier;
  limiter: RateLimiter;
  addressing: Addressing;
  resource: ProtectedResource;
  onAnswer(request: FastifyRequest, reply: FastifyReply): void;
  /** Told of each request without a valid token; for the operators' record. */
  onUnauthenticated?(request: FastifyRequest, error: RhyzomeError): void;
}

/** Before the server listens: WebSocket upgrades take the same way as requests. */
export function acceptUpgrades(fastify: FastifyInstance): void {
  routeUpgrades(fastify.server, (request, response) => fastify.routing(request, response));
}

/** Request ids, the caller, and what a path answers with; before any route's own work. */
export function addGate(fastify: FastifyInstance, options: GateOptions): void {
  fastify.decorateRequest('requestId', '');
  fastify.decorateRequest('addressed', null as unknown as Addressed);
  fastify.decorateRequest('metadataUrl', undefined);
  fastify.addHook('onRequest', async (request, reply) => {
    request.requestId = requestIdFrom(request.headers['x-request-id']);
    reply.header('x-request-id', request.requestId);
    reply.header('cache-control', 'no-store');
    const traceparent = traceparentOf(request);
    if (traceparent) reply.header('traceparent', traceparent);
    request.addressed = options.addressing.of(request.raw);
    request.metadataUrl = options.resource.metadataUrlOf(request.addressed);
    if (request.url.length > MAX_URL_LENGTH) {
      throw new RhyzomeError('uri_too_long', `The URI is longer than ${MAX_URL_LENGTH} characters.`);
    }
    const path = request.url.split('?')[0]!;
    if (!path.endsWith('/console/attach')) refuseUnacceptable(path, request.headers.accept);
    const setHeader = (name: string, value: string) => void reply.header(name, value);
    if (isPublic(path)) {
      options.limiter.countAddress(request.addressed.client, setHeader);
      if (request.is404) refuseUnknownPath(options.routes, path, reply);
      return;
    }
    const actor = await verified(options, request, setHeader);
    options.limiter.countUser(actor, setHeader);
    request.caller = { actor, requestId: request.requestId, source: request.addressed.client, traceparent };
    if (request.is404) refuseUnknownPath(options.routes, path, reply);
  });
  fastify.addHook('onResponse', async (request, reply) => options.onAnswer(request, reply));
}

/**
 * Who calls; whoever cannot say is counted by address. At a tenant's host only its own tokens count: of a tenant that is
 * not there, the answer is that of a foreign one. Throws RhyzomeError `unauthenticated`, `too_many_requests`.
 */
async function verified(
  { verifier, limiter, onUnauthenticated }: GateOptions,
  request: FastifyRequest,
  setHeader: (name: string, value: string) => void,
): Promise<Actor> {
  try {
    const actor = await verifier.verify(bearerOf(request));
    const { owner } = request.addressed;
    if (owner === undefined || owner.tenantId === actor.tenantId) return actor;
    throw new InvalidToken('wrong_host', 'The token is not of the tenant of this host name.');
  } catch (error) {
    if (error instanceof RhyzomeError && error.code === 'unauthenticated') {
      onUnauthenticated?.(request, error);
      limiter.countAddress(request.addressed.client, setHeader);
    }
    throw error;
  }
}

/** W3C Trace Context §3.2: version, trace id, parent id, flags; what is ill-formed is dropped. */
function traceparentOf(request: FastifyRequest): string | undefined {
  const { traceparent } = request.headers;
  const shape = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;
  return typeof traceparent === 'string' && shape.test(traceparent) ? traceparent : undefined;
}

/** 406 where the client takes nothing that this path answers with (RFC 9110 §12.5.1). */
function refuseUnacceptable(path: string, accept: string | undefined): void {
  if (accept === undefined || accept === '') return;
  const types = answersOf(path);
  const wanted = accept.split(',').map((range) => {
    const [name, ...parameters] = range.trim().toLowerCase().split(';');
    const isRefused = parameters.some((parameter) => /^\s*q\s*=\s*0(\.0*)?\s*$/.test(parameter));
    return isRefused ? '' : name!.trim();
  });
  const takes = ['*/*', ...types, ...types.map((type) => `${type.split('/')[0]}/*`), 'application/problem+json'];
  if (wanted.some((name) => takes.includes(name))) return;
  throw new RhyzomeError('not_acceptable', `This path answers with ${types.join(' or ')}.`);
}

function answersOf(path: string): string[] {
  if (path.endsWith('/console')) return ['text/plain'];
  if (path.endsWith('/metrics')) return ['application/json', 'text/plain'];
  if (path === '/docs' || path.startsWith('/docs/')) return [docsTypeOf(path)];
  if (path === '/v1/audit/export') return ['application/x-ndjson'];
  return [path === '/v1/events' ? 'text/event-stream' : 'application/json'];
}

/** The routes that there are; call before any is made. `fastify.routeTable` is the same. */
export function recordRoutes(fastify: FastifyInstance): RouteTable {
  const routes: (Route & { pattern: RegExp })[] = [];
  fastify.addHook('onRoute', ({ url, method }) => {
    const pattern = new RegExp(`^${url.replaceAll(/:[A-Za-z]+/g, '[^/]+')}/?$`);
    for (const name of Array.isArray(method) ? method : [method]) routes.push({ pattern, method: name, url });
  });
  const table: RouteTable = {
    all: routes,
    methodsOf: (path) =>
      [...new Set(routes.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method))].sort(),
  };
  fastify.decorate('routeTable', table);
  return table;
}

export interface Route {
  method: string;
  /** As it was declared: `/v1/networks/:id`. */
  url: string;
}

export interface RouteTable {
  readonly all: readonly Route[];
  methodsOf(path: string): string[];
}

/** 404 for no path, 405 with Allow for a path that has other methods. */
function refuseUnknownPath(routes: RouteTable, path: string, reply: FastifyReply): never {
  const allowed = routes.methodsOf(path);
  if (allowed.length === 0) throw new RhyzomeError('not_found', 'There is nothing at this path.');
  reply.header('allow', allowed.join(', '));
  throw new RhyzomeError('method_not_allowed', `This path has ${allowed.join(', ')} only.`);
}
