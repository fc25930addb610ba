/**
 * Where the matrix is tried: a replica of the API in this process with real signed tokens, and two tenants that have one of
 * everything: `acme`, whose things they are, and `globex`, whose administrator would like to have them. The statements that the
 * replica sends to the database are written down.
 */
import 'reflect-metadata';
import { Agent, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { sql } from 'kysely';
import { TokenVerifier } from '#libs/auth';
import { newId } from '#libs/core';
import { Database } from '#libs/db';
import { kinds } from '#libs/kinds';
import { Addressing } from '#libs/rest';
import { DomainCache, IssuerCache, type IssuerRow } from '#libs/tenants';
import { contentLab, globalImage, type Platform, publicPool, startPlatform } from '#libs/testing';
import type { Route, RouteTable } from '../../apps/api/http-server.js';
import { generous, serve } from '../../apps/api/test-server.js';
import { clientWith } from '../harness/client.js';
import { type Belongings, furnish } from './belongings.js';
import { AUDIENCE, Issuers } from './issuers.js';

export const VICTIM = 'acme';
export const ATTACKER = 'globex';
/** Both tenants' administrators have this `sub`, so that nothing but the tenant tells them apart. */
export const SUBJECT = 'somebody';
export const DOMAIN = 'api.example.org';

export interface Ask {
  method: string;
  path: string;
  /** Null: none. */
  token: string | null;
  headers?: Record<string, string>;
  json?: unknown;
  bytes?: Uint8Array;
}

export interface Told {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
  /** The text where it is JSON. */
  body: any;
}

export class Lab {
  private readonly agent = new Agent({ keepAlive: true, maxSockets: 20 });
  /** The victim has an answer under it. */
  readonly foreignKey = 'victims-key';
  victim!: Belongings;
  /** Of the victim's administrator: good once, or good for nothing. */
  apiTokens!: Record<'revoked' | 'ended' | 'ofDisabled' | 'narrowed', string>;
  /** The API's description of itself. */
  description!: any;
  attacker!: Belongings;

  private constructor(
    readonly platform: Platform,
    private readonly db: Database,
    readonly issuers: Issuers,
    private readonly app: NestFastifyApplication,
    readonly base: string,
    /** That the replica has sent. */
    readonly statements: string[],
  ) {}

  static async open(): Promise<Lab> {
    await contentLab();
    const platform = await startPlatform({ kinds });
    // `initech` is suspended; `shared` is the issuer of organizations.
    const issuers = await Issuers.start([VICTIM, ATTACKER, 'initech', 'shared', 'stranger']);
    for (const id of [VICTIM, ATTACKER, 'initech']) await platform.tenant(id);
    await registerIssuers(platform, issuers);
    const statements: string[] = [];
    const db = new Database({ app: platform.connection, onQuery: (text) => statements.push(text) });
    const cache = new IssuerCache(() => readIssuers(platform), Number.POSITIVE_INFINITY);
    await cache.refresh();
    const domains = new DomainCache(async () => [{ domain: 'api.acme.example', tenantId: VICTIM }], DOMAIN);
    await domains.refresh();
    const app = await serve({ ...platform, db }, generous, {
      tokens: new TokenVerifier({ directory: cache, audience: AUDIENCE }),
      addressing: new Addressing((host) => domains.ownerOf(host)),
    });
    const lab = new Lab(platform, db, issuers, app, await app.getUrl(), statements);
    await globalImage(platform);
    await publicPool(platform, 'coverage', '198.51.100.1', '198.51.100.250');
    const [victim, attacker] = [await issuers.token(VICTIM), await issuers.token(ATTACKER)];
    [lab.victim, lab.attacker] = await Promise.all([
      furnish(lab, VICTIM, victim, 'victim'),
      furnish(lab, ATTACKER, attacker, 'own'),
    ]);
    lab.description = (await lab.ask({ method: 'GET', path: '/v1/openapi.json', token: null })).body;
    await lab.keepKey();
    await lab.makeApiTokens();
    await lab.grantLittle();
    return lab;
  }

  private async makeApiTokens(): Promise<void> {
    const client = clientWith(this.base, this.victim.token);
    const make = async (name: string, more: object = {}) => {
      const { status, body, text } = await client.post('/v1/apitokens?wait=30s', { name, ...more });
      if (status !== 200) throw new Error(`POST apitokens: ${status} ${text}`);
      return body as { id: string; token: string };
    };
    const account = await client.make('serviceaccounts', { name: 'robot' });
    const [revoked, ended, ofDisabled, narrowed] = await Promise.all([
      make('revoked'),
      make('ended'),
      make('of-disabled', { serviceAccount: account.id }),
      make('narrowed', { scopes: ['unicorn:read'] }),
    ]);
    await client.remove('apitokens', revoked.id);
    await sql`update apitoken set expires_at = now() - interval '1 second' where id = ${ended.id}`.execute(
      this.platform.db.operator,
    );
    await client.post(`/v1/serviceaccounts/${account.id}/disable?wait=30s`, {});
    const token = { revoked: revoked.token, ended: ended.token, ofDisabled: ofDisabled.token };
    this.apiTokens = { ...token, narrowed: narrowed.token };
  }

  private async keepKey(): Promise<void> {
    const hash = Buffer.alloc(32);
    await sql`insert into idempotency (tenant_id, subject, key, request_hash, status, headers, body)
      values (${VICTIM}, ${SUBJECT}, ${this.foreignKey}, ${hash}, 202, '{}', '{"secret": true}')`.execute(
      this.platform.db.operator,
    );
  }

  /** Rules as grants leave them, for subjects that have no role: each gives something, and not what is tried. */
  private async grantLittle(): Promise<void> {
    const { id } = this.victim.things.networks!;
    const add = (
      subject: string,
      verbs: string[],
      kindNames: string[],
      selector: string | null,
      ids: string[] | null,
    ) =>
      sql`insert into access_rule (tenant_id, grant_id, ordinal, subject_type, subject, verbs, kinds, selector, resource_ids)
        select ${VICTIM}, ${id}, count(*), 'sub', ${subject}, ${verbs}, ${kindNames}, ${selector}, ${ids}::uuid[]
        from access_rule`.execute(this.platform.db.operator);
    await add('other-kind', ['*'], ['unicorn'], null, null);
    await add('other-resource', ['*'], ['*'], null, [newId()]);
    await add('other-tags', ['*'], ['*'], 'of=nothing', null);
    await add('reader', ['read'], ['*'], null, null);
    await add('creator', ['create'], ['*'], null, null);
  }

  /** The number of the victim's last event. */
  async lastEvent(): Promise<string> {
    const { rows } = await sql<{ last: string }>`
      select last::text as last from event_counter where tenant_id = ${VICTIM}`.execute(this.platform.db.operator);
    return rows[0]!.last;
  }

  /** As Fastify has them: whatever is added to the server is here. */
  get routes(): readonly Route[] {
    const fastify = this.app.getHttpAdapter().getInstance() as unknown as { routeTable: RouteTable };
    return fastify.routeTable.all;
  }

  /** By node:http, which lets one choose the Host. Of a stream only what comes in the first moment. */
  ask({ method, path, token, headers = {}, json, bytes }: Ask): Promise<Told> {
    const body = bytes ?? (json === undefined ? undefined : Buffer.from(JSON.stringify(json)));
    const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const all = {
      ...(token !== null && { authorization: `Bearer ${token}` }),
      ...(body && { 'content-type': bytes ? 'application/octet-stream' : type, 'content-length': body.length }),
      ...headers,
    };
    return new Promise((done, fail) => {
      const sent = httpRequest(this.base + path, { method, headers: all, agent: this.agent }, (got) => {
        let text = '';
        const finish = () => {
          const isJson = /[/+]json/.test(got.headers['content-type'] ?? '') && text !== '';
          done({ status: got.statusCode!, headers: got.headers, text, body: isJson ? JSON.parse(text) : undefined });
        };
        got.on('data', (chunk) => (text += chunk));
        got.on('end', finish);
        if (!got.headers['content-type']?.startsWith('text/event-stream')) return;
        got.on('error', () => undefined);
        setTimeout(() => {
          finish();
          got.destroy();
        }, 150);
      });
      sent.on('upgrade', (got, socket) => {
        socket.destroy();
        done({ status: got.statusCode!, headers: got.headers, text: '', body: undefined });
      });
      sent.on('error', fail);
      sent.end(body);
    });
  }

  async close(): Promise<void> {
    this.agent.destroy();
    await this.app.close();
    await this.db.close();
    await this.platform.close();
    await this.issuers.close();
  }
}

async function registerIssuers(platform: Platform, issuers: Issuers): Promise<void> {
  await platform.db.operatorTransaction(async (tx) => {
    const add = (realm: string, tenantId: string, organization: string) =>
      sql`insert into tenant_issuer (issuer, organization, tenant_id, jwks_uri)
        values (${issuers.issuerOf(realm)}, ${organization}, ${tenantId}, ${issuers.jwksUriOf(realm)})`.execute(tx);
    for (const id of [VICTIM, ATTACKER, 'initech']) await add(id, id, '');
    for (const id of [VICTIM, ATTACKER]) await add('shared', id, id);
    await sql`update tenant set state = 'suspended' where id = 'initech'`.execute(tx);
    await sql`insert into subject (tenant_id, subject, kind, resource_id, enabled)
      values (${VICTIM}, 'removed-user', 'user', ${newId()}, false)`.execute(tx);
  });
}

async function readIssuers({ db }: Platform): Promise<IssuerRow[]> {
  const query = sql<IssuerRow>`
    select issuer, organization, tenant_id as "tenantId", tenant_state as "tenantState", audience, jwks_uri as "jwksUri"
    from issuer_directory()`;
  return db.unscopedRead(query.compile(db.builder));
}
