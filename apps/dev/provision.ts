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
  displayName: string;
  issuers: { issuer: string; managed?: boolean }[];
}

/**
 * Each tenant with a realm at its issuer, as id → issuer, so that its users and groups can be made; a tenant that is there
 * keeps everything else. Their jobs are rhyzome-grpc's, which may start meanwhile.
 */
export async function ensureTenants(run: AdminCommand, issuers: ReadonlyMap<string, string>): Promise<void> {
  const found = await adminJson<TenantRow[]>(run, ['tenant', 'list']);
  const ensured = [...issuers].map(([id, issuer]) =>
    ensureTenant(
      run,
      found.find((row) => row.id === id),
      id,
      issuer,
    ),
  );
  const failed = (await Promise.allSettled(ensured)).find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
}

async function ensureTenant(run: AdminCommand, row: TenantRow | undefined, id: string, issuer: string): Promise<void> {
  if (!row) return void (await run(['tenant', 'create', id, '--display-name', displayName(id)]));
  const managed = row.issuers.find((own) => own.managed);
  if (managed) {
    // Where the port has changed, the realm's job writes down where it is now.
    if (managed.issuer !== issuer) await run(['tenant', 'update', id, '--display-name', row.displayName]);
    return;
  }
  // Of a start before tenants had realms, or of one that was killed. The realm brings the same issuer with it.
  if (row.issuers.length > 0) await run(['tenant', 'update', id, '--clear-issuers']);
  await run(['tenant', 'move', id, '--to', 'realm']);
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
