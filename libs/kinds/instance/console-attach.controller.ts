/**
 * The console of a running instance over WebSocket: many watch, one types. Everything that stands against it is told as
 * an ordinary problem before the upgrade.
 */
import { Controller, Get, Inject, Param, Req, Res } from '@nestjs/common';
import { type Actor, Authenticator, authorize, InvalidToken } from '#libs/auth';
import { DRAINING, invalid, RhyzomeError, StreamGuard } from '#libs/core';
import { Database } from '#libs/db';
import { type AttachedConsole, ConsoleRelay } from '#libs/nodes';
import { responsesWith } from '#libs/openapi';
import {
  auditDone,
  auditingRefusals,
  type Caller,
  type CoreRow,
  coreOf,
  KindRegistry,
  ResourceReader,
} from '#libs/resources';
import {
  acceptUpgrade,
  bearerOf,
  callerOf,
  onUpgradeGone,
  type Reply,
  type Request,
  refuseUnknownParameters,
  requireUpgrade,
} from '#libs/rest';
import { runConsole } from './console-session.js';
import type { InstanceRow } from './rows.js';

const MAX_OPEN_PER_TENANT = 100;
const DEFAULT_TAIL_BYTES = 64 * 1024;
const MAX_TAIL_BYTES = 1024 * 1024;

@Controller('v1/instances/:id/console/attach')
export class ConsoleAttachController {
  private readonly open = new Map<string, number>();

  constructor(
    @Inject(KindRegistry) private readonly registry: KindRegistry,
    @Inject(ResourceReader) private readonly reader: ResourceReader,
    @Inject(ConsoleRelay) private readonly relay: ConsoleRelay,
    @Inject(Authenticator) private readonly authenticator: Authenticator,
    @Inject(Database) private readonly db: Database,
    @Inject(DRAINING) private readonly draining: AbortSignal,
  ) {}

  @Get()
  async attach(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    const { watch, tailBytes } = parametersOf(request);
    const caller = callerOf(request);
    const mayType = !watch;
    const refusal = { kind: 'instance', resourceName: id.slice(0, 63) };
    // Who types changes things, and is written down; who watches is not, as with every reading.
    const row = mayType
      ? await auditingRefusals(this.db, caller, 'console', refusal, () => this.permitted(caller, id, mayType))
      : await this.permitted(caller, id, mayType);
    requireUpgrade(request, reply);
    if (row.node_id === null || row.power_state !== 'running') {
      throw new RhyzomeError('not_ready', 'The instance does not run; a console needs a running machine.');
    }
    const target = { nodeId: row.node_id, tenantId: row.tenant_id, instanceId: row.id, tailBytes, mayType };
    await this.counted(caller.actor.tenantId, async () => {
      const gone = new AbortController();
      const leave = () => gone.abort();
      const offGone = onUpgradeGone(request, leave);
      const guard = new StreamGuard({
        expiresAt: caller.actor.tokenExpiresAt,
        assertWelcome: () => this.assertWelcome(request, caller, row, mayType),
      });
      try {
        const console = await this.relay.attach(target, caller, gone.signal);
        if (mayType) await this.writeDown(caller, row);
        await this.run(request, reply, console, mayType, guard);
      } finally {
        guard.close();
        offGone();
        leave();
      }
    });
  }

  private async run(
    request: Request,
    reply: Reply,
    console: AttachedConsole,
    mayType: boolean,
    guard: StreamGuard,
  ): Promise<void> {
    const socket = await acceptUpgrade(request, reply).catch(() => undefined); // Gone: there is nobody to tell.
    if (!socket) return;
    await runConsole({ socket, console, mayType, guard, closing: this.draining });
  }

  private async writeDown(caller: Caller, row: InstanceRow): Promise<void> {
    const target = { kind: 'instance', resourceId: row.id, resourceName: row.name };
    await this.db.tenantTransaction(row.tenant_id, (tx) => auditDone(tx, caller, 'console', target));
  }

  /** Throws RhyzomeError: not_found, forbidden. */
  private async permitted(caller: Caller, id: string, mayType: boolean): Promise<InstanceRow> {
    const { row } = await this.reader.get(caller, this.registry.get('instance'), id);
    if (mayType) refuseTypist(caller.actor, row, id);
    return row as InstanceRow;
  }

