/** Jobs: get, list, cancel, retry. */
import { Controller, Get, Inject, Param, Post, Req, Res } from '@nestjs/common';
import { type JobAnswer, JobService } from '#libs/resources';
import {
  callerOf,
  changeOptionsOf,
  type Reply,
  type Request,
  refuseUnknownParameters,
  sendPage,
  untilGone,
  waitMsOf,
} from '#libs/rest';

@Controller('v1/jobs')
export class JobsController {
  constructor(@Inject(JobService) private readonly jobs: JobService) {}

  @Get()
  async list(@Req() request: Request, @Res() reply: Reply): Promise<void> {
    sendPage(request, reply, await this.jobs.list(callerOf(request), request.query as Record<string, unknown>));
  }

  /** With `wait`, answers when the job has ended or the time is up. */
  @Get(':id')
  async get(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    const query = request.query as Record<string, unknown>;
    refuseUnknownParameters(query, ['wait']);
    const caller = callerOf(request);
    const waitMs = waitMsOf(query);
    const job = await this.jobs.get(caller, id);
    if (!waitMs || job.finishedAt !== null) {
      reply.send(job);
      return;
    }
    await untilGone(request, (signal) => this.jobs.wait(caller, id, waitMs, signal));
    reply.send(await this.jobs.get(caller, id));
  }

  @Post(':id/cancel')
  async cancel(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    const caller = callerOf(request);
    send(reply, await this.jobs.cancel(caller, id, changeOptionsOf(request, caller)));
  }

  @Post(':id/retry')
  async retry(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    const caller = callerOf(request);
    send(reply, await this.jobs.retry(caller, id, changeOptionsOf(request, caller)));
  }
}

function send(reply: Reply, { status, body, isReplay }: JobAnswer): void {
  if (isReplay) reply.header('idempotency-replayed', 'true');
  reply.status(status).header('location', `/v1/jobs/${body.id}`).send(body);
}
