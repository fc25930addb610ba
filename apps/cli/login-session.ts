/** The login that a command works with: which one it means, and a token of it that is good for a while. */
import type { LoginError } from '#libs/auth';
import { CliError, exitStatus } from './exit-status.js';
import type { Session, SessionFile } from './session-file.js';

/** A token is not used in its last seconds: it has to arrive, and clocks differ. */
const MARGIN_MS = 30_000;

/** RFC 6761, section 6.3: names below localhost are this machine's, too. */
const loopback = /^(([a-z0-9-]+\.)*localhost|127(\.\d+){3}|\[::1\])$/;

/** The API's base URL in one form: tokens go there, so over https only, or over http on loopback. Throws CliError. */
export function apiUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (
    !url ||
    !['http:', 'https:'].includes(url.protocol) ||
    url.username !== '' ||
    url.search !== '' ||
    url.hash !== ''
  )
    throw new CliError(exitStatus.usage, 'usage', `--api takes the API’s base URL, e.g. https://api.example.org.`);
  if (url.protocol === 'http:' && !loopback.test(url.hostname))
    throw new CliError(exitStatus.usage, 'usage', 'Tokens are sent over https only, or over http on loopback.');
  return url.href.replace(/\/+$/, '');
}

/** `--api`, else the environment's RHYZOME_API, else the API of the last login. Throws CliError where there is none of these. */
export function wantedApi(file: SessionFile, flag: string | undefined): string {
  const named = flag ?? process.env.RHYZOME_API;
  if (named) return apiUrl(named);
  const { current } = file.read();
  if (current !== null) return current;
  throw new CliError(
    exitStatus.usage,
    'usage',
    'Which API? Name it: rhyzome login --api https://api.example.org (or in RHYZOME_API).',
  );
}

/** Throws CliError `not_logged_in`. */
export function sessionOf(file: SessionFile, flag: string | undefined): Session {
  const { current, byApi } = file.read();
  const named = flag ?? process.env.RHYZOME_API ?? current;
  const api = named ? apiUrl(named) : null;
  const session = api === null ? undefined : byApi[api];
  if (session) return session;
  const at = api === null ? '' : ` at ${api}`;
  throw new CliError(exitStatus.refused, 'not_logged_in', `You are not logged in${at}: rhyzome login --api URL.`);
}

/**
 * The session with an access token that is good for half a minute at least; a new one is fetched where it is not. Throws
 * CliError where the login has ended.
 */
export async function freshSession(file: SessionFile, flag: string | undefined): Promise<Session> {
  const { api } = sessionOf(file, flag);
  const known = sessionOf(file, api);
  if (isFresh(known)) return known;
  return file.change(async (sessions) => {
    // Whoever had the lock before may have fetched one: then this refresh token is used up.
    const session = sessions.byApi[api];
    if (!session) throw ended(api);
    if (isFresh(session)) return session;
    const renewed = await refreshed(session);
    sessions.byApi[api] = renewed;
    return renewed;
  });
}

async function refreshed(session: Session): Promise<Session> {
  if (session.refreshToken === null) throw ended(session.api);
  const { refreshLogin } = await import('#libs/auth');
  try {
    const { accessToken, refreshToken, expiresAt } = await refreshLogin(session, session.refreshToken);
    return { ...session, accessToken, refreshToken, expiresAt: expiresAt.toISOString() };
  } catch (error) {
    if ((error as LoginError).code === 'session_ended') throw ended(session.api, error);
    // Its last seconds are better than nothing.
    if (Date.parse(session.expiresAt) > Date.now()) return session;
    throw error;
  }
}

function isFresh({ expiresAt }: Session): boolean {
  return Date.parse(expiresAt) - Date.now() > MARGIN_MS;
}

function ended(api: string, cause?: unknown): CliError {
  const message = `Your login at ${api} has ended. Log in again: rhyzome login --api ${api}`;
  return new CliError(exitStatus.refused, 'session_ended', message, { cause });
}
