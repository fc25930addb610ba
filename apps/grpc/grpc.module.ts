/** What the gRPC controllers are made with. Everything is made in main.ts and given in by value. */
import { type DynamicModule, Module } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { DRAINING } from '#libs/core';
import { Database, Listener } from '#libs/db';
import { EventReader, type RefusedReads, type UnauthenticatedLog } from '#libs/events';
import { NodeHub } from '#libs/nodes';
import { JobService, KindRegistry, Pipeline, ResourceReader } from '#libs/resources';
import { RpcErrorFilter } from '#libs/rpc/nest';
import type { ContentStore } from '#libs/storage';
import { Certificates } from './certificates.js';
import { CertificateController } from './controllers/certificate.controller.js';
import { JobServiceController } from './controllers/job.controller.js';
import { NodeController } from './controllers/node.controller.js';
import { RelayController } from './controllers/relay.controller.js';
import { ResourceServiceController } from './controllers/resource.controller.js';
import { ServiceCallers } from './service-callers.js';
import { CONTENT } from './tokens.js';

export interface GrpcParts {
  db: Database;
  listener: Listener;
  registry: KindRegistry;
  hub: NodeHub;
  /** Null where none is configured: then nodes cannot fetch images here. */
  content: ContentStore | null;
  certificates: Certificates;
  /** Where refused certificates are written down; absent: nowhere. */
  unauthenticated?: UnauthenticatedLog;
  /** Where refused reads are written down; absent: nowhere. */
  refusedReads?: RefusedReads;
  /** Signs page tokens. */
  tokenKey: Buffer;
  /** Aborts when this replica is about to end. */
  draining: AbortSignal;
}

@Module({})
export class GrpcModule {
  static with({
    db,
    listener,
    registry,
    hub,
    content,
    certificates,
    unauthenticated,
    refusedReads,
    tokenKey,
    draining,
  }: GrpcParts): DynamicModule {
    return {
      module: GrpcModule,
      controllers: [
        CertificateController,
        NodeController,
        RelayController,
        ResourceServiceController,
        JobServiceController,
      ],
      providers: [
        { provide: Database, useValue: db },
        { provide: Listener, useValue: listener },
        { provide: KindRegistry, useValue: registry },
        { provide: NodeHub, useValue: hub },
        { provide: CONTENT, useValue: content },
        { provide: Certificates, useValue: certificates },
        { provide: ServiceCallers, useValue: new ServiceCallers(db, unauthenticated, refusedReads) },
        { provide: EventReader, useValue: new EventReader(db) },
        { provide: Pipeline, useValue: new Pipeline(db, registry) },
        { provide: ResourceReader, useValue: new ResourceReader(db, tokenKey) },
        { provide: JobService, useValue: new JobService(db, registry, tokenKey, listener, draining) },
        { provide: DRAINING, useValue: draining },
        { provide: APP_FILTER, useClass: RpcErrorFilter },
      ],
    };
  }
}
