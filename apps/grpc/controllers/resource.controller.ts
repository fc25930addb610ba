/** Resources for internal services: the pipeline of the REST API, with the tenant named in each request. */

import type * as grpc from '@grpc/grpc-js';
import { Controller, Inject } from '@nestjs/common';
import { GrpcMethod } from '@nestjs/microservices';
import type { Observable } from 'rxjs';
import { Doorbell, DRAINING, drainingError, invalid, type MetricSample, StreamGuard } from '#libs/core';
import { Database, Listener } from '#libs/db';
import { EventReader, followEvents, parseCursor } from '#libs/events';
import {
  type Caller,
  type ChangeOptions,
  type ChangeResult,
  checkIdempotencyKey,
  hashRequest,
  KindRegistry,
  Pipeline,
  parseSelectorParameter,
  ResourceReader,
  type ResourceView,
  readableEvents,
  reportMetrics,
} from '#libs/resources';
import type {
  ActRequest,
  ActResponse,
  CreateRequest,
  CreateResponse,
  DeleteRequest,
  DeleteResponse,
  GetRequest,
  GetResponse,
  ListRequest,
  ListResponse,
  ReportMetricsRequest,
  ReportMetricsResponse,
  Resource,
  UpdateRequest,
  UpdateResponse,
  WatchRequest,
  WatchResponse,
} from '#libs/rpc';
import { ServiceCallers } from '../service-callers.js';
import { streamed } from '../streaming.js';

/** How often the rights of a watching service are looked at when nothing happens. */
const RIGHTS_MS = 15_000;

type Unary<Request> = grpc.ServerUnaryCall<Request, unknown>;

@Controller()
export class ResourceServiceController {
  constructor(
    @Inject(ServiceCallers) private readonly callers: ServiceCallers,
    @Inject(KindRegistry) private readonly registry: KindRegistry,
    @Inject(Pipeline) private readonly pipeline: Pipeline,
    @Inject(ResourceReader) private readonly reader: ResourceReader,
    @Inject(EventReader) private readonly events: EventReader,
    @Inject(Listener) private readonly listener: Listener,
    @Inject(Database) private readonly db: Database,
    @Inject(DRAINING) private readonly draining: AbortSignal,
  ) {}

