/**
 * One-time tokens by which a machine enrolls as a node: made by an administrator, shown once, kept as a hash. 192 random
 * bits: nobody finds one by trying, and the hash is looked up by an index without telling how near a guess was.
 */
import { hash, randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { invalid, isUuid, newId, printable, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';

const prefix = 'rhe_';
const shape = /^rhe_[A-Za-z0-9_-]{32}$/;
const nodeNamePattern = /^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/;
const MAX_LABELS = 64;
const MAX_LABEL_LENGTH = 255;
const MIN_LIFE_MS = 60_000;
const MAX_LIFE_MS = 30 * 24 * 60 * 60_000;

export interface NewToken {
  nodeName: string;
  labels: Record<string, string>;
  lifeMs: number;
  /** `admin:LOGIN`. */
  by: string;
}

export interface TokenView {
  id: string;
  node: string;
  /** `used`: the key that used it may fetch its certificate again until the end. */
  state: 'open' | 'used' | 'expired' | 'revoked';
  labels: Record<string, string>;
  createdAt: Date;
  createdBy: string;
  expiresAt: Date;
  usedAt: Date | null;
  /** Of the certificate that it gave. */
  serial: string | null;
}

/** Makes a token, which is shown once. Throws RhyzomeError `invalid`. */
export async function createToken(tx: Tx, asked: NewToken): Promise<{ token: string; view: TokenView }> {
  assertAsked(asked);
  const token = `${prefix}${randomBytes(24).toString('base64url')}`;
  const id = newId();
  await sql`insert into enrollment_token (id, hash, node_name, labels, created_by, expires_at)
    values (${id}, ${hashOf(token)}, ${asked.nodeName}, ${JSON.stringify(asked.labels)}::jsonb, ${asked.by},
      now() + ${asked.lifeMs} * interval '1 millisecond')`.execute(tx);
  return { token, view: await findToken(tx, id) };
}

function assertAsked({ nodeName, labels, lifeMs }: NewToken): void {
  if (!nodeNamePattern.test(nodeName))
    throw wrong('node', `“${printable(nodeName)}” cannot be a node’s name: 1-63 of a-z, 0-9, "." and "-"`);
  const entries = Object.entries(labels);
  if (entries.length > MAX_LABELS) throw wrong('labels', `there can be ${MAX_LABELS} labels at most`);
  for (const [key, value] of entries)
    if (key.length > MAX_LABEL_LENGTH || value.length > MAX_LABEL_LENGTH || /\p{Cc}/u.test(key + value))
      throw wrong('labels', `a label’s key and value are ${MAX_LABEL_LENGTH} printable characters at most`);
  if (lifeMs < MIN_LIFE_MS || lifeMs > MAX_LIFE_MS) throw wrong('expires', 'must be from 1m to 30d');
}

/** What is kept of a token. */
export function hashOf(token: string): Buffer {
  return hash('sha256', token, 'buffer');
}

/** Whether a text can be a token at all. */
export function isToken(text: string): boolean {
  return shape.test(text);
}

const selectToken = sql<TokenView>`
  select id, node_name as node, labels, created_at as "createdAt", created_by as "createdBy", expires_at as "expiresAt",
    used_at as "usedAt", serial,
    case when revoked_at is not null then 'revoked' when used_at is not null then 'used'
      when expires_at <= now() then 'expired' else 'open' end as state
  from enrollment_token`;

const MAX_LISTED = 1000;

/** The newest first, at most a thousand. */
export async function listTokens(tx: Tx): Promise<TokenView[]> {
  return (await sql<TokenView>`${selectToken} order by created_at desc, id limit ${MAX_LISTED}`.execute(tx)).rows;
}

/** Throws RhyzomeError `not_found`. */
async function findToken(tx: Tx, id: string): Promise<TokenView> {
  const found = isUuid(id) ? await sql<TokenView>`${selectToken} where id = ${id}`.execute(tx) : { rows: [] };
  if (found.rows[0]) return found.rows[0];
  throw new RhyzomeError('not_found', `There is no token “${printable(id)}”. \`rhyzome node token list\` names them.`);
}

/** From now on it gives nothing, to nobody; `changed` is false when it did so already. Throws RhyzomeError `not_found`. */
export async function revokeToken(tx: Tx, id: string): Promise<{ view: TokenView; changed: boolean }> {
  await findToken(tx, id);
  const result =
    await sql`update enrollment_token set revoked_at = now() where id = ${id} and revoked_at is null`.execute(tx);
  return { view: await findToken(tx, id), changed: result.numAffectedRows === 1n };
}

function wrong(field: string, message: string): RhyzomeError {
  return invalid([{ pointer: `/${field}`, code: 'invalid_value', message }]);
}
