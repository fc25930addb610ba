/** `rhyzome pki list|revoke`: what rhyzome-grpc issued, and an end to single certificates. On the database. */
import { Command, Option } from 'commander';
import type { CertificateFilter } from '#libs/certificates';
import { type IdentityType, identityTypes } from '#libs/pki';
import { administrator, type Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { table } from '../table.js';
import { revokeAll, revokedWords } from './revoke.js';

export function listIssued(context: Context): Command {
  return new Command('list')
    .description('certificates that were issued over the network and hold, the newest first')
    .addOption(new Option('--type <type>', 'only of these').choices(identityTypes))
    .option('--name <name>', 'only of this one')
    .option('--all', 'expired and revoked ones, too')
    .action(async (flags: { type?: IdentityType; name?: string; all?: boolean }) => {
      const { listCertificates } = await import('#libs/certificates');
      const filter: CertificateFilter = { kind: flags.type, name: flags.name, all: flags.all };
      const certificates = await context.read((tx) => listCertificates(tx, filter));
      const rows = certificates.map((c) => [c.serial, c.kind, c.name, c.state, c.notAfter.toISOString(), c.issuedBy]);
      context.show(certificates, table(['SERIAL', 'TYPE', 'NAME', 'STATE', 'UNTIL', 'BY'], rows));
    });
}

interface RevokeFlags {
  type?: IdentityType;
  name?: string;
  reason?: string;
}

export function revokeIssued(context: Context): Command {
  return new Command('revoke')
    .description('end a certificate by its serial number, or all of --type and --name; also those issued by hand')
    .argument('[serial]', 'hex, as `pki list` and `pki show` tell it')
    .addOption(new Option('--type <type>', 'whose').choices(identityTypes))
    .option('--name <name>', 'whose')
    .option('--reason <text>', 'for the record')
    .action(async (serial: string | undefined, { type, name, reason }: RevokeFlags) => {
      if (serial !== undefined && type === undefined && name === undefined) return revokeOne(context, serial, reason);
      if (serial !== undefined || type === undefined || name === undefined)
        throw new CliError(exitStatus.usage, 'usage', 'Name a serial number, or --type and --name.');
      const revoked = await context.change((change) => revokeAll(change, type, name, reason));
      context.show(revoked, revokedWords(revoked));
    });
}

async function revokeOne(context: Context, text: string, reason: string | undefined): Promise<void> {
  const { revokeSerial, serialFrom, successorsOf } = await import('#libs/certificates');
  const serial = serialFrom(text);
  const { certificate, successors } = await context.change(async ({ tx, audit }) => {
    const revoked = await revokeSerial(tx, serial, { reason, by: administrator() });
    const { kind, name } = revoked.certificate ?? {};
    if (revoked.changed)
      await audit({
        tenantId: 'system',
        action: 'certificate.revoke',
        ...(kind !== undefined && { kind, resourceName: name }),
        details: { serial, ...(reason !== undefined && { reason }) },
      });
    return { certificate: revoked.certificate, successors: await successorsOf(tx, serial) };
  });
  const whose = certificate ? `of the ${certificate.kind} ${certificate.name}` : ', which was issued elsewhere,';
  const renewed =
    successors.length === 0
      ? ''
      : `\nIt was renewed; what came of it still holds: ${successors.join(', ')}. Where its key was stolen, revoke all: --type and --name.`;
  context.show(
    { serial, certificate: certificate ?? null, successors },
    `The certificate ${serial} ${whose} is revoked.${renewed}`.replace(' ,', ','),
  );
}
