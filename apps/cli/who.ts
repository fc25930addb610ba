/** What the API says of the caller, for `whoami` and at the end of `login`. */
import { CliError, exitStatus } from './exit-status.js';
import type { Session } from './session-file.js';
import { oneLine } from './table.js';

/** The members of GET /v1/permissions that are about the caller. */
export interface Who {
  subject: string;
  name: string | null;
  tenant: string;
  roles: string[];
  groups: string[];
  /** What the token is narrowed to; null: to nothing. */
  scopes?: string[] | null;
  via: string;
  expiresAt: string | null;
  [other: string]: unknown;
}

const TIMEOUT_MS = 15_000;
const MAX_BYTES = 4 * 1024 * 1024;

/** Throws CliError `token_refused` where the API does not take the token, `api_unavailable` where it does not answer. */
export async function askWho({ api, accessToken }: Session): Promise<Who> {
  const { status, body } = await ask(`${api}/v1/permissions`, accessToken);
  if (status === 200) return body as Who;
  const { detail: said } = (body ?? {}) as { detail?: unknown };
  const detail = typeof said === 'string' ? oneLine(said).slice(0, 300) : undefined;
  if (status === 401)
    throw new CliError(exitStatus.refused, 'token_refused', `The API ${api} does not take this login: ${detail ?? ''}`);
  throw unavailable(api, `status ${status}${detail ? `: ${detail}` : ''}`);
}

async function ask(url: string, token: string): Promise<{ status: number; body: unknown }> {
  try {
    const response = await fetch(url, {
      headers: { authorization: `Bearer ${token}`, accept: 'application/json' },
      // A token goes where it was meant to go, and nowhere else.
      redirect: 'error',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of response.body ?? []) {
      size += chunk.byteLength;
      if (size > MAX_BYTES) throw new Error('too long an answer');
      chunks.push(chunk);
    }
    const text = Buffer.concat(chunks).toString('utf8');
    const isJson = /[/+]json/.test(response.headers.get('content-type') ?? '');
    return { status: response.status, body: isJson ? JSON.parse(text) : undefined };
  } catch (cause) {
    let inner = cause as { message: string; code?: string; cause?: unknown };
    while (inner.cause instanceof Error) inner = inner.cause as typeof inner;
    throw unavailable(new URL(url).origin, inner.code ?? inner.message, cause);
  }
}

function unavailable(api: string, why: string, cause?: unknown): CliError {
  return new CliError(exitStatus.refused, 'api_unavailable', `The API ${api} does not answer (${why}).`, { cause });
}
