/** `rhyzome service`: what the certificates of internal services may do, for which tenants. */
import { Command } from 'commander';
import type { Service } from '#libs/tenants';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { commaList } from '../option-values.js';
import { fields, table } from '../table.js';
import { revokeCommand } from './revoke.js';

interface RightsFlags {
  tenants: string[];
  verbs: string[];
}

const tenantsHelp = "tenant ids, a,b, or '*'";
const verbsHelp = "kind:verb, e.g. 'network:*,*:read', or '*' for all";

export function serviceCommand(context: Context): Command {
  return new Command('service')
    .description('which service certificate may do what')
    .addCommand(create(context))
    .addCommand(list(context))
    .addCommand(show(context))
    .addCommand(update(context))
    .addCommand(remove(context))
    .addCommand(revokeCommand(context, 'service'));
}

function create(context: Context): Command {
  return new Command('create')
    .description('give a service its rights; the same again changes nothing')
    .argument('<name>', 'the name in its certificate (`pki issue --type service --name …`)')
    .requiredOption('--tenants <list>', tenantsHelp, commaList)
    .requiredOption('--verbs <list>', verbsHelp, commaList)
    .option('--replace', 'replace other rights that it has')
    .action(async (name: string, flags: RightsFlags & { replace?: boolean }) => {
      const { createService } = await import('#libs/tenants');
      const { service, changed } = await context.change(async ({ tx, audit }) => {
        const made = await createService(tx, { name, ...flags });
        if (made.changed) await audit({ ...auditOf('create', name), details: rightsOf(made.service) });
        return made;
      });
      context.show(service, `${changed ? 'Gave rights to' : 'Unchanged:'} the service ${name}.\n${words(service)}`);
    });
}

function list(context: Context): Command {
  return new Command('list').description('all services').action(async () => {
    const { listServices } = await import('#libs/tenants');
    const services = await context.read(listServices);
    const rows = services.map((s) => [s.name, s.tenants.join(','), s.verbs.join(',')]);
    context.show(services, table(['NAME', 'TENANTS', 'VERBS'], rows));
  });
}

function show(context: Context): Command {
  return new Command('show')
    .description('one service')
    .argument('<name>')
    .action(async (name: string) => {
      const { findService } = await import('#libs/tenants');
      const service = await context.read((tx) => findService(tx, name));
      context.show(service, words(service));
    });
}

function update(context: Context): Command {
  return new Command('update')
    .description('change a service’s rights; what is not named stays')
    .argument('<name>')
    .option('--tenants <list>', tenantsHelp, commaList)
    .option('--verbs <list>', verbsHelp, commaList)
    .action(async (name: string, flags: Partial<RightsFlags>) => {
      const { tenants, verbs } = flags;
      if (!tenants && !verbs) throw new CliError(exitStatus.usage, 'usage', 'Name --tenants, --verbs or both.');
      const { updateService } = await import('#libs/tenants');
      const service = await context.change(async ({ tx, audit }) => {
        const changed = await updateService(tx, name, { tenants, verbs });
        await audit({ ...auditOf('update', name), details: rightsOf(changed) });
        return changed;
      });
      context.show(service, `Changed the service ${name}.\n${words(service)}`);
    });
}

function remove(context: Context): Command {
  return new Command('remove')
    .description('take all rights from a service; its certificate remains one')
    .argument('<name>')
    .action(async (name: string) => {
      const { findService, removeService } = await import('#libs/tenants');
      const service = await context.change(async ({ tx, audit }) => {
        const last = await findService(tx, name);
        await removeService(tx, name);
        await audit({ ...auditOf('remove', name), details: rightsOf(last) });
        return last;
      });
      context.show(service, `Removed the service ${name}: its certificate may do nothing any more.`);
    });
}

function auditOf(verb: string, name: string) {
  return { tenantId: 'system', action: `service.${verb}`, kind: 'service', resourceName: name };
}

function rightsOf({ tenants, verbs }: Service): Record<string, unknown> {
  return { tenants, verbs };
}

function words({ name, tenants, verbs, createdAt, updatedAt }: Service): string {
  return fields({ name, tenants, verbs, created: createdAt, updated: updatedAt });
}
