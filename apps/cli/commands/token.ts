/** `rhyzome token`: an access token of the login on standard output, for other programs. */
import { Command } from 'commander';
import type { Context } from '../context.js';
import { freshSession } from '../login-session.js';
import { SessionFile } from '../session-file.js';

export function tokenCommand(context: Context): Command {
  return new Command('token')
    .description('print an access token of your login')
    .option('--api <url>', 'the API’s base URL (default: RHYZOME_API, else that of the last login)')
    .addHelpText(
      'after',
      '\nExample:\n  curl -H "Authorization: Bearer $(rhyzome token)" https://api.example.org/v1/networks',
    )
    .action(async (flags: { api?: string }) => {
      const { accessToken, expiresAt } = await freshSession(SessionFile.ofUser(), flags.api);
      context.show({ accessToken, expiresAt }, accessToken);
    });
}
