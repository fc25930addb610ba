/** `rhyzome alarm`: what somebody should look at, of all tenants and of the platform itself. */
import { Command, Option } from 'commander';
import { alarmCodes } from '#libs/core';
import type { FoundAlarm } from '../alarms.js';
import { administrator, type Context } from '../context.js';
import { wholeNumber } from '../option-values.js';
import { fields, table } from '../table.js';

interface ListFlags {
  tenant?: string;
  code?: string;
  all?: boolean;
  limit: number;
}

export function alarmCommand(context: Context): Command {
  return new Command('alarm')
    .description('what somebody should look at')
    .addCommand(list(context))
    .addCommand(show(context))
    .addCommand(acknowledge(context));
}

function list(context: Context): Command {
  return new Command('list')
    .description('open alarms, the newest first')
    .option('--tenant <id>', 'of this tenant only; the platform’s own are those of “system”')
    .addOption(new Option('--code <code>', 'of this code only').choices(Object.keys(alarmCodes)))
    .option('--all', 'those that are cleared, too')
    .option('--limit <n>', 'how many', wholeNumber(1, 1000), 50)
    .action(async (flags: ListFlags) => {
      const { listAlarms } = await import('../alarms.js');
      const rows = await context.read((tx) => listAlarms(tx, flags));
      const cells = rows.map((a) => [
        a.id,
        a.tenant_id,
        a.severity,
        a.code,
        stateOf(a),
        subjectOf(a),
        a.raised_at,
        a.message,
      ]);
      const headings = ['ID', 'TENANT', 'SEVERITY', 'CODE', 'STATE', 'ABOUT', 'RAISED', 'MESSAGE'];
      context.show(await Promise.all(rows.map(view)), table(headings, cells));
    });
}

function show(context: Context): Command {
  return new Command('show')
    .description('one alarm')
    .argument('<id>')
    .action(async (id: string) => {
      const { findAlarm } = await import('../alarms.js');
      const alarm = await context.read((tx) => findAlarm(tx, id));
      context.show(await view(alarm), words(alarm));
    });
}

function acknowledge(context: Context): Command {
  return new Command('acknowledge')
    .description('say that you have taken note; the alarm stays until its cause is gone')
    .argument('<id>')
    .action(async (id: string) => {
      const { acknowledgeAlarm, findAlarm } = await import('../alarms.js');
      const alarm = await context.change(async ({ tx, audit }) => {
        const found = await findAlarm(tx, id);
        if (await acknowledgeAlarm(tx, found, administrator())) {
          await audit({
            tenantId: found.tenant_id,
            action: 'alarm.acknowledge',
            kind: 'alarm',
            resourceId: found.id,
            resourceName: found.code,
          });
        }
        return findAlarm(tx, id);
      });
      context.show(await view(alarm), `Alarm ${id} is acknowledged by ${alarm.acknowledged_by}.`);
    });
}

function stateOf(alarm: FoundAlarm): string {
  if (alarm.cleared_at) return 'cleared';
  return alarm.acknowledged_at ? 'acknowledged' : 'open';
}

function subjectOf(alarm: FoundAlarm): string | null {
  return alarm.resource_id ? `${alarm.kind} ${alarm.resource_name}` : alarm.node && `node ${alarm.node}`;
}

/** As the REST API shows it, whose it is, and what only operators see. */
async function view(alarm: FoundAlarm): Promise<Record<string, unknown>> {
  const { alarmView } = await import('#libs/resources');
  const node = alarm.node_id && { id: alarm.node_id, name: alarm.node };
  const { tenant_id: tenant, acknowledged_by: acknowledgedBy, details } = alarm;
  return { tenant, ...alarmView(alarm), node, acknowledgedBy, details };
}

function words(alarm: FoundAlarm): string {
  const by = alarm.acknowledged_at && `${alarm.acknowledged_at.toISOString()} by ${alarm.acknowledged_by}`;
  return fields({
    id: alarm.id,
    tenant: alarm.tenant_id,
    code: `${alarm.code} (${alarm.severity})`,
    message: alarm.message,
    about: subjectOf(alarm) && alarm.resource_id ? `${subjectOf(alarm)} (${alarm.resource_id})` : subjectOf(alarm),
    job: alarm.job_id,
    node: alarm.node ?? alarm.node_id,
    raised: alarm.raised_at,
    cleared: alarm.cleared_at,
    acknowledged: by,
  });
}
