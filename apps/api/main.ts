/** `rhyzome-api`: the REST server. Stateless; any number of them may run. */
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { ApiTokens, Authenticator, StoredKeys, TokenVerifier } from '#libs/auth';
import { loadConfigOrExit } from '#libs/config';
import { openDatabases, whenReachable } from '#libs/db';
import { RefusedReads, UnauthenticatedLog } from '#libs/events';
import { kinds } from '#libs/kinds';
import { openImageContents, provideImageContents } from '#libs/kinds/image';
import { ConsoleRelay } from '#libs/nodes';
import { createLog, credentialsOrExit, onShutdown, startMonitoring, version } from '#libs/process';
import { describeApi, KindRegistry, readInstallation } from '#libs/resources';
import { Addressing, RateLimiter } from '#libs/rest';
import { ApiModule } from './api.module.js';
import { acceptBodies } from './bodies.js';
import { openDirectories } from './directories.js';
import { HttpDrain } from './drain.js';
import { acceptUpgrades, addGate, createAdapter, recordRoutes } from './http-server.js';
import { httpMetrics } from './metrics.js';
import { ProtectedResource } from './protected-resource.js';
import { recordRefusals, recordRefusedReads } from './refusals.js';
import { refuseRevokedServers } from './revocations.js';

const config = loadConfigOrExit('rhyzome-api', ['db', 'api']);
const log = createLog('api', config.log.level);
const credentials = await credentialsOrExit('rhyzome-api', config.pki, 'server', log);
const databases = openDatabases('rhyzome-api', config, log, false);
const { db, listener } = databases;
let serving = false;
const monitoring = await startMonitoring({
  listen: config.api.monitoring,
  ready: async () => {
    if (!serving) throw new Error('starting');
    await db.ping();
  },
});

if (config.storage) provideImageContents(openImageContents(config.storage.dir, config.images));
else log.warn('“storage” is not configured: tenants cannot bring images in by this replica');
const registry = new KindRegistry(kinds);
const installation = await whenReachable(log, async () => {
  await registry.assertTables(db);
  return readInstallation(db);
});

const wary = await whenReachable(log, () => refuseRevokedServers(credentials, db, listener, log));
const { issuers, domains, access } = await openDirectories(db, listener, log, config.api.domain);
await listener.start();

const memory = new StoredKeys(db, {
  onError: (error) => log.warn({ err: error }, 'writing down issuers’ keys failed'),
});
const tokens = new TokenVerifier({ directory: issuers, audience: config.api.audience, memory });
const apiTokens = new ApiTokens(db, access, {
  onError: (error) => log.warn({ err: error }, 'writing down when API tokens were used failed'),
});
apiTokens.start();
const authenticator = new Authenticator(tokens, access, apiTokens);
const relay = new ConsoleRelay(db, wary.credentials);
const openapi = describeApi(registry.all, version());
const resource = new ProtectedResource((tenantId) => issuers.issuersOf(tenantId), config.api.publicUrl);
const adapter = createAdapter();
const fastify = adapter.getInstance();
const drain = new HttpDrain(fastify as never);
const module = ApiModule.with({
  db,
  listener,
  registry,
  authenticator,
  relay,
  tokenKey: installation.tokenKey,
  openapi,
  resource,
  draining: drain.signal,
  log,
});
const limiter = new RateLimiter(config.api.rateLimit);
const metrics = httpMetrics(monitoring.registry, databases, tokens, limiter);
const routes = recordRoutes(fastify as never);
const addressing = new Addressing((host) => domains.ownerOf(host), config.api.trustedProxies);
const unauthenticated = new UnauthenticatedLog(db, log);
const refusedReads = new RefusedReads(db, log);
const noteRefusedRead = recordRefusedReads(refusedReads, registry);
addGate(fastify as never, {
  routes,
  verifier: authenticator,
  limiter,
  addressing,
  resource,
  onAnswer: (request, reply) => {
    metrics.observe(request, reply);
    noteRefusedRead(request, reply);
  },
  onUnauthenticated: recordRefusals(unauthenticated),
});
const app = await NestFactory.create<NestFastifyApplication>(module, adapter, {
  logger: ['error', 'warn', 'fatal'],
  bodyParser: false,
  abortOnError: false,
});
acceptBodies(fastify as never);
acceptUpgrades(fastify as never);
const at = config.api.listen.lastIndexOf(':');
await app.listen(Number(config.api.listen.slice(at + 1)), config.api.listen.slice(0, at).replace(/^\[|\]$/g, ''));
serving = true;
log.info({ listen: config.api.listen, installation: installation.id }, 'rhyzome-api serves');

onShutdown(log, async () => {
  monitoring.drain();
  await drain.run();
  await app.close();
  access.stop();
  await apiTokens.stop();
  tokens.close();
  await Promise.all([unauthenticated.close(), refusedReads.close()]);
  relay.close();
  await wary.close();
  credentials.close();
  await databases.close();
  await monitoring.close();
});