  @GrpcMethod('ResourceService', 'get')
  async get(request: GetRequest, _: grpc.Metadata, call: Unary<GetRequest>): Promise<GetResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    const kind = this.registry.get(request.kind);
    const read = () => this.reader.get(caller, kind, request.id);
    const { body, etag } = await this.callers.reading(caller, kind.name, request.id, read);
    return { resource: message(request.tenantId, body, etag) };
  }

  @GrpcMethod('ResourceService', 'list')
  async list(request: ListRequest, _: grpc.Metadata, call: Unary<ListRequest>): Promise<ListResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    const query = {
      ...request.filters,
      ...(request.pageSize > 0 && { pageSize: String(request.pageSize) }),
      ...(request.pageToken !== '' && { pageToken: request.pageToken }),
      ...(request.tagSelector !== '' && { tagSelector: request.tagSelector }),
      ...(request.sort !== '' && { sort: request.sort }),
      ...(request.count && { count: 'true' }),
    };
    const kind = this.registry.get(request.kind);
    const read = () => this.reader.list(caller, kind, query);
    const page = await this.callers.reading(caller, kind.name, undefined, read);
    return {
      items: page.items.map((body) => message(request.tenantId, body, '')),
      nextPageToken: page.nextPageToken ?? '',
      totalCount: page.totalCount === undefined ? undefined : BigInt(page.totalCount),
    };
  }

  @GrpcMethod('ResourceService', 'create')
  async create(request: CreateRequest, _: grpc.Metadata, call: Unary<CreateRequest>): Promise<CreateResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    const body = request.body ?? {};
    const options = optionsOf(caller, request, ['create', request.kind, body]);
    return changed(
      request.tenantId,
      await this.pipeline.create(caller, this.registry.get(request.kind), body, options),
    );
  }

  @GrpcMethod('ResourceService', 'update')
  async update(request: UpdateRequest, _: grpc.Metadata, call: Unary<UpdateRequest>): Promise<UpdateResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    const { kind, id, patch } = request;
    const options = optionsOf(caller, request, ['update', kind, id, patch]);
    return changed(
      request.tenantId,
      await this.pipeline.update(caller, this.registry.get(kind), id, patch ?? {}, options),
    );
  }

  @GrpcMethod('ResourceService', 'delete')
  async delete(request: DeleteRequest, _: grpc.Metadata, call: Unary<DeleteRequest>): Promise<DeleteResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    const { kind, id, cascade } = request;
    const options = { ...optionsOf(caller, request, ['delete', kind, id, cascade]), cascade };
    return changed(request.tenantId, await this.pipeline.remove(caller, this.registry.get(kind), id, options));
  }

  @GrpcMethod('ResourceService', 'act')
  async act(request: ActRequest, _: grpc.Metadata, call: Unary<ActRequest>): Promise<ActResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    const { kind, id, action } = request;
    const body = request.body ?? {};
    const options = optionsOf(caller, request, ['act', kind, id, action, body]);
    const definition = this.registry.get(kind);
    return changed(request.tenantId, await this.pipeline.act(caller, definition, id, action, body, options));
  }

  @GrpcMethod('ResourceService', 'reportMetrics')
  async reportMetrics(
    request: ReportMetricsRequest,
    _: grpc.Metadata,
    call: Unary<ReportMetricsRequest>,
  ): Promise<ReportMetricsResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    const kind = this.registry.get(request.kind);
    await reportMetrics(this.db, caller, kind, request.id, request.metrics as MetricSample[]);
    return {};
  }

  @GrpcMethod('ResourceService', 'watch')
  watch(
    request: WatchRequest,
    _: grpc.Metadata,
    call: grpc.ServerWritableStream<WatchRequest, WatchResponse>,
  ): Observable<never> {
    return streamed(call, (signal) => this.changes(request, call, signal));
  }

  private async *changes(
    request: WatchRequest,
    call: grpc.ServerWritableStream<WatchRequest, WatchResponse>,
    signal: AbortSignal,
  ): AsyncGenerator<WatchResponse> {
    const { tenantId } = request;
    let { actor } = await this.callers.streamerOf(call, tenantId);
    if (request.kind !== '') this.registry.get(request.kind);
    const filter = {
      kind: request.kind || undefined,
      selector: request.tagSelector === '' ? undefined : parseSelectorParameter(request.tagSelector),
    };
    const asked = request.since === '' ? undefined : parseCursor(request.since, { parameter: 'since' });
    // Rights stand in the database, and are asked for again when something about rights or tenants has changed.
    const changes = new Doorbell();
    const off = this.listener.on('rhyzome_tenant', changes.ring);
    let askedAt = Date.now();
    const guard = new StreamGuard({
      assertWelcome: async () => {
        if (!(await changes.wait(0)) && Date.now() - askedAt < RIGHTS_MS) return;
        askedAt = Date.now();
        actor = (await this.callers.streamerOf(call, tenantId, true)).actor;
      },
    });
    try {
      const following = followEvents(this.events, this.listener, {
        tenantId,
        since: await this.events.resume(tenantId, asked),
        filter: () => ({ ...filter, readable: readableEvents(actor, this.registry.names) }),
        signal: AbortSignal.any([signal, guard.signal, this.draining]),
        idleMs: RIGHTS_MS,
      });
      for await (const event of following) {
        if (event) yield { cursor: String(event.number), type: event.type, body: event.body, at: event.at };
      }
      if (guard.reason) throw guard.reason;
      if (this.draining.aborted) throw drainingError();
    } finally {
      guard.close();
      off();
    }
  }
}

function message(tenantId: string, body: ResourceView, etag: string): Resource {
  return { tenantId, kind: body.kind, id: body.id, name: body.name, etag, body };
}

function changed(tenantId: string, { body, etag, secrets }: ChangeResult): CreateResponse {
  const { job, ...resource } = body;
  return {
    resource: message(tenantId, { ...resource, ...secrets } as ResourceView, etag),
    job: job && { id: job.id, state: job.state, body: job },
  };
}

interface Conditions {
  dryRun: boolean;
  idempotencyKey: string;
  ifMatch?: string;
}

function optionsOf(caller: Caller, request: Conditions, hashed: unknown[]): ChangeOptions {
  const { idempotencyKey: key } = request;
  if (key !== '') checkIdempotencyKey(key);
  if (request.ifMatch && request.ifMatch.length > 1000) {
    throw invalid([{ parameter: 'if_match', code: 'too_long', message: 'must have at most 1000 characters' }]);
  }
  return {
    dryRun: request.dryRun,
    ifMatch: request.ifMatch || undefined,
    ...(key !== '' && { idempotency: { subject: caller.actor.subject, key, hash: hashRequest('grpc', ...hashed) } }),
  };
}
