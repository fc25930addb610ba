/** For specs: an issuer on loopback that publishes keys, can rotate them, be slow or go away; and tokens made by hand. */
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CryptoKey, exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose';
import { type IssuerEntry, type IssuerRow, issuerEntries } from '#libs/tenants';
import { InvalidToken } from './bearer.js';
import { TokenVerifier, type TokenVerifierOptions } from './token-verifier.js';

type Keys = Awaited<ReturnType<typeof generateKeyPair>>;

export interface Change {
  header?: Record<string, unknown>;
  claims?: JWTPayload;
  key?: CryptoKey | Uint8Array;
}

export const now = () => Math.floor(Date.now() / 1000);

export async function publicJwk(keys: Keys, kid: string, alg: string) {
  return { ...(await exportJWK(keys.publicKey)), kid, alg, use: 'sig' };
}

export class TestKeyServer {
  readonly asked: string[] = [];
  published: Record<string, unknown>[] = [];
  /** How it answers: as it should, with an error, or not at all. */
  mood: 'well' | 'away' | 'silent' = 'well';
  /** What a directory knows of issuers. */
  entries = new Map<string, IssuerEntry>();
  private readonly verifiers: TokenVerifier[] = [];

  private constructor(
    private readonly server: Server,
    readonly base: string,
    readonly rsa: Keys,
    readonly ec: Keys,
    /** A key that is not published. */
    readonly stranger: Keys,
  ) {}

  static async start(): Promise<TestKeyServer> {
    const server = createServer((request, response) => void made.answer(request.url ?? '', response));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const pair = (alg: string) => generateKeyPair(alg, { extractable: true });
    const made = new TestKeyServer(server, base, await pair('RS256'), await pair('ES256'), await pair('RS256'));
    return made;
  }

  get issuer(): string {
    return `${this.base}/realms/acme`;
  }

  /** As at the beginning: both keys, well, and acme's issuer in the directory. */
  async reset(): Promise<void> {
    this.mood = 'well';
    this.closeVerifiers();
    this.asked.length = 0;
    this.published = [await publicJwk(this.rsa, 'rsa', 'RS256'), await publicJwk(this.ec, 'ec', 'ES256')];
    this.knows({});
  }

  /** Rows of the issuer that its directory has from now on. */
  knows(...rows: Partial<IssuerRow>[]): void {
    const { issuer } = this;
    const plain = { issuer, organization: '', tenantId: 'acme', tenantState: 'active', audience: null, jwksUri: null };
    this.entries = issuerEntries(rows.map((row) => ({ ...plain, ...row }) as IssuerRow));
  }

  verifier(options: Partial<TokenVerifierOptions> = {}): TokenVerifier {
    const directory = { find: (issuer: string) => this.entries.get(issuer) };
    const made = new TokenVerifier({ directory, audience: 'urn:rhyzome:api', ...options });
    this.verifiers.push(made);
    return made;
  }

  sign({ header = {}, claims = {}, key = this.rsa.privateKey }: Change = {}): Promise<string> {
    const payload = {
      iss: this.issuer,
      sub: 'alice',
      aud: 'urn:rhyzome:api',
      iat: now(),
      exp: now() + 60,
      realm_access: { roles: ['operator', 'offline_access', 'admin'] },
      ...claims,
    };
    return new SignJWT(payload).setProtectedHeader({ alg: 'RS256', kid: 'rsa', typ: 'JWT', ...header }).sign(key);
  }

  stop(): void {
    this.closeVerifiers();
    this.server.closeAllConnections();
    this.server.close();
  }

  private async answer(url: string, response: ServerResponse): Promise<void> {
    this.asked.push(url);
    if (this.mood === 'away') return void response.writeHead(503).end();
    while (this.mood === 'silent') await sleep(5);
    const body = url.endsWith('/certs') ? { keys: this.published } : this.metadata();
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body));
  }

  private closeVerifiers(): void {
    for (const verifier of this.verifiers.splice(0)) verifier.close();
  }

  private metadata() {
    return { issuer: this.issuer, jwks_uri: `${this.base}/certs` };
  }
}

/** Why a token is refused: the reason of a 401, another error's code, or `accepted`. */
export async function reasonOf(token: string, by: TokenVerifier): Promise<string> {
  try {
    await by.verify(token);
    return 'accepted';
  } catch (error) {
    return error instanceof InvalidToken ? error.reason : ((error as { code?: string }).code ?? String(error));
  }
}
