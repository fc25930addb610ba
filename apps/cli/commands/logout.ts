/** `rhyzome logout`: the tokens are revoked at their issuer and forgotten here. */
import { Command } from 'commander';
import type { Context } from '../context.js';
import { sessionOf } from '../login-session.js';
import { SessionFile } from '../session-file.js';

export function logoutCommand(context: Context): Command {
  return new Command('logout')
    .description('end the login at an API')
    .option('--api <url>', 'the API’s base URL (default: RHYZOME_API, else that of the last login)')
    .action(async (flags: { api?: string }) => {
      const file = SessionFile.ofUser();
      const { api } = sessionOf(file, flags.api);
      // Forgotten first: a token that is revoked and still here would only mislead, one that is forgotten ends by itself.
      const session = await file.change((sessions) => {
        const known = sessions.byApi[api];
        delete sessions.byApi[api];
        if (sessions.current === api) sessions.current = Object.keys(sessions.byApi)[0] ?? null;
        return known;
      });
      const isRevoked = session?.refreshToken ? await revoked(context, session, session.refreshToken) : false;
      context.show({ api, revoked: isRevoked }, `Logged out at ${api}.`);
    });
}

async function revoked(
  context: Context,
  session: { issuer: string; clientId: string },
  token: string,
): Promise<boolean> {
  const { endLogin, LoginError } = await import('#libs/auth');
  try {
    await endLogin(session, token);
    return true;
  } catch (error) {
    if (!(error instanceof LoginError)) throw error;
    context.warn(`${error.message} The tokens are forgotten here, and end by themselves.`);
    return false;
  }
}
