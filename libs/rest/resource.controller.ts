/** The uniform routes of a kind, made from its manifest. A kind writes a controller only for verbs of its own. */
import { Controller, Delete, Get, Inject, Param, Patch, Post, Req, Res, type Type } from '@nestjs/common';
import { RhyzomeError } from '#libs/core';
import {
  type Caller,
  type ChangeResult,
  JobService,
  type KindDefinition,
  type Page,
  Pipeline,
  ResourceReader,
} from '#libs/resources';
import {
  callerOf,
  changeOptionsOf,
  flagOf,
  isUnchanged,
  objectBody,
  type Reply,
  type Request,
  refuseOtherPatches,
  refuseUnknownParameters,
  sendChange,
  waitForJob,
} from './http.js';

/** Sends a page with `Link: rel="next"` (RFC 8288). */
export function sendPage(request: Request, reply: Reply, page: Page<unknown>): Reply {
  if (page.nextPageToken !== null) {
    const [path, query] = request.url.split('?');
    const parameters = new URLSearchParams(query);
    parameters.set('pageToken', page.nextPageToken);
    reply.header('link', `<${path}?${parameters}>; rel="next"`);
  }
  return reply.send(page);
}

/** Makes the controller class of a kind. */
export function resourceController(kind: KindDefinition): Type<object> {
  const changes = kind.changes ?? ['create', 'update', 'delete'];

  @Controller(`v1/${kind.plural}`)
  class ResourceController {
    constructor(
      @Inject(Pipeline) private readonly pipeline: Pipeline,
      @Inject(ResourceReader) private readonly reader: ResourceReader,
      @Inject(JobService) private readonly jobs: JobService,
    ) {}

    @Get()
    async list(@Req() request: Request, @Res() reply: Reply): Promise<void> {
      const page = await this.reader.list(callerOf(request), kind, request.query as Record<string, unknown>);
      sendPage(request, reply, page);
    }

    @Get(':id')
    async get(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
      refuseUnknownParameters(request.query as Record<string, unknown>, []);
      const { body, etag } = await this.reader.get(callerOf(request), kind, id);
      reply.header('etag', etag);
      if (isUnchanged(request, etag)) reply.status(304).send();
      else reply.send(body);
    }

    @offered(changes.includes('create'), Post())
    async create(@Req() request: Request, @Res() reply: Reply): Promise<void> {
      const caller = callerOf(request);
      const options = changeOptionsOf(request, caller);
      await this.send(request, reply, caller, await this.pipeline.create(caller, kind, objectBody(request), options));
    }

    @offered(changes.includes('update'), Patch(':id'))
    async update(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
      refuseOtherPatches(request);
      const caller = callerOf(request);
      const options = changeOptionsOf(request, caller);
      await this.send(
        request,
        reply,
        caller,
        await this.pipeline.update(caller, kind, id, objectBody(request), options),
      );
    }

    @offered(changes.includes('delete'), Delete(':id'))
    async remove(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
      const caller = callerOf(request);
      const cascade = flagOf(request.query as Record<string, unknown>, 'cascade');
      const options = { ...changeOptionsOf(request, caller, ['cascade']), cascade };
      await this.send(request, reply, caller, await this.pipeline.remove(caller, kind, id, options));
    }

    /** All that the selector picks; answered at once, with a job each. */
    @offered(changes.includes('delete'), Delete())
    async removeMatching(@Req() request: Request, @Res() reply: Reply): Promise<void> {
      const caller = callerOf(request);
      const { dryRun: _dryRun, ...selection } = request.query as Record<string, unknown>;
      const options = changeOptionsOf(request, caller, Object.keys(selection).sort());
      const { body, isReplay } = await this.pipeline.removeMatching(caller, kind, selection, options);
      if (isReplay) reply.header('idempotency-replayed', 'true');
      reply.send(body);
    }

    @offered(kind.actions !== undefined, Post(':id/:action'))
    async act(
      @Req() request: Request,
      @Res() reply: Reply,
      @Param('id') id: string,
      @Param('action') action: string,
    ): Promise<void> {
      if (!Object.hasOwn(kind.actions ?? {}, action)) throw noSuchAction(kind);
      const caller = callerOf(request);
      const options = changeOptionsOf(request, caller);
      const body = request.body === undefined || request.body === null ? {} : objectBody(request);
      await this.send(request, reply, caller, await this.pipeline.act(caller, kind, id, action, body, options));
    }

    /** With `wait`, the answer is the resource and job as they are when the job has ended. */
    private async send(request: Request, reply: Reply, caller: Caller, result: ChangeResult): Promise<void> {
      const ended = result.replay ? false : await waitForJob(request, this.jobs, caller, result.jobId);
      if (!ended || !result.jobId) {
        sendChange(reply, result);
        return;
      }
      // Who may make something may not read it for that: he is told that it goes on.
      const job = await unlessUnknown(this.jobs.get(caller, result.jobId));
      if (!job) {
        sendChange(reply, result);
        return;
      }
      // A removal or a cancelled create has taken it away: the last that was known of it goes with the job.
      const after = await unlessUnknown(this.reader.get(caller, kind, result.body.id));
      const body = { ...(after?.body ?? result.body), job: { id: job.id, state: job.state } };
      sendChange(reply, {
        ...result,
        status: 200,
        etag: after?.etag ?? '',
        body: { ...body, job } as ChangeResult['body'],
      });
    }
  }

  Object.defineProperty(ResourceController, 'name', { value: `${kind.plural}Controller` });
  return ResourceController;
}

/** Undefined for what there is not, or not for the caller. */
async function unlessUnknown<T>(found: Promise<T>): Promise<T | undefined> {
  try {
    return await found;
  } catch (error) {
    if (error instanceof RhyzomeError && error.code === 'not_found') return undefined;
    throw error;
  }
}

/** The route only where the kind has it: without it, the router answers 405 with what there is. */
function offered(isOffered: boolean, route: MethodDecorator): MethodDecorator {
  return isOffered ? route : () => undefined;
}

function noSuchAction(kind: KindDefinition): RhyzomeError {
  const names = Object.keys(kind.actions ?? {}).join(', ');
  return new RhyzomeError('not_found', `The actions of ${kind.plural} are ${names}; there is no other.`);
}
