/** Every exception of a controller becomes a problem; what is our own fault is logged with its cause. */
import { type ArgumentsHost, Catch, type ExceptionFilter, Inject } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from '#libs/process';
import { toRhyzomeError } from '#libs/rest';
import { sendProblem } from './http-server.js';
import { LOG } from './tokens.js';

@Catch()
export class ProblemFilter implements ExceptionFilter {
  constructor(@Inject(LOG) private readonly log: Logger) {}

  catch(thrown: unknown, host: ArgumentsHost): void {
    const request = host.switchToHttp().getRequest<FastifyRequest>();
    const reply = host.switchToHttp().getResponse<FastifyReply>();
    const error = toRhyzomeError(thrown);
    if (error.code === 'internal') {
      this.log.error({ err: error.cause ?? error, requestId: request.requestId, url: request.url }, 'a request failed');
    }
    if (reply.raw.headersSent) {
      reply.raw.destroy();
      return;
    }
    sendProblem(request, reply, error);
  }
}
