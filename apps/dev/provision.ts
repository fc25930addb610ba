/**
 * What a fresh installation holds for whoever tries it out: tenants with their issuers, a service certificate's rights
 * and the image `tiny`. All by the `rhyzome` command, and all harmless when it is there already.
 */
import { join } from 'node:path';
import { canBuildTiny, ensureTinyImage } from '../../tools/tiny-image/index.js';
import { type AdminCommand, adminJson, CommandFailed } from './admin-command.js';
import { serviceName } from './certificates.js';
import type { Progress } from './progress.js';

interface TenantRow {
  id: string;
  issuers: { issuer: string }[];
}

/** Each tenant with its issuer, as id → issuer; a tenant that is there keeps everything else. */
export async function ensureTenants(run: AdminCommand, issuers: ReadonlyMap<string, string>): Promise<void> {
  const found = await adminJson<TenantRow[]>(run, ['tenant', 'list']);
  for (const [id, issuer] of issuers) {
    const tenant = found.find((row) => row.id === id);
    if (!tenant) await run(['tenant', 'create', id, '--display-name', displayName(id), '--issuer', issuer]);
    else if (!tenant.issuers.some((row) => row.issuer === issuer))
      await run(['tenant', 'update', id, '--issuer', issuer]);
  }
}

/** The certificate that dev.json names may do everything for every tenant. */
export async function ensureService(run: AdminCommand): Promise<void> {
  const services = await adminJson<{ name: string }[]>(run, ['service', 'list']);
  if (services.some(({ name }) => name === serviceName)) return;
  await run(['service', 'create', serviceName, '--tenants', '*', '--verbs', '*']);
}

/** The global image `tiny`: with `sim` a placeholder, else the real one, where it can be made. */
export async function ensureTiny(
  run: AdminCommand,
  driver: 'sim' | 'libvirt',
  checkout: string,
  progress: Progress,
): Promise<void> {
  const images = await adminJson<{ name: string; placeholder?: boolean }[]>(run, ['image', 'list']);
  const found = images.find(({ name }) => name === 'tiny');
  if (found && (driver === 'sim' || !found.placeholder)) return;
  if (driver === 'sim') return void (await run(['image', 'import', 'tiny', '--placeholder']));
  const ability = canBuildTiny();
  if (!ability.ok) return progress.say(`no image tiny: it cannot be built here, ${ability.reason}`);
  const file = await ensureTinyImage(join(checkout, '.rhyzome', 'cache', 'tiny'));
  if (found && !(await removed(run, progress))) return;
  await run(['image', 'import', 'tiny', file]);
}

/** The placeholder of an earlier start with `sim` makes way, unless machines were made from it. */
async function removed(run: AdminCommand, progress: Progress): Promise<boolean> {
  try {
    await run(['image', 'remove', 'tiny']);
    return true;
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    progress.say(`the image tiny stays the placeholder that it was with sim: ${error.message}`);
    return false;
  }
}

function displayName(id: string): string {
  return id.slice(0, 1).toUpperCase() + id.slice(1);
}
