/** `rhyzome node|service revoke`: all certificates of a holder, whether the database knows them or not. */
import { Command } from 'commander';
import type { IdentityType } from '#libs/pki';
import { type AdminAudit, administrator, type Change, type Context } from '../context.js';

export interface Revoked {
  kind: IdentityType;
  name: string;
  /** That the database knows. */
  certificates: number;
  tokens: number;
}

/** Every rhyzome-grpc refuses them within a second, and ends what they have open. */
export function revokeCommand(context: Context, kind: 'node' | 'service'): Command {
  return new Command('revoke')
    .description(`end all certificates that a ${kind} has now, also those that were issued by hand`)
    .argument('<name>', 'as in the certificate')
    .option('--reason <text>', 'for the record')
    .action(async (name: string, { reason }: { reason?: string }) => {
      const revoked = await context.change((change) => revokeAll(change, kind, name, reason));
      context.show(revoked, revokedWords(revoked));
    });
}

/** Throws RhyzomeError `invalid`. */
export async function revokeAll(
  { tx, audit }: Change,
  kind: IdentityType,
  name: string,
  reason?: string,
): Promise<Revoked> {
  const { revokeHolder } = await import('#libs/certificates');
  const counts = await revokeHolder(tx, { kind, name }, { reason, by: administrator() });
  const entry: AdminAudit = {
    tenantId: 'system',
    action: `${kind}.revoke`,
    kind,
    resourceName: name,
    details: { ...counts, ...(reason !== undefined && { reason }) },
  };
  await audit(entry);
  return { kind, name, ...counts };
}

export function revokedWords({ kind, name, certificates, tokens }: Revoked): string {
  const known = `${certificates} known here${tokens > 0 ? `, and ${tokens} enrollment token${tokens > 1 ? 's' : ''}` : ''}`;
  return `All certificates of the ${kind} ${name} that were issued up to now are revoked (${known}).`;
}
