/** Jobs: get, list, cancel, retry. */
import { Controller, Get, Inject, Param, Post, Req, Res } from '@nestjs/common';
import { JobService } from '#libs/resources';
import { callerOf, type Reply, type Request, refuseUnknownParameters, sendPage, waitMsOf } from '#libs/rest';

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
    const gone = new AbortController();
    request.raw.socket.once('close', () => gone.abort());
    await this.jobs.wait(caller, id, waitMs, gone.signal);
    reply.send(await this.jobs.get(caller, id));
  }

  @Post(':id/cancel')
  async cancel(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    refuseUnknownParameters(request.query as Record<string, unknown>, []);
    reply.status(202).send(await this.jobs.cancel(callerOf(request), id));
  }

  @Post(':id/retry')
  async retry(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    refuseUnknownParameters(request.query as Record<string, unknown>, []);
    const job = await this.jobs.retry(callerOf(request), id);
    reply.status(202).header('location', `/v1/jobs/${job.id}`).send(job);
  }
}