  private async counted(tenantId: string, work: () => Promise<void>): Promise<void> {
    const count = this.open.get(tenantId) ?? 0;
    if (count >= MAX_OPEN_PER_TENANT) {
      throw new RhyzomeError('too_many_requests', `There are ${count} consoles of this tenant open already.`, {
        retryAfterSeconds: 10,
      });
    }
    this.open.set(tenantId, count + 1);
    try {
      await work();
    } finally {
      const left = (this.open.get(tenantId) ?? 1) - 1;
      if (left > 0) this.open.set(tenantId, left);
      else this.open.delete(tenantId);
    }
  }

  /** The session ends with its token (expired, revoked, its tenant suspended) and with the right to it. */
  private async assertWelcome(
    request: Request,
    caller: Caller,
    row: Pick<InstanceRow, 'id'>,
    mayType: boolean,
  ): Promise<void> {
    const { tokenExpiresAt } = caller.actor;
    if (tokenExpiresAt && tokenExpiresAt.getTime() <= Date.now()) {
      throw new InvalidToken('expired', 'The token has expired.');
    }
    const actor = await this.authenticator.verify(bearerOf(request));
    try {
      // As it is now: what may be done with it follows from its tags.
      await this.permitted({ ...caller, actor }, row.id, mayType);
    } catch (error) {
      if (!(error instanceof RhyzomeError) || error.code !== 'not_found') throw error;
      throw new RhyzomeError('forbidden', 'You may not read this instance any more, or it is gone.', { cause: error });
    }
  }
}

function refuseTypist(actor: Actor, row: CoreRow, id: string): void {
  try {
    authorize(actor, 'console', coreOf(row), id);
  } catch (error) {
    if (!(error instanceof RhyzomeError) || error.code !== 'forbidden') throw error;
    const message =
      'You may not type into this console: the permission instance:console is missing. With ?watch=true you can read it.';
    throw new RhyzomeError('forbidden', message, { cause: error });
  }
}

function parametersOf(request: Request): { watch: boolean; tailBytes: number } {
  const query = request.query as Record<string, string | undefined>;
  refuseUnknownParameters(query, ['watch', 'tailBytes']);
  const { watch, tailBytes = String(DEFAULT_TAIL_BYTES) } = query;
  if (watch !== undefined && watch !== 'true' && watch !== 'false') {
    throw invalid([{ parameter: 'watch', code: 'invalid_value', message: 'must be true or false' }]);
  }
  const bytes = /^\d{1,9}$/.test(tailBytes) ? Number(tailBytes) : 0;
  if (bytes < 1 || bytes > MAX_TAIL_BYTES) {
    throw invalid([{ parameter: 'tailBytes', code: 'out_of_range', message: `must be 1 to ${MAX_TAIL_BYTES}` }]);
  }
  return { watch: watch === 'true', tailBytes: bytes };
}

export const consoleAttachPaths = {
  '/v1/instances/{id}/console/attach': {
    get: {
      operationId: 'attachConsole',
      tags: ['instance'],
      summary: 'The serial console over WebSocket: binary messages are bytes, of those who may type the first types.',
      description:
        'A WebSocket (RFC 6455) with the subprotocol `rhyzome.console`. The token comes in the Authorization header or, ' +
        'from browsers, as a further subprotocol `bearer.<token>`. The end of the log comes first. Text messages are JSON: ' +
        '`{"type":"keyboard","has":true}` says that what you send is typed now. The close reason begins with a code.',
      parameters: [
        { name: 'id', in: 'path', required: true, description: 'Id or name.', schema: { type: 'string' } },
        {
          name: 'watch',
          in: 'query',
          description: 'Only watch: needs no more than the right to read.',
          schema: { type: 'boolean', default: false },
        },
        {
          name: 'tailBytes',
          in: 'query',
          description: 'At most so many bytes of the log come first.',
          schema: { type: 'integer', minimum: 1, maximum: MAX_TAIL_BYTES, default: DEFAULT_TAIL_BYTES },
        },
      ],
      responses: responsesWith({ 101: { description: 'The console.' } }, [401, 403, 404, 409, 422, 426, 429, 503]),
    },
  },
};
