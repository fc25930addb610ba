/** What the REST controllers are made with. Everything is made in main.ts and given in by value. */
import { type DynamicModule, Module } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { Authenticator } from '#libs/auth';
import { DRAINING } from '#libs/core';
import { Database, Listener } from '#libs/db';
import { EventReader } from '#libs/events';
import { ConsoleRelay } from '#libs/nodes';
import type { Logger } from '#libs/process';
import { AlarmService, JobService, KindRegistry, Pipeline, ResourceReader } from '#libs/resources';
import { metricsController, resourceController } from '#libs/rest';
import { AlarmsController } from './controllers/alarms.controller.js';
import { AuditController } from './controllers/audit.controller.js';
import { DocsController } from './controllers/docs.controller.js';
import { EventsController } from './controllers/events.controller.js';
import { JobsController } from './controllers/jobs.controller.js';
import { OpenApiController } from './controllers/openapi.controller.js';
import { PermissionsController } from './controllers/permissions.controller.js';
import { ProtectedResourceController } from './controllers/protected-resource.controller.js';
import { QuotasController } from './controllers/quotas.controller.js';
import { ProblemFilter } from './problem.filter.js';
import { ProtectedResource } from './protected-resource.js';
import { LOG, OPENAPI } from './tokens.js';

export interface ApiParts {
  db: Database;
  listener: Listener;
  registry: KindRegistry;
  authenticator: Authenticator;
  relay: ConsoleRelay;
  /** Signs page tokens. */
  tokenKey: Buffer;
  openapi: object;
  resource: ProtectedResource;
  /** Aborts when this replica is about to end. */
  draining: AbortSignal;
  log: Logger;
}

@Module({})
export class ApiModule {
  static with(parts: ApiParts): DynamicModule {
    const { db, listener, registry, authenticator, relay, tokenKey, draining } = parts;
    const kinds = registry.all;
    return {
      module: ApiModule,
      controllers: [
        OpenApiController,
        DocsController,
        PermissionsController,
        ProtectedResourceController,
        QuotasController,
        JobsController,
        AlarmsController,
        EventsController,
        AuditController,
        ...kinds.flatMap((kind) => [...(kind.controllers ?? [])]),
        ...kinds.map(metricsController),
        ...kinds.map(resourceController),
      ],
      providers: [
        { provide: Database, useValue: db },
        { provide: Listener, useValue: listener },
        { provide: KindRegistry, useValue: registry },
        { provide: Authenticator, useValue: authenticator },
        { provide: ConsoleRelay, useValue: relay },
        { provide: EventReader, useValue: new EventReader(db) },
        { provide: Pipeline, useValue: new Pipeline(db, registry, (tenantId) => authenticator.forget(tenantId)) },
        { provide: ResourceReader, useValue: new ResourceReader(db, tokenKey) },
        { provide: JobService, useValue: new JobService(db, registry, tokenKey, listener, draining) },
        { provide: AlarmService, useValue: new AlarmService(db, registry, tokenKey) },
        { provide: ProtectedResource, useValue: parts.resource },
        { provide: OPENAPI, useValue: parts.openapi },
        { provide: DRAINING, useValue: draining },
        { provide: LOG, useValue: parts.log },
        { provide: APP_FILTER, useClass: ProblemFilter },
      ],
    };
  }
}
