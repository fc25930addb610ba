/** `rhyzome tenant domain`: host names of a tenant's own, at which only its tokens count. */
import { Command } from 'commander';
import type { TenantDomain } from '#libs/tenants';
import type { Context } from '../context.js';
import { table } from '../table.js';

export function domainCommand(context: Context): Command {
  return new Command('domain')
    .description('host names of tenants’ own; names below api.domain need no entry')
    .addCommand(add(context))
    .addCommand(list(context))
    .addCommand(remove(context));
}

function add(context: Context): Command {
  return new Command('add')
    .description('give a tenant a domain: there only its tokens count; the same again changes nothing')
    .argument('<id>', 'the tenant')
    .argument('<domain>', 'e.g. api.acme.example; its DNS and certificate are the proxy’s affair')
    .action(async (id: string, text: string) => {
      const { addDomain } = await import('#libs/tenants');
      const { settings } = await context.settings();
      const { domain, isNew } = await context.change(async ({ tx, audit }) => {
        const added = await addDomain(tx, id, text, settings.api ?? {});
        if (added.isNew)
          await audit({ tenantId: id, action: 'tenant.domain.add', details: { domain: added.domain.domain } });
        return added;
      });
      const said = isNew ? `${domain.domain} is tenant ${id}’s now.` : `${domain.domain} is tenant ${id}’s already.`;
      context.show(domain, said);
    });
}

function list(context: Context): Command {
  return new Command('list')
    .description('domains of a tenant, or of all')
    .argument('[id]', 'the tenant')
    .action(async (id: string | undefined) => {
      const { listDomains } = await import('#libs/tenants');
      const domains = await context.read((tx) => listDomains(tx, id));
      const row = ({ domain, tenantId, createdAt }: TenantDomain) => [domain, tenantId, createdAt];
      context.show(domains, table(['DOMAIN', 'TENANT', 'SINCE'], domains.map(row)));
    });
}

function remove(context: Context): Command {
  return new Command('remove')
    .description('take a domain from a tenant')
    .argument('<id>', 'the tenant')
    .argument('<domain>')
    .action(async (id: string, text: string) => {
      const { removeDomain } = await import('#libs/tenants');
      const domain = await context.change(async ({ tx, audit }) => {
        const removed = await removeDomain(tx, id, text);
        await audit({ tenantId: id, action: 'tenant.domain.remove', details: { domain: removed } });
        return removed;
      });
      context.show({ domain, tenantId: id }, `${domain} is nobody’s now.`);
    });
}
