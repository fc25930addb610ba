/** `rhyzome whoami`: whom the API takes the login for. */
import { Command } from 'commander';
import type { Context } from '../context.js';
import { freshSession } from '../login-session.js';
import { SessionFile } from '../session-file.js';
import { fields } from '../table.js';
import { askWho } from '../who.js';

export function whoamiCommand(context: Context): Command {
  return new Command('whoami')
    .description('who you are to the API, with your roles and groups')
    .option('--api <url>', 'the API’s base URL (default: RHYZOME_API, else that of the last login)')
    .action(async (flags: { api?: string }) => {
      const session = await freshSession(SessionFile.ofUser(), flags.api);
      const { api, issuer } = session;
      const who = await askWho(session);
      const { subject, name, tenant, roles, groups, scopes, expiresAt } = who;
      context.show(
        { api, issuer, ...who },
        fields({
          ...{ api, issuer, tenant, subject, name, roles, groups },
          ...(scopes && { 'narrowed to': scopes }),
          'token until': expiresAt ?? session.expiresAt,
        }),
      );
    });
}
