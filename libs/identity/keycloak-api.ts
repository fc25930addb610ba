/**
 * Keycloak's admin REST API as HTTP: the client's token, limits on time and size, and what a status means. It knows paths
 * and statuses only, not what Rhyzome keeps there. Follows the Server Administration API of Keycloak 26; the token comes by
 * the client credentials grant (RFC 6749, section 4.4). Neither tokens nor secrets nor bodies stand in any error.
 */
import { readFileSync } from 'node:fs';
import { Agent as HttpAgent, type RequestOptions, request as requestHttp } from 'node:http';
import { Agent as HttpsAgent, request as requestHttps } from 'node:https';
import { type KeycloakConfig, keycloakSecret } from '#libs/config';
import { printable, RhyzomeError } from '#libs/core';

/** A user's page of 100 with attributes is well below. */
const MAX_ANSWER_BYTES = 8 * 2 ** 20;
/** A token is not used in its last seconds. */
const TOKEN_MARGIN_MS = 10_000;

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

interface Answer {
  status: number;
  location: string | undefined;
  text: string;
}

export interface CallOptions {
  signal?: AbortSignal;
  /** For what takes Keycloak long (making and deleting realms); default: the settings' timeout. */
  timeoutMs?: number;
}

export class KeycloakApi {
  private token: { value: string; until: number } | undefined;
  private fetching: Promise<string> | undefined;
  private readonly agent: HttpAgent | HttpsAgent;
  private readonly secure: boolean;

  constructor(private readonly config: KeycloakConfig) {
    this.secure = config.url.startsWith('https:');
    // Few connections, and closed soon: jobs are rare, and a Keycloak behind a balancer forgets idle ones.
    const options = { keepAlive: true, maxSockets: 8, timeout: 30_000 };
    this.agent = this.secure
      ? new HttpsAgent({ ...options, ...(config.caFile && { ca: readFileSync(config.caFile) }) })
      : new HttpAgent(options);
  }

  /** Closes idle connections; calls may still be made. */
  close(): void {
    this.agent.destroy();
  }

  /** Undefined where Keycloak has none (404). */
  async get<T>(path: string, options?: CallOptions): Promise<T | undefined> {
    const answer = await this.call('GET', path, undefined, options);
    if (answer.status === 404) return undefined;
    return this.parsed<T>(this.expect(answer, 'GET', path));
  }

  /** True when it was made now; false where there is one already (409). */
  async create(path: string, body: unknown, options?: CallOptions): Promise<boolean> {
    const answer = await this.call('POST', path, body, options);
    if (answer.status === 409) return false;
    this.expect(answer, 'POST', path);
    return true;
  }

  /** A deed of the API (a POST that makes nothing), or a change. False where its object is not there (404). */
  async put(method: 'PUT' | 'POST', path: string, body?: unknown, options?: CallOptions): Promise<boolean> {
    const answer = await this.call(method, path, body, options);
    if (answer.status === 404) return false;
    this.expect(answer, method, path);
    return true;
  }

  /** What is gone already is gone. */
  async remove(path: string, body?: unknown, options?: CallOptions): Promise<void> {
    const answer = await this.call('DELETE', path, body, options);
    if (answer.status !== 404) this.expect(answer, 'DELETE', path);
  }

  /** With a token; once more with a new one where Keycloak takes the old one no longer. */
  private async call(method: Method, path: string, body: unknown, options: CallOptions = {}): Promise<Answer> {
    for (let attempt = 1; ; attempt++) {
      const token = await this.bearer(options);
      const headers = {
        authorization: `Bearer ${token}`,
        accept: 'application/json',
        ...(body !== undefined && { 'content-type': 'application/json' }),
      };
      const answer = await this.exchange(method, `/admin/realms${path}`, headers, body, options);
      if (answer.status !== 401 || attempt > 1) return answer;
      if (this.token?.value === token) this.token = undefined;
    }
  }

  /** The client's token, fetched once for all calls that want it. */
  private bearer(options: CallOptions): Promise<string> {
    if (this.token && this.token.until > Date.now()) return Promise.resolve(this.token.value);
    this.fetching ??= this.fetchToken(options.timeoutMs).finally(() => {
      this.fetching = undefined;
    });
    return this.fetching;
  }

