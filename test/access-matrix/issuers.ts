/** Issuers of tokens for the matrix: a realm a tenant and one that several share, with keys of their own, on the loopback. */
import { createHmac, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type JWTPayload, SignJWT } from 'jose';

export const AUDIENCE = 'urn:rhyzome:api';

interface Realm {
  kid: string;
  publicKey: KeyObject;
  privateKey: KeyObject;
}

const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

export class Issuers {
  private constructor(
    private readonly server: Server,
    private readonly realms: ReadonlyMap<string, Realm>,
  ) {}

  static async start(names: readonly string[]): Promise<Issuers> {
    const realms = new Map(
      names.map((name) => [name, { kid: `key-of-${name}`, ...generateKeyPairSync('rsa', { modulusLength: 2048 }) }]),
    );
    const server = createServer((request, response) => {
      const realm = realms.get(request.url!.split('/')[2] ?? '');
      if (!realm) return response.writeHead(404).end();
      const jwk = { ...realm.publicKey.export({ format: 'jwk' }), kid: realm.kid, alg: 'RS256', use: 'sig' };
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ keys: [jwk] }));
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    return new Issuers(server, realms);
  }

  get names(): string[] {
    return [...this.realms.keys()];
  }

  issuerOf(realm: string): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/realms/${realm}`;
  }

  jwksUriOf(realm: string): string {
    return `${this.issuerOf(realm)}/keys`;
  }

  kidOf(realm: string): string {
    return this.realms.get(realm)!.kid;
  }

  /** What a good token says: an administrator's, for ten minutes. */
  claims(realm: string, more: JWTPayload = {}): JWTPayload {
    const now = Math.floor(Date.now() / 1000);
    const roles = { realm_access: { roles: ['admin'] } };
    const issuer = { iss: this.issuerOf(realm), aud: AUDIENCE, sub: 'somebody', typ: 'Bearer' };
    return { ...issuer, iat: now, exp: now + 600, ...roles, ...more };
  }

  /** Signed with the key of `by`, in its name. */
  sign(by: string, claims: JWTPayload, header: object = {}): Promise<string> {
    const { kid, privateKey } = this.realms.get(by)!;
    return new SignJWT(claims).setProtectedHeader({ alg: 'RS256', typ: 'at+jwt', kid, ...header }).sign(privateKey);
  }

  /** An administrator's, or what `more` makes of it. */
  token(realm: string, more: JWTPayload = {}): Promise<string> {
    return this.sign(realm, this.claims(realm, more));
  }

  /** RFC 7515 §6: no signature at all. */
  unsigned(realm: string): string {
    return `${encode({ alg: 'none', typ: 'at+jwt' })}.${encode(this.claims(realm))}.`;
  }

  /** By HMAC with the public key, which everybody has, as secret. */
  signedWithPublicKey(realm: string): string {
    const { kid, publicKey } = this.realms.get(realm)!;
    const text = `${encode({ alg: 'HS256', typ: 'at+jwt', kid })}.${encode(this.claims(realm))}`;
    const secret = publicKey.export({ type: 'spki', format: 'pem' });
    return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
  }

  async close(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }
}
