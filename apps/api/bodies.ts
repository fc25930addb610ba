/**
 * Bodies of requests: JSON of bounded size and time, or, on few routes, a stream of bytes that the route's own controller
 * limits. A client that asks first (Expect: 100-continue, RFC 9110 §10.1.1) is told to send once it was let in.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { invalid, isNestedDeeper, MAX_NESTING, RhyzomeError } from '#libs/core';
import { sendProblem } from './http-server.js';

const BODY_MS = 60_000;
const READ_IN_VAIN_MS = 5_000;

/** Routes whose body is a stream of bytes of any length; their controllers limit it, and how long it takes. */
const streamedRoutes = /^PUT \/v1\/images\/:[^/]+\/content$/;

function isStreamed({ method, routeOptions }: FastifyRequest): boolean {
  return streamedRoutes.test(`${method} ${routeOptions.url}`);
}

/** An empty JSON body is undefined and judged by the route. `bodyMs`: so long may a body take that is no stream. */
export function acceptBodies(fastify: FastifyInstance, bodyMs = BODY_MS): void {
  tellWhenToSend(fastify);
  fastify.removeAllContentTypeParsers();
  fastify.addHook('onResponse', async (request) => readInVain(request));
  fastify.addHook('preParsing', async (request, reply, payload) => {
    if (isStreamed(request)) {
      refuseOtherThanBytes(request);
      return payload;
    }
    request.sendContinue?.();
    endLate(request, reply, bodyMs);
    return payload;
  });
  fastify.addContentTypeParser('*', (request: FastifyRequest, payload: unknown, done) => {
    if (isStreamed(request)) return done(null, payload);
    done(new RhyzomeError('unsupported_media_type', 'The body must be application/json.'));
  });
  const parse = (_: FastifyRequest, text: string, done: (error: Error | null, body?: unknown) => void) => {
    if (text.length === 0) return done(null, undefined);
    let body: unknown;
    try {
      body = JSON.parse(text);
    } catch {
      return done(new RhyzomeError('malformed_json', 'The body is not JSON.'));
    }
    done(isNestedDeeper(body) ? tooDeep() : null, body);
  };
  for (const type of ['application/json', 'application/merge-patch+json']) {
    fastify.addContentTypeParser(type, { parseAs: 'string' }, parse as never);
  }
}

/** Before any of it is read, by whichever parser its type would choose. */
function refuseOtherThanBytes({ headers }: FastifyRequest): void {
  const type = headers['content-type']?.split(';')[0]?.trim().toLowerCase();
  if (type === undefined || type === 'application/octet-stream') return;
  throw new RhyzomeError('unsupported_media_type', 'The body must be application/octet-stream.');
}

/** Node would answer at once; a refusal then comes while the client sends in vain. */
function tellWhenToSend(fastify: FastifyInstance): void {
  const asking = new WeakSet<IncomingMessage>();
  fastify.server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    asking.add(request);
    fastify.server.emit('request', request, response);
  });
  fastify.addHook('onRequest', async (request, reply) => {
    if (!asking.delete(request.raw)) return;
    request.sendContinue = () => {
      request.sendContinue = undefined;
      reply.raw.writeContinue();
    };
  });
}

/** A body that is not there in time is given up, so that nobody holds connections by sending slowly. */
function endLate(request: FastifyRequest, reply: FastifyReply, bodyMs: number): void {
  const { raw } = request;
  if (raw.complete) return;
  const timer = setTimeout(() => {
    if (reply.sent || raw.complete) return;
    reply.raw.once('finish', () => raw.socket.destroy());
    const message = `The request took longer than ${bodyMs / 1000} s to arrive.`;
    void sendProblem(request, reply.header('connection', 'close'), new RhyzomeError('request_timeout', message));
  }, bodyMs);
  raw.once('close', () => clearTimeout(timer));
  raw.once('end', () => clearTimeout(timer));
}

/** A client that is still sending has not read its answer: what comes is read for a while, then the connection ends. */
function readInVain({ raw }: FastifyRequest): void {
  if (raw.complete || raw.destroyed) return;
  const timer = setTimeout(() => raw.socket.destroy(), READ_IN_VAIN_MS);
  raw.once('close', () => clearTimeout(timer));
  raw.once('end', () => clearTimeout(timer));
  raw.resume();
}

function tooDeep(): RhyzomeError {
  return invalid([{ pointer: '', code: 'invalid_value', message: `is nested deeper than ${MAX_NESTING} levels` }]);
}
