/** Prometheus metrics of the REST server. */

import type { FastifyReply, FastifyRequest } from 'fastify';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { TokenVerifier } from '#libs/auth';
import type { Databases } from '#libs/db';
import type { RateLimiter } from '#libs/rest';

export function httpMetrics(registry: Registry, databases: Databases, verifier: TokenVerifier, limiter: RateLimiter) {
  const registers = [registry];
  const duration = new Histogram({
    name: 'rhyzome_http_request_duration_seconds',
    help: 'Time from the request to the end of its answer.',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registers,
  });
  new Gauge({
    name: 'rhyzome_database_connections',
    help: 'Connections of the pool, by what they do.',
    labelNames: ['state'],
    registers,
    collect() {
      for (const [state, value] of Object.entries(databases.db.stats())) this.set({ state }, value);
    },
  });
  new Counter({
    name: 'rhyzome_database_statements_total',
    help: 'Statements sent to PostgreSQL, begin and commit not counted.',
    registers,
    collect() {
      this.reset();
      this.inc(databases.statements);
    },
  });
  new Counter({
    name: 'rhyzome_tokens_total',
    help: 'Bearer tokens, by how they were judged.',
    labelNames: ['result'],
    registers,
    collect() {
      this.reset();
      for (const [result, value] of Object.entries(verifier.counts)) this.inc({ result }, value);
    },
  });
  new Counter({
    name: 'rhyzome_http_rate_limited_total',
    help: 'Requests that were refused for a rate limit, by whose limit it was.',
    labelNames: ['policy'],
    registers,
    collect() {
      this.reset();
      for (const [policy, value] of Object.entries(limiter.refused)) this.inc({ policy }, value);
    },
  });
  return {
    observe(request: FastifyRequest, reply: FastifyReply): void {
      const route = request.routeOptions?.url ?? 'unknown';
      duration.observe({ method: request.method, route, status: reply.statusCode }, reply.elapsedTime / 1000);
    },
  };
}
