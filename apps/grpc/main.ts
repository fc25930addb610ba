/** `rhyzome-grpc`: internal services and node agents over mutual TLS; runs the jobs and numbers the events. */
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import type { MicroserviceOptions } from '@nestjs/microservices';
import { RevocationList } from '#libs/certificates';
import { DEFAULT_AUDIENCE, loadConfigOrExit } from '#libs/config';
import { openDatabases, whenReachable } from '#libs/db';
import { AuditSealer, EventNumberer, RefusedReads, UnauthenticatedLog } from '#libs/events';
import { KeycloakIdentity, provideIdentity } from '#libs/identity';
import { AlarmWatch, JobRunner } from '#libs/jobs';
import { kinds } from '#libs/kinds';
import { ContentCollector, openImageContents, provideImageContents } from '#libs/kinds/image';
import { sweepAccounts } from '#libs/kinds/realm';
import { Fencer, NodeHub, NodeWatch, sweepLeftovers } from '#libs/nodes';
import { createLog, credentialsOrExit, onShutdown, startMonitoring } from '#libs/process';
import { KindRegistry, ResourceJobs, readInstallation, Upkeep } from '#libs/resources';
import { serveEnrollment } from '#libs/rpc';
import { nestGrpcOptions } from '#libs/rpc/nest';
import { Certificates } from './certificates.js';
import { enrollmentService } from './enrollment.js';
import { GrpcModule } from './grpc.module.js';
import { openIssuer } from './issuer.js';
import { grpcMetrics } from './metrics.js';
import { NodesRevocations } from './revocations.js';
import { addressOf } from './service-callers.js';

const config = loadConfigOrExit('rhyzome-grpc', ['db', 'grpc']);
const log = createLog('grpc', config.log.level);
const credentials = await credentialsOrExit('rhyzome-grpc', config.pki, 'server', log);
const issuer = await openIssuer('rhyzome-grpc', config, credentials, log);
const databases = openDatabases('rhyzome-grpc', config, log, true);
const { db, listener, operator } = databases;

/** How long calls under way have to end after SIGTERM (ms). Image content is fetched on elsewhere. */
const CALLS_MS = 5_000;

let serving = false;
const monitoring = await startMonitoring({
  listen: config.grpc.monitoring,
  ready: async () => {
    if (!serving) throw new Error('starting');
    await db.ping();
  },
});

const registry = new KindRegistry(kinds);
const installation = await whenReachable(log, async () => {
  await registry.assertTables(db);
  return readInstallation(db);
});

const firstTcp = config.grpc.listen.find((address) => !address.startsWith('unix:'));
const advertise = config.grpc.advertise ?? firstTcp ?? config.grpc.listen[0]!;
const revocations = new RevocationList(db, log);
const toldRevocations = new NodesRevocations(db, revocations, issuer, credentials, log);
const hub = new NodeHub(db, listener, registry, {
  installationId: installation.id,
  advertise,
  log,
  revocations: toldRevocations,
});
const runner = new JobRunner(db, listener, new ResourceJobs(db, registry), { workers: config.grpc.workers, log });
const alarms = new AlarmWatch(db, log);
const upkeep = new Upkeep(db, registry, log, undefined, [
  { name: 'leftovers', everyMs: 5 * 60_000, work: sweepLeftovers },
  { name: 'accounts', everyMs: 60_000, work: sweepAccounts },
]);
const { fence } = config.grpc;
const watch = new NodeWatch(db, { log, ...(fence?.afterSeconds && { fenceAfterSeconds: fence.afterSeconds }) });
const fencer = fence && new Fencer(db, registry, fence, log);
const numberer = new EventNumberer(operator, listener, {
  onError: (error) => log.warn({ err: error.message }, 'numbering events failed; it is tried again'),
});
const sealer = new AuditSealer(db, log);
const unauthenticated = new UnauthenticatedLog(db, log);
const refusedReads = new RefusedReads(db, log);
const contents = config.storage && openImageContents(config.storage.dir, config.images);
provideImageContents(contents);
const keycloak =
  config.keycloak &&
  new KeycloakIdentity({
    ...config.keycloak,
    installationId: installation.id,
    audience: config.api?.audience ?? DEFAULT_AUDIENCE,
  });
provideIdentity(keycloak);
const content = contents?.store ?? null;
if (!content) log.warn('“storage” is not configured: nodes cannot fetch images from this replica');
grpcMetrics(monitoring.registry, db, hub, runner, numberer);

const draining = new AbortController();
const grpc = nestGrpcOptions({
  listen: config.grpc.listen,
  credentials,
  refuse: (peer) => revocations.refusalOf(peer),
  onRefused: ({ type, name }, source) =>
    unauthenticated.tell({ reason: 'revoked', source: addressOf(source), issuer: `${type}:${name}`, method: 'gRPC' }),
});
await whenReachable(log, () =>
  revocations.follow(listener, () => {
    grpc.gate.recheck();
    void toldRevocations.renew().then((isNew) => isNew && hub.tellRevocations());
  }),
);
await toldRevocations.renew();
const certificates = new Certificates(db, issuer);
const module = GrpcModule.with({
  db,
  listener,
  registry,
  hub,
  content,
  certificates,
  unauthenticated,
  refusedReads,
  tokenKey: installation.tokenKey,
  draining: draining.signal,
});
const app = await NestFactory.createMicroservice<MicroserviceOptions>(module, {
  ...grpc.options,
  logger: ['error', 'warn', 'fatal'],
  abortOnError: false,
} as MicroserviceOptions);
await app.listen();
await grpc.serving;
await listener.start();
runner.start();
numberer.start();
sealer.start();
upkeep.start();
watch.start();
alarms.start();
fencer?.start();
const enrollment =
  config.grpc.enrollment &&
  (await serveEnrollment({
    listen: config.grpc.enrollment.listen,
    credentials,
    implementation: enrollmentService({ certificates, credentials, unauthenticated, log }),
  }));
const collector = content && new ContentCollector(db, listener, content, log);
serving = true;
log.info(
  { listen: config.grpc.listen, enrollment: enrollment?.address, advertise, installation: installation.id },
  'rhyzome-grpc serves',
);

onShutdown(log, async () => {
  monitoring.drain();
  // At once, so that nodes and clients are with another replica while the last jobs are given back.
  draining.abort();
  hub.close();
  const works = [runner, upkeep, watch, alarms, sealer, ...(fencer ? [fencer] : [])].map((work) => work.stop());
  await Promise.all([grpc.drain(CALLS_MS), ...works, collector?.close(), enrollment?.stop(CALLS_MS)]);
  await revocations.close();
  await app.close();
  await numberer.close();
  await Promise.all([unauthenticated.close(), refusedReads.close()]);
  keycloak?.close();
  credentials.close();
  await databases.close();
  await monitoring.close();
});