  private async fetchToken(timeoutMs: number | undefined): Promise<string> {
    const { adminRealm, clientId } = this.config;
    const form = new URLSearchParams({
      grant_type: 'client_credentials',
      client_id: clientId,
      client_secret: keycloakSecret(this.config),
    });
    const path = `/realms/${encodeURIComponent(adminRealm)}/protocol/openid-connect/token`;
    const headers = { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' };
    const asked = Date.now();
    const answer = await this.exchange('POST', path, headers, form.toString(), { timeoutMs });
    if (answer.status !== 200) {
      const { error } = this.problemOf(answer);
      throw unavailable(
        `Keycloak gives the client ${clientId} no token (${answer.status}${error}): check clientId and its secret.`,
      );
    }
    const { access_token, expires_in } = this.parsed<{ access_token?: string; expires_in?: number }>(answer);
    if (typeof access_token !== 'string') throw unavailable('Keycloak answers without a token.');
    const lifeMs = (Number(expires_in) || 60) * 1000;
    this.token = { value: access_token, until: asked + Math.max(lifeMs - TOKEN_MARGIN_MS, lifeMs / 2) };
    return access_token;
  }

  /** The answer, where Keycloak gives one in time that says anything about the request. */
  private async exchange(
    method: Method,
    path: string,
    headers: Record<string, string>,
    body: unknown,
    options: CallOptions,
  ): Promise<Answer> {
    const payload = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
    let answer: Answer;
    try {
      answer = await this.send(method, path, headers, payload, options);
    } catch (error) {
      if (options.signal?.aborted) throw options.signal.reason;
      if (error instanceof RhyzomeError) throw error;
      // Of a time-out the code is a number that says nothing.
      const { code, name } = error as NodeJS.ErrnoException;
      const why = typeof code === 'string' ? code : name;
      throw unavailable(`Keycloak is away (${printable(String(why))}).`, error);
    }
    if (answer.status >= 500 || answer.status === 429 || answer.status === 408)
      throw unavailable(`Keycloak cannot serve now (${answer.status} to ${method} ${shown(path)}).`);
    return answer;
  }

  private send(
    method: Method,
    path: string,
    headers: Record<string, string>,
    payload: string | undefined,
    { signal, timeoutMs = this.config.timeoutMs }: CallOptions,
  ): Promise<Answer> {
    const limit = AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])]);
    const options: RequestOptions = {
      method,
      agent: this.agent,
      signal: limit,
      headers: { ...headers, ...(payload !== undefined && { 'content-length': Buffer.byteLength(payload) }) },
    };
    const url = new URL(this.config.url + path);
    return new Promise((resolve, reject) => {
      const failed = (error: Error) => reject(limit.aborted ? limit.reason : error);
      const outgoing = (this.secure ? requestHttps : requestHttp)(url, options, (incoming) => {
        const pieces: Buffer[] = [];
        let size = 0;
        incoming.on('data', (piece: Buffer) => {
          size += piece.length;
          if (size > MAX_ANSWER_BYTES) incoming.destroy(unavailable('Keycloak answers with more than 8 MiB.'));
          else pieces.push(piece);
        });
        incoming.on('error', failed);
        incoming.on('end', () =>
          resolve({
            status: incoming.statusCode!,
            location: incoming.headers.location,
            text: Buffer.concat(pieces).toString('utf8'),
          }),
        );
      });
      outgoing.on('error', failed);
      outgoing.end(payload);
    });
  }

  /** Throws where Keycloak refused. */
  private expect(answer: Answer, method: Method, path: string): Answer {
    const { status } = answer;
    if (status >= 200 && status < 300) return answer;
    const { error } = this.problemOf(answer);
    if (status === 401 || status === 403)
      throw new RhyzomeError(
        'conflict',
        `Keycloak does not let the client ${this.config.clientId} ${method} ${shown(path)}: what is there is not ` +
          'this installation’s, or the client’s rights are missing.',
      );
    throw new RhyzomeError('job_failed', `Keycloak refuses ${method} ${shown(path)} (${status}${error}).`);
  }

  /** Keycloak's own word, cut and without anything that was sent. */
  private problemOf({ text }: Answer): { error: string } {
    try {
      const problem = JSON.parse(text) as { errorMessage?: unknown; error?: unknown };
      const said = problem.errorMessage ?? problem.error;
      return { error: typeof said === 'string' ? `, ${printable(said)}` : '' };
    } catch {
      // A proxy's page; the status says enough.
      return { error: '' };
    }
  }

  private parsed<T>({ text }: Answer): T {
    try {
      return JSON.parse(text) as T;
    } catch (cause) {
      throw unavailable('Keycloak’s answer is not JSON: is that its URL?', cause);
    }
  }
}

/** Without its query, which may name people. */
function shown(path: string): string {
  return printable(path.split('?', 1)[0]!);
}

function unavailable(message: string, cause?: unknown): RhyzomeError {
  return new RhyzomeError('identity_provider_unavailable', `${message} It is tried again.`, {
    retryAfterSeconds: 5,
    cause,
  });
}
