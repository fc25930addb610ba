/** How much a tenant may have: read by its users, set by administrators with `rhyzome quota`. */
import { Controller, Get, Inject, Req, Res } from '@nestjs/common';
import { may } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import { Database } from '#libs/db';
import { callerOf, type Reply, type Request, refuseUnknownParameters } from '#libs/rest';

@Controller('v1/quotas')
export class QuotasController {
  constructor(@Inject(Database) private readonly db: Database) {}

  @Get()
  async list(@Req() request: Request, @Res() reply: Reply): Promise<void> {
    refuseUnknownParameters(request.query as Record<string, unknown>, []);
    const { actor } = callerOf(request);
    if (!may(actor, 'read', 'quota')) {
      throw new RhyzomeError('forbidden', 'You may not list quotas: the permission quota:read is missing.');
    }
    const { tenantId } = actor;
    const query = this.db.builder
      .selectFrom('quota')
      .select(['name', 'max', 'used'])
      .where('tenant_id', '=', tenantId)
      .orderBy('name');
    reply.send({ items: await this.db.tenantRead(tenantId, query.compile()) });
  }
}
