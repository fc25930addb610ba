/** Alarms about the tenant's resources: get, list. */
import { Controller, Get, Inject, Param, Req, Res } from '@nestjs/common';
import { AlarmService } from '#libs/resources';
import { callerOf, type Reply, type Request, refuseUnknownParameters, sendPage } from '#libs/rest';

@Controller('v1/alarms')
export class AlarmsController {
  constructor(@Inject(AlarmService) private readonly alarms: AlarmService) {}

  @Get()
  async list(@Req() request: Request, @Res() reply: Reply): Promise<void> {
    sendPage(request, reply, await this.alarms.list(callerOf(request), request.query as Record<string, unknown>));
  }

  @Get(':id')
  async get(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    refuseUnknownParameters(request.query as Record<string, unknown>, []);
    reply.send(await this.alarms.get(callerOf(request), id));
  }
}
