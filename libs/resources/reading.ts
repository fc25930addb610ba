/** Reading resources: one by id or name, and lists. One statement each. */

import { type RawBuilder, sql } from 'kysely';
import { authorize, mayList } from '#libs/auth';
import { notFound, RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import type { Caller } from './caller.js';
import { type CoreRow, type KindDefinition, perQuery } from './kind.js';
import { countStatement, type ListQuery, type ListShape, pageStatement, parseListQuery } from './list-query.js';
import { decodePageToken, encodePageToken } from './page-token.js';
import { coreOf, findResource, selectFromKind, visibleTenants } from './repository.js';
import { etagOf, type ResourceView, resourceViewFor } from './view.js';

export interface Page<Item> {
  items: Item[];
  nextPageToken: string | null;
  /** With `count=true`. */
  totalCount?: number;
}

export interface Found {
  body: ResourceView;
  etag: string;
  row: CoreRow;
}

const coreSorts: ListShape['sorts'] = {
  name: { column: sql.ref('r.name'), cast: 'text', key: (row: CoreRow) => row.name },
  createdAt: {
    column: sql.ref('r.created_at'),
    cast: 'timestamptz',
    key: (row: CoreRow) => row.created_at.toISOString(),
  },
  updatedAt: {
    column: sql.ref('r.updated_at'),
    cast: 'timestamptz',
    key: (row: CoreRow) => row.updated_at.toISOString(),
  },
};

/** What lists of a kind can be filtered and sorted by. */
export function listShapeOf(kind: KindDefinition): ListShape {
  return {
    filters: {
      name: { column: sql.ref('r.name'), type: 'text', description: 'Exactly this name.' },
      state: { column: sql.ref('r.state'), type: 'text', description: 'Exactly this state.' },
      ...kind.filters,
    },
    sorts: coreSorts,
    defaultSort: 'createdAt',
    hasTags: true,
  };
}

export interface PlainList<Row, Item> {
  /** Page tokens are bound to it. */
  name: string;
  shape: ListShape;
  raw: Record<string, unknown>;
  select: RawBuilder<Row>;
  base: RawBuilder<unknown>;
  view(row: Row): Item;
}

export class ResourceReader {
  constructor(
    private readonly db: Database,
    /** Signs page tokens. */
    private readonly tokenKey: Buffer,
  ) {}

  /** Throws RhyzomeError `not_found`, also for what the caller may not know of. */
  async get(caller: Caller, kind: KindDefinition, idOrName: string): Promise<Found> {
    const row = await findResource(perQuery(this.db, caller.actor.tenantId), kind, idOrName);
    if (!row) throw notFound(kind.name, idOrName);
    authorize(caller.actor, 'read', { ...coreOf(row), isPublic: row.tenant_id !== caller.actor.tenantId }, idOrName);
    return { body: resourceViewFor(caller.actor.tenantId, kind, row), etag: etagOf(row), row };
  }

  /** Throws RhyzomeError `invalid`, `forbidden`. */
  async list(caller: Caller, kind: KindDefinition, raw: Record<string, unknown>): Promise<Page<ResourceView>> {
    const { actor } = caller;
    if (!mayList(actor, kind.name)) {
      throw new RhyzomeError('forbidden', `You may not list ${kind.plural}: the scope ${kind.name}:read is missing.`);
    }
    const query = parseListQuery(listShapeOf(kind), raw);
    const base = sql`${visibleTenants(kind, actor.tenantId)} and r.kind = ${kind.name}`;
    return readPage(this.db, this.tokenKey, actor.tenantId, kind.name, query, selectFromKind(kind), base, (row) =>
      resourceViewFor(actor.tenantId, kind, row),
    );
  }

  /** A page of something that is no kind, of the caller's tenant; its select has the alias `r`. */
  page<Row extends { id: string }, Item>(caller: Caller, list: PlainList<Row, Item>): Promise<Page<Item>> {
    const query = parseListQuery(list.shape, list.raw);
    const { tenantId } = caller.actor;
    return readPage(this.db, this.tokenKey, tenantId, list.name, query, list.select, list.base, list.view);
  }
}

/** One page of anything that has `tenant_id` scope and the alias `r`. */
export async function readPage<Row extends { id: string }, Item>(
  db: Database,
  tokenKey: Buffer,
  tenantId: string,
  listName: string,
  query: ListQuery,
  select: RawBuilder<Row>,
  base: RawBuilder<unknown>,
  view: (row: Row) => Item,
): Promise<Page<Item>> {
  const bound = JSON.stringify([tenantId, listName, query.canonical]);
  const after = query.pageToken === undefined ? undefined : decodePageToken(tokenKey, bound, query.pageToken);
  const rows = await db.tenantRead<Row>(tenantId, pageStatement(select, base, query, after).compile(db.builder));
  const [counted] = query.count
    ? await db.tenantRead(tenantId, countStatement(select, base, query).compile(db.builder))
    : [];
  const page = rows.slice(0, query.pageSize);
  const last = page.at(-1);
  return {
    items: page.map(view),
    nextPageToken:
      rows.length > query.pageSize && last ? encodePageToken(tokenKey, bound, [query.sort.key(last), last.id]) : null,
    ...(counted && { totalCount: counted.total }),
  };
}

/** The installation's id and the key of its page tokens. */
export async function readInstallation(db: Database): Promise<{ id: string; tokenKey: Buffer }> {
  const [row] = await db.unscopedRead(db.builder.selectFrom('installation').select(['id', 'token_key']).compile());
  if (!row) throw new Error('The database has no installation row. Run “rhyzome db migrate”.');
  return { id: row.id, tokenKey: row.token_key };
}
