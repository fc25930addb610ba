/** For this server's tests: a replica in this process, over real HTTP, whose tokens name their actor. */
import { NestFactory } from '@nestjs/core';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { expect } from 'vitest';
import {
  AccessDirectory,
  type Actor,
  ApiTokens,
  Authenticator,
  type BearerVerifier,
  InvalidToken,
  type Role,
} from '#libs/auth';
import { kinds } from '#libs/kinds';
import type { ConsoleRelay } from '#libs/nodes';
import { createLog } from '#libs/process';
import { describeApi } from '#libs/resources';
import { Addressing, RateLimiter, type RateLimits } from '#libs/rest';
import { callerIn, type Platform } from '#libs/testing';
import { ApiModule } from './api.module.js';
import { acceptBodies } from './bodies.js';
import { acceptUpgrades, addGate, createAdapter, type GateOptions, recordRoutes } from './http-server.js';
import { ProtectedResource } from './protected-resource.js';

/** `role.tenant` instead of a signed token; libs/auth tests those. */
export class PlainTokens implements BearerVerifier {
  private readonly actors = new Map<string, Actor>();

  async verify(bearer: string): Promise<Actor> {
    const known = this.actors.get(bearer);
    if (known) return known;
    const [role, tenant, subject] = bearer.split('.') as [Role, string, string?];
    if (bearer === 'broken') throw new Error('secret insides');
    if (!tenant) throw new InvalidToken('malformed', 'The token is none.');
    const { actor } = callerIn(tenant, role, subject);
    this.actors.set(bearer, actor);
    return actor;
  }
}

/** Limits that no test comes near. */
export const generous: RateLimits = {
  tenantPerSecond: 1e6,
  tenantBurst: 1e6,
  userPerSecond: 1e6,
  userBurst: 1e6,
  addressPerSecond: 1e6,
  addressBurst: 1e6,
};

export async function serve(
  platform: Platform,
  limits: RateLimits = generous,
  {
    relay = {} as ConsoleRelay,
    tokens = new PlainTokens(),
    addressing = new Addressing(() => undefined),
    resource = new ProtectedResource(() => []),
    onUnauthenticated,
    onAnswer = () => undefined,
    draining = new AbortController().signal,
  }: {
    relay?: ConsoleRelay;
    tokens?: BearerVerifier;
    addressing?: Addressing;
    resource?: ProtectedResource;
    onUnauthenticated?: GateOptions['onUnauthenticated'];
    onAnswer?: GateOptions['onAnswer'];
    draining?: AbortSignal;
  } = {},
): Promise<NestFastifyApplication> {
  const adapter = createAdapter();
  const fastify = adapter.getInstance();
  const routes = recordRoutes(fastify as never);
  const { db, listener, registry } = platform;
  const access = new AccessDirectory(db);
  listener.on('rhyzome_access', (tenantId) => access.forget(tenantId));
  const authenticator = new Authenticator(tokens, access, new ApiTokens(db, access));
  addGate(fastify as never, {
    routes,
    verifier: authenticator,
    limiter: new RateLimiter(limits),
    addressing,
    resource,
    onAnswer,
    onUnauthenticated,
  });
  const module = ApiModule.with({
    db,
    listener,
    registry,
    authenticator,
    relay,
    tokenKey: Buffer.alloc(32, 1),
    openapi: describeApi(kinds, '0'),
    resource,
    draining,
    log: createLog('api', 'silent'),
  });
  const app = await NestFactory.create<NestFastifyApplication>(module, adapter, { logger: false, bodyParser: false });
  acceptBodies(fastify as never);
  acceptUpgrades(fastify as never);
  await app.listen(0, '127.0.0.1');
  return app;
}

export interface Asked {
  method?: string;
  body?: unknown;
  token?: string | null;
  headers?: Record<string, string>;
}

export interface Told {
  status: number;
  headers: Headers;
  text: string;
  /** The text as JSON; undefined where it is none. */
  body: any;
}

/** One request, by default as acme's administrator. */
export async function askAt(base: string, path: string, asked: Asked = {}): Promise<Told> {
  const { method = 'GET', body, token = 'admin.acme', headers = {} } = asked;
  const response = await fetch(`${base}${path}`, {
    method,
    body: body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body),
    headers: {
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(token && { authorization: `Bearer ${token}` }),
      ...headers,
    },
  });
  const text = await response.text();
  const isJson = /[/+]json/.test(response.headers.get('content-type') ?? '');
  const { status } = response;
  return { status, headers: response.headers, text, body: isJson && text !== '' ? JSON.parse(text) : undefined };
}

export async function expectProblem(asked: Promise<Told>, status: number, code: string): Promise<Told> {
  const answer = await asked;
  expect(answer.body).toMatchObject({
    status,
    code,
    type: `urn:rhyzome:problem:${code}`,
    instance: expect.any(String),
  });
  expect(answer.status).toBe(status);
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(answer.headers.get('x-request-id')).toBe(answer.body.requestId);
  return answer;
}
