/** `rhyzome audit`: who did what, whether the record is still whole, who came without a valid token, and what is past keeping. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { type RawBuilder, sql } from 'kysely';
import type { AuditRow, Finding, Verification } from '#libs/events';
import { administrator, type Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { wholeNumber } from '../option-values.js';
import { table } from '../table.js';

export function auditCommand(context: Context): Command {
  return new Command('audit')
    .description('the audit trail of all tenants')
    .addCommand(list(context))
    .addCommand(exportTenant(context))
    .addCommand(verify(context))
    .addCommand(unauthenticated(context))
    .addCommand(prune(context));
}

function time(text: string): Date {
  const shape = /^\d{4}-\d{2}-\d{2}([Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2}))?$/;
  const value = new Date(shape.test(text) ? text : Number.NaN);
  if (Number.isNaN(value.getTime())) {
    throw new InvalidArgumentError('It must be a day, or a time with its offset: 2026-11-22, 2026-11-22T08:00:00Z.');
  }
  return value;
}

interface RangeFlags {
  from?: Date;
  to?: Date;
}

interface ListFlags extends RangeFlags {
  tenant?: string;
  actor?: string;
  action?: string;
  kind?: string;
  resource?: string;
  result?: string;
  requestId?: string;
  limit: number;
}

const filters = { tenant: 'tenant_id', actor: 'actor', action: 'action', kind: 'kind', result: 'result' } as const;

function list(context: Context): Command {
  return new Command('list')
    .description('entries, the newest first')
    .option('--tenant <id>', 'of this tenant only')
    .option('--actor <subject>', 'who: a token’s subject, service:NAME or admin:LOGIN')
    .option('--action <name>', 'e.g. network.create')
    .option('--kind <kind>', 'kind of the resource')
    .option('--resource <id>', 'id of the resource')
    .addOption(new Option('--result <result>', 'with this result').choices(['done', 'refused']))
    .option('--request-id <id>', 'of this request')
    .option('--from <time>', 'from this time on', time)
    .option('--to <time>', 'before this time', time)
    .option('--limit <n>', 'how many', wholeNumber(1, 1000), 50)
    .action(async (flags: ListFlags) => {
      const { auditView, inRange } = await import('#libs/events');
      const conditions: RawBuilder<unknown>[] = [inRange(flags)];
      for (const [flag, column] of Object.entries(filters)) {
        const value = flags[flag as keyof typeof filters];
        if (value !== undefined) conditions.push(sql`${sql.ref(`r.${column}`)} = ${value}`);
      }
      if (flags.resource !== undefined) conditions.push(sql`r.resource_id::text = ${flags.resource}`);
      if (flags.requestId !== undefined) conditions.push(sql`r.request_id = ${flags.requestId}`);
      const rows = await context.read(async (tx) => {
        const found = await sql<AuditRow>`select r.* from audit r where ${sql.join(conditions, sql` and `)}
          order by r.id desc limit ${flags.limit}`.execute(tx);
        return found.rows;
      });
      const cells = rows.map((r) => [
        r.at,
        r.tenant_id,
        r.actor,
        r.action,
        r.resource_name ?? r.resource_id,
        r.code ?? r.result,
        r.source,
      ]);
      context.show(
        rows.map((row) => ({ tenant: row.tenant_id, ...auditView(row) })),
        table(['AT', 'TENANT', 'ACTOR', 'ACTION', 'RESOURCE', 'RESULT', 'FROM'], cells),
      );
    });
}

function exportTenant(context: Context): Command {
  return new Command('export')
    .description('a tenant’s entries as lines of JSON, the oldest first')
    .requiredOption('--tenant <id>', 'of this tenant')
    .option('--from <time>', 'from this time on', time)
    .option('--to <time>', 'before this time', time)
    .option('--after <id>', 'go on after this entry')
    .action(async (flags: RangeFlags & { tenant: string; after?: string }) => {
      const { exportAudit, inRange, ndjson } = await import('#libs/events');
      const { isUuid } = await import('#libs/core');
      if (flags.after !== undefined && !isUuid(flags.after)) {
        throw new CliError(exitStatus.usage, 'usage', '--after takes the id of an entry.');
      }
      await context.database(async (db) => {
        const where = sql`r.tenant_id = ${flags.tenant} and ${inRange(flags)}`;
        const read = async (page: RawBuilder<AuditRow>) => (await page.execute(db.operator)).rows;
        for await (const rows of exportAudit(read, { where, after: flags.after, limit: Number.MAX_SAFE_INTEGER })) {
          context.write(ndjson(rows));
        }
      });
    });
}

function verify(context: Context): Command {
  return new Command('verify')
    .description('whether the entries are still those that were sealed; ends with 1 where they are not')
    .option('--tenant <id>', 'look at this tenant’s entries only')
    .option('--expect <hash>', 'a head that was kept elsewhere: it must stand in the chain')
    .action(async ({ tenant, expect }: { tenant?: string; expect?: string }) => {
      if (expect !== undefined && !/^[0-9a-f]{64}$/i.test(expect)) {
        throw new CliError(exitStatus.usage, 'usage', '--expect takes a hash: 64 of 0-9 and a-f.');
      }
      const { verifyAudit } = await import('#libs/events');
      const options = { tenantId: tenant, expect: expect?.toLowerCase() };
      const found = await context.database((db) =>
        db.operator
          .transaction()
          .setIsolationLevel('repeatable read')
          .execute(async (tx) => {
            await sql`set local statement_timeout = 0`.execute(tx); // it reads all there is
            return verifyAudit(tx, options);
          }),
      );
      const isWhole = found.findings.length === 0 && found.isExpectedFound !== false;
      if (!isWhole) context.status = exitStatus.refused;
      context.show({ isWhole, ...found }, verdict(found));
    });
}

function verdict(found: Verification): string {
  const { batches, rows, unsealed, head, findings, isCut, isExpectedFound } = found;
  const lines = [`${batches} batches with ${rows} entries; ${unsealed} more are not sealed yet.`];
  if (head) lines.push(`Head: ${head.hash} (batch ${head.batch}, ${head.sealedAt})`);
  if (isExpectedFound !== undefined) {
    lines.push(
      isExpectedFound ? 'The expected head stands in the chain.' : 'THE EXPECTED HEAD DOES NOT STAND IN THE CHAIN.',
    );
  }
  lines.push(...findings.map(sentence));
  if (isCut) lines.push('… and more.');
  if (findings.length === 0) lines.push('Nothing was removed, changed or added.');
  return lines.join('\n');
}

function sentence({ what, batch, tenantId, rows, ids = [] }: Finding): string {
  const named = ids.length > 0 ? `: ${ids.join(', ')}${rows! > ids.length ? ', …' : ''}` : '';
  switch (what) {
    case 'removed':
      return `REMOVED: ${rows} entries of tenant ${tenantId} in batch ${batch}${named}`;
    case 'changed':
      return `CHANGED: entries of tenant ${tenantId} in batch ${batch}`;
    case 'added':
      return `ADDED: ${rows} entries of tenant ${tenantId} after their batch was sealed${named}`;
    case 'broken':
      return `BROKEN: the record of batch ${batch} is gone or was changed`;
  }
}

function unauthenticated(context: Context): Command {
  return new Command('unauthenticated')
    .description('requests without a valid token or certificate, counted by day, reason, address and claimed issuer')
    .option('--from <day>', 'from this day on', time)
    .option('--reason <reason>', 'for this reason only')
    .option('--source <address>', 'from this address only')
    .option('--limit <n>', 'how many', wholeNumber(1, 1000), 50)
    .action(async (flags: { from?: Date; reason?: string; source?: string; limit: number }) => {
      const rows = await context.read((tx) =>
        tx
          .selectFrom('audit_unauthenticated')
          .selectAll()
          .$if(flags.from !== undefined, (qb) => qb.where('last_at', '>=', flags.from!))
          .$if(flags.reason !== undefined, (qb) => qb.where('reason', '=', flags.reason!))
          .$if(flags.source !== undefined, (qb) => qb.where('source', '=', flags.source!))
          .orderBy('last_at', 'desc')
          .limit(flags.limit)
          .execute(),
      );
      const cells = rows.map((r) => [
        r.last_at,
        r.count,
        r.reason,
        r.source || '(many)',
        r.issuer,
        `${r.method} ${r.path}`,
      ]);
      context.show(
        rows.map((r) => ({
          reason: r.reason,
          source: r.source,
          issuer: r.issuer,
          count: r.count,
          firstAt: r.first_at,
          lastAt: r.last_at,
          last: { method: r.method, path: r.path, requestId: r.request_id },
        })),
        table(['LAST', 'COUNT', 'REASON', 'FROM', 'CLAIMED ISSUER', 'LAST REQUEST'], cells),
      );
    });
}

function prune(context: Context): Command {
  return new Command('prune')
    .description('remove entries that were sealed before a time, for good; needs dbOwner')
    .requiredOption('--before <time>', 'sealed before this time', time)
    .option('--force', 'without asking')
    .action(async ({ before, force }: { before: Date; force?: boolean }) => {
      if (before.getTime() > Date.now()) throw new CliError(exitStatus.usage, 'usage', '--before lies in the future.');
      if (!force) {
        const answer = await context.ask(
          `Entries of all tenants from before ${before.toISOString()} go for good. Type “prune”: `,
        );
        if (answer.trim() !== 'prune') throw new CliError(exitStatus.refused, 'not_confirmed', 'Nothing was removed.');
      }
      const connection = await context.connection('dbOwner');
      const { openOwner } = await import('#libs/db');
      const { pruneAudit } = await import('#libs/events');
      const owner = openOwner(connection);
      try {
        const pruned = await context.reach(connection, () => pruneAudit(owner, before, administrator()));
        context.show(
          pruned,
          `Removed ${pruned.rows} entries${pruned.uptoBatch === null ? '' : ` up to batch ${pruned.uptoBatch}`}.`,
        );
      } finally {
        await owner.destroy();
      }
    });
}
