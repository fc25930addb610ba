/** Server-sent events (WHATWG HTML §9.2): every change that the caller may read, in order, resumable. */
import { Controller, Get, Inject, Req, Res } from '@nestjs/common';
import { type Actor, Authenticator, InvalidToken, parseBearer } from '#libs/auth';
import { DRAINING, drainingError, isUuid, notFound, RhyzomeError, StreamGuard } from '#libs/core';
import { Listener } from '#libs/db';
import { type EventFilter, EventReader, followEvents, parseCursor, type TenantEvent } from '#libs/events';
import { type Caller, KindRegistry, parseSelectorParameter, ResourceReader, readableEvents } from '#libs/resources';
import { callerOf, type Reply, type Request, refuseUnknownParameters } from '#libs/rest';

const COMMENT_MS = 15_000;
const MAX_STREAMS_PER_TENANT = 200;

@Controller('v1/events')
export class EventsController {
  private readonly open = new Map<string, number>();

  constructor(
    @Inject(EventReader) private readonly reader: EventReader,
    @Inject(KindRegistry) private readonly registry: KindRegistry,
    @Inject(ResourceReader) private readonly resources: ResourceReader,
    @Inject(Listener) private readonly listener: Listener,
    @Inject(Authenticator) private readonly authenticator: Authenticator,
    @Inject(DRAINING) private readonly draining: AbortSignal,
  ) {}

  @Get()
  async stream(@Req() request: Request, @Res() reply: Reply): Promise<void> {
    const caller = callerOf(request);
    const { tenantId } = caller.actor;
    const query = request.query as Record<string, string>;
    refuseUnknownParameters(query, ['since', 'kind', 'resource', 'tagSelector']);
    const filter = await this.filterOf(caller, query);
    const since = sinceOf(request, query);
    const start = await this.reader.resume(tenantId, since);
    if (request.method === 'HEAD') {
      reply.type('text/event-stream; charset=utf-8').send();
      return;
    }
    const streams = this.open.get(tenantId) ?? 0;
    if (streams >= MAX_STREAMS_PER_TENANT) {
      throw new RhyzomeError('too_many_requests', `There are ${streams} event streams of this tenant already.`, {
        retryAfterSeconds: 10,
      });
    }
    this.open.set(tenantId, streams + 1);
    try {
      await this.pump(request, reply, caller, start, filter);
    } finally {
      this.open.set(tenantId, (this.open.get(tenantId) ?? 1) - 1);
    }
  }

  private async filterOf(caller: Caller, query: Record<string, string>): Promise<EventFilter> {
    const { kind, resource, tagSelector } = query;
    if (kind !== undefined) this.registry.get(kind);
    return {
      kind,
      ...this.readableOf(caller.actor),
      resource: resource === undefined ? undefined : await this.idOf(caller, kind, resource),
      selector: tagSelector === undefined ? undefined : parseSelectorParameter(tagSelector),
    };
  }

  /** An id is taken as it is, also of what is gone by now; a name needs its kind. */
  private async idOf(caller: Caller, kind: string | undefined, reference: string): Promise<string> {
    if (isUuid(reference)) return reference;
    if (kind === undefined) throw notFound('resource', reference);
    return (await this.resources.get(caller, this.registry.get(kind), reference)).row.id;
  }

  private async pump(
    request: Request,
    reply: Reply,
    caller: Caller,
    start: number,
    filter: EventFilter,
  ): Promise<void> {
    const out = reply.hijack().raw;
    const { ratelimit, 'ratelimit-policy': policy } = reply.getHeaders();
    out.writeHead(200, {
      ...(ratelimit !== undefined && { ratelimit, 'ratelimit-policy': policy }),
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-request-id': request.requestId,
      'x-accel-buffering': 'no',
    });
    out.write(`: from ${start}\n\n`);
    const gone = new AbortController();
    out.once('close', () => gone.abort());
    const { actor } = caller;
    let shown = filter;
    let seen = actor;
    const guard = new StreamGuard({
      expiresAt: actor.tokenExpiresAt,
      assertWelcome: async () => {
        const now = await this.welcome(request, actor);
        if (now !== seen) shown = { ...filter, ...this.readableOf(now) };
        seen = now;
      },
    });
    const signal = AbortSignal.any([gone.signal, guard.signal, this.draining]);
    const following = followEvents(this.reader, this.listener, {
      tenantId: actor.tenantId,
      since: start,
      filter: () => shown,
      signal,
      idleMs: COMMENT_MS,
    });
    try {
      for await (const event of following) await write(out, event ? render(event) : ': still here\n\n', signal);
    } catch (error) {
      // The stream has begun, so no problem can be sent; the client resumes from the last id that it saw.
      if (!(error instanceof RhyzomeError)) throw error;
    } finally {
      guard.close();
      end(out, guard.reason ?? (this.draining.aborted ? drainingError() : undefined));
    }
  }

  /** The caller as it is now. Throws InvalidToken when its token expired or was revoked, or its tenant is suspended. */
  private async welcome(request: Request, { tokenExpiresAt }: Actor): Promise<Actor> {
    if (tokenExpiresAt && tokenExpiresAt.getTime() <= Date.now()) {
      throw new InvalidToken('expired', 'The token has expired.');
    }
    return this.authenticator.verify(parseBearer(request.headers.authorization));
  }

  private readableOf(actor: Actor): Pick<EventFilter, 'readable'> {
    return { readable: readableEvents(actor, this.registry.names) };
  }
}

function sinceOf(request: Request, query: Record<string, string>): number | undefined {
  const last = request.headers['last-event-id'];
  if (typeof last === 'string' && last !== '') return parseCursor(last, { header: 'Last-Event-ID' });
  return query.since === undefined ? undefined : parseCursor(query.since, { parameter: 'since' });
}

function render(event: TenantEvent): string {
  const data = {
    type: event.type,
    kind: event.kind,
    at: event.at.toISOString(),
    [subjectOf(event)]: event.body,
  };
  return `id: ${event.number}\nevent: ${event.type}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** What the event is about, and the name of its body. */
function subjectOf({ type, jobId }: TenantEvent): 'resource' | 'job' | 'alarm' {
  if (type.startsWith('alarm.')) return 'alarm';
  return jobId === null ? 'resource' : 'job';
}

type Out = NodeJS.WritableStream & { destroyed?: boolean; destroy(): void };

/** Resolves when there is room for more, or the stream is to end. */
async function write(out: Out, text: string, signal: AbortSignal): Promise<void> {
  if (out.destroyed || out.write(text) || signal.aborted) return;
  await new Promise<void>((resolve) => {
    const done = () => {
      out.removeListener('drain', done);
      signal.removeEventListener('abort', done);
      resolve();
    };
    out.once('drain', done);
    signal.addEventListener('abort', done);
  });
}

/** For a client that reads no more. */
const END_MS = 5_000;

/** The last event says why, where it is the server that ends it; a client that goes on asking meets a 401 then. */
function end(out: Out, reason: RhyzomeError | undefined): void {
  if (reason) {
    const data = { code: reason.code, ...(reason instanceof InvalidToken && { reason: reason.reason }) };
    out.write(`event: end\ndata: ${JSON.stringify({ ...data, detail: reason.message })}\n\n`);
  }
  out.end();
  const timer = setTimeout(() => out.destroy(), END_MS).unref();
  out.once('close', () => clearTimeout(timer));
}
