/** `rhyzome node enroll|token|revoke`: how machines come to be nodes, and how they cease to be let in. */
import { Command } from 'commander';
import type { TokenView } from '#libs/certificates';
import { administrator, type Context } from '../context.js';
import { duration, pair } from '../option-values.js';
import { table } from '../table.js';

const DEFAULT_LIFE_MS = 3_600_000;

interface EnrollFlags {
  expires?: number;
  label?: Record<string, string>;
  controller?: string;
}

export function enroll(context: Context): Command {
  return new Command('enroll')
    .description('make a one-time token, and tell what to run on the machine that shall be this node')
    .argument('<name>', 'the node’s name: 1-63 of a-z, 0-9, "." and "-"')
    .option('--expires <time>', 'how long the token holds, 1m to 30d (default: 1h)', duration)
    .option('--label <k=v>', 'a label of the node (may be repeated)', pair)
    .option('--controller <address>', 'where the machine reaches grpc.enrollment (default: from the settings)')
    .action(async (name: string, flags: EnrollFlags) => {
      const { createToken } = await import('#libs/certificates');
      const { view, token } = await context.change(async ({ tx, audit }) => {
        const asked = { nodeName: name, labels: flags.label ?? {}, lifeMs: flags.expires ?? DEFAULT_LIFE_MS };
        const made = await createToken(tx, { ...asked, by: administrator() });
        const details = { token: made.view.id, expiresAt: made.view.expiresAt.toISOString(), labels: made.view.labels };
        await audit({ ...auditOf('enroll', name), details });
        return made;
      });
      const { settings } = await context.settings();
      const enrollment = settings.grpc?.enrollment;
      const controller = flags.controller ?? enrollment?.advertise ?? enrollment?.listen;
      const caFingerprint = settings.pki && (await fingerprint(context, settings.pki.ca));
      if (!controller)
        context.warn('no grpc.enrollment in these settings: put in where the machine reaches it (docs/pki.md).');
      const command = [
        'rhyzome-agent enroll',
        `--controller ${controller ?? 'HOST:PORT'}`,
        `--token ${token}`,
        `--ca-fingerprint ${caFingerprint ?? 'sha256:FINGERPRINT'}`,
      ].join(' ');
      context.show(
        { ...view, token, controller: controller ?? null, caFingerprint: caFingerprint ?? null, command },
        `The token ${view.id} holds until ${view.expiresAt.toISOString()}, for one machine. It is not shown again.\nOn the machine that shall be ${name}:\n\n  ${command}\n`,
      );
    });
}

/** Undefined, with a warning, where this machine has no CA to look at. */
async function fingerprint(context: Context, file: string): Promise<string | undefined> {
  const { fingerprintOf, PkiError } = await import('#libs/pki');
  try {
    return await fingerprintOf(file);
  } catch (error) {
    if (!(error instanceof PkiError)) throw error;
    context.warn(`${error.message} Put in its fingerprint, as “rhyzome pki show” tells on a server.`);
    return undefined;
  }
}

export function token(context: Context): Command {
  return new Command('token')
    .description('tokens by which machines enroll')
    .addCommand(listTokens(context))
    .addCommand(revokeToken(context));
}

function listTokens(context: Context): Command {
  return new Command('list').description('all tokens, the newest first; never what they are').action(async () => {
    const { listTokens: list } = await import('#libs/certificates');
    const tokens = await context.read(list);
    const rows = tokens.map((t) => [t.id, t.node, t.state, t.expiresAt.toISOString(), t.createdBy]);
    context.show(tokens, table(['ID', 'NODE', 'STATE', 'EXPIRES', 'MADE BY'], rows));
  });
}

function revokeToken(context: Context): Command {
  return new Command('revoke')
    .description('end a token: it gives nothing from now on; the certificate that it gave stays')
    .argument('<id>')
    .action(async (id: string) => {
      const { revokeToken: revokeIt } = await import('#libs/certificates');
      const view: TokenView = await context.change(async ({ tx, audit }) => {
        const revoked = await revokeIt(tx, id);
        if (revoked.changed) await audit({ ...auditOf('token.revoke', revoked.view.node), details: { token: id } });
        return revoked.view;
      });
      context.show(view, `The token ${view.id} for node ${view.node} gives nothing any more.`);
    });
}

function auditOf(verb: string, resourceName: string) {
  return { tenantId: 'system', action: `node.${verb}`, kind: 'node', resourceName };
}
