/** `rhyzome login`: a user's tokens by the device flow (RFC 8628), kept where only that user can read them. */
import { Command } from 'commander';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { apiUrl, wantedApi } from '../login-session.js';
import { collect } from '../option-values.js';
import { type Session, SessionFile } from '../session-file.js';
import { oneLine } from '../table.js';
import { askWho, type Who } from '../who.js';

interface LoginFlags {
  api?: string;
  issuer?: string;
  clientId: string;
  scope?: string[];
}

/** The issuer of the last login may be none any more: a tenant can be moved. */
const MOVED = ' Where your tenant logs in elsewhere now, --issuer names the new place.';

export function loginCommand(context: Context): Command {
  return new Command('login')
    .description('log in at an API as a user, by a browser anywhere')
    .option('--api <url>', 'the API’s base URL (default: RHYZOME_API, else that of the last login)')
    .option('--issuer <url>', 'who gives the tokens (default: what the API names at the tenant’s host name)')
    .option('--client-id <id>', 'the issuer’s client for this command', 'rhyzome-cli')
    .option('--scope <word>', 'narrow the login, e.g. instance:read (may be repeated)', collect)
    .addHelpText('after', '\nNeeds no settings. The tokens are kept in $XDG_CONFIG_HOME/rhyzome (~/.config/rhyzome).')
    .action(async (flags: LoginFlags) => logIn(context, flags));
}

async function logIn(context: Context, flags: LoginFlags): Promise<void> {
  const file = SessionFile.ofUser();
  const api = wantedApi(file, flags.api);
  const { clientId } = flags;
  const scope = (flags.scope ?? []).flatMap((words) => words.split(/[\s,]+/)).filter(Boolean);
  const { startDeviceLogin } = await import('#libs/auth');
  const issuer = flags.issuer ?? (await issuerOf(file, api));
  const started = await startDeviceLogin({ issuer, clientId }, scope).catch((error: Error) => {
    if (flags.issuer === undefined) error.message += MOVED;
    throw error;
  });
  const minutes = Math.max(Math.round((started.expiresAt.getTime() - Date.now()) / 60_000), 1);
  context.tell(
    `To log in, open\n\n  ${oneLine(started.verificationUriComplete ?? started.verificationUri)}\n\nand ` +
      `${started.verificationUriComplete ? 'check that it shows' : 'enter'} the code ${oneLine(started.userCode)}. ` +
      `Waiting for ${minutes} ${minutes === 1 ? 'minute' : 'minutes'} …`,
  );
  const { accessToken, refreshToken, expiresAt } = await started.tokens();
  const session: Session = {
    api,
    issuer,
    clientId,
    scope,
    accessToken,
    refreshToken,
    expiresAt: expiresAt.toISOString(),
  };
  const who = await checked(context, session);
  await file.change((sessions) => {
    sessions.byApi[api] = session;
    sessions.current = api;
  });
  const { subject, name, tenant, roles } = who ?? {};
  const as = who ? ` as ${name ?? subject} of tenant ${tenant} (${roles?.join(', ') || 'no role'})` : '';
  context.show({ api, issuer, subject, name, tenant, roles }, oneLine(`Logged in at ${api}${as}.`));
}

/** Of the API itself (RFC 9728), else of the last login there. Throws CliError where neither says it. */
async function issuerOf(file: SessionFile, api: string): Promise<string> {
  const { issuersOf } = await import('#libs/auth');
  const issuers = await issuersOf(api);
  if (issuers.length === 1) return issuers[0]!;
  const known = file.read().byApi[apiUrl(api)]?.issuer;
  if (issuers.length === 0 && known) return known;
  if (known && issuers.includes(known)) return known;
  const choice = issuers.length > 1 ? `It names ${issuers.join(' and ')}. ` : '';
  throw new CliError(
    exitStatus.usage,
    'issuer_unknown',
    `The API ${api} does not say who gives its tokens. ${choice}Name your tenant’s issuer with --issuer, or the tenant’s host ` +
      'name with --api.',
  );
}

/** A login that the API does not take is not kept. One that it cannot be asked about is. */
async function checked(context: Context, session: Session): Promise<Who | undefined> {
  try {
    return await askWho(session);
  } catch (error) {
    if (!(error instanceof CliError) || error.code !== 'api_unavailable') throw error;
    context.warn(`${error.message} The login is kept all the same.`);
    return undefined;
  }
}
