/** `GET /v1/<kinds>/{id}/metrics` of every kind: JSON, or Prometheus text for who would rather have that. */
import { Controller, Get, Inject, Param, Req, Res, type Type } from '@nestjs/common';
import { Database } from '#libs/db';
import { type KindDefinition, metricsText, ResourceReader, readMetrics } from '#libs/resources';
import { callerOf, type Reply, type Request, refuseUnknownParameters } from './http.js';

/** Makes the controller class of a kind. */
export function metricsController(kind: KindDefinition): Type<object> {
  @Controller(`v1/${kind.plural}/:id/metrics`)
  class MetricsController {
    constructor(
      @Inject(Database) private readonly db: Database,
      @Inject(ResourceReader) private readonly reader: ResourceReader,
    ) {}

    @Get()
    async read(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
      refuseUnknownParameters(request.query as Record<string, unknown>, []);
      const caller = callerOf(request);
      const { row } = await this.reader.get(caller, kind, id);
      const view = await readMetrics(this.db, caller, row);
      reply.header('vary', 'accept');
      if (wantsText(request.headers.accept)) {
        reply.type('text/plain; version=0.0.4; charset=utf-8').send(metricsText(view));
      } else reply.send(view);
    }
  }

  Object.defineProperty(MetricsController, 'name', { value: `${kind.plural}MetricsController` });
  return MetricsController;
}

/** Whether text is wanted more than JSON (RFC 9110 §12.5.1); with nothing to tell them apart it is JSON. */
export function wantsText(accept: string | undefined): boolean {
  if (!accept) return false;
  return qualityOf(accept, 'text', 'plain') > qualityOf(accept, 'application', 'json');
}

/** The quality of the most specific range that covers a type; 0: none does. */
function qualityOf(accept: string, type: string, subtype: string): number {
  const ranges = [`${type}/${subtype}`, `${type}/*`, '*/*'];
  let best = { rank: ranges.length, quality: 0 };
  for (const range of accept.toLowerCase().split(',')) {
    const [name, ...parameters] = range.split(';').map((part) => part.trim());
    const rank = ranges.indexOf(name!);
    const quality = Number(parameters.find((parameter) => /^q\s*=/.test(parameter))?.split('=')[1] ?? 1);
    if (rank >= 0 && rank < best.rank && quality >= 0 && quality <= 1) best = { rank, quality };
  }
  return best.quality;
}
