/** Reading resources: one by id or name, and lists. One statement each. */

import { type RawBuilder, sql } from 'kysely';
import { authorize, mayList, reachOf } from '#libs/auth';
import { notFound, RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import type { Caller } from './caller.js';
import { type CoreRow, type KindDefinition, perQuery } from './kind.js';
import { noteDensity } from './list-density.js';
import { countStatement, type ListQuery, type ListShape, pageStatement, parseListQuery } from './list-query.js';
import { kindCount, kindPage } from './list-statement.js';
import { decodePageToken, encodePageToken } from './page-token.js';
import { coreOf, findResource } from './repository.js';
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
  name: { column: sql.ref('r.name'), field: 'name', cast: 'text', key: (row: CoreRow) => row.name },
  createdAt: {
    column: sql.ref('r.created_at'),
    field: 'created_at',
    cast: 'timestamptz',
    key: (row: CoreRow) => row.created_at.toISOString(),
  },
  updatedAt: {
    column: sql.ref('r.updated_at'),
    field: 'updated_at',
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
      ...Object.fromEntries(
        Object.entries(kind.filters ?? {}).map(([name, filter]) => [name, { ...filter, isOwn: true }]),
      ),
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
  /** There is an index in the order of each sort and filter: it is always read (`Database.tenantRead`). */
  inOrder?: boolean;
  view(row: Row): Item;
}

interface ListStatements<Row, Item> {
  /** Page tokens are bound to it. */
  name: string;
  page(after: [string, string] | undefined): RawBuilder<Row>;
  count(): RawBuilder<{ total: number }>;
  inOrder: boolean;
  view(row: Row): Item;
  /** Told the rows of each page. */
  seen?(rows: readonly Row[]): void;
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
      throw new RhyzomeError(
        'forbidden',
        `You may not list ${kind.plural}: the permission ${kind.name}:read is missing.`,
      );
    }
    const query = parseListQuery(listShapeOf(kind), raw);
    const reach = reachOf(actor, 'read', kind.name);
    return readPage<CoreRow, ResourceView>(this.db, this.tokenKey, actor.tenantId, query, {
      name: kind.name,
      page: (after) => kindPage(kind, actor.tenantId, query, after, reach),
      count: () => kindCount(kind, actor.tenantId, query, reach),
      inOrder: true,
      view: (row) => resourceViewFor(actor.tenantId, kind, row),
      seen: (rows) => noteDensity(reach, kind, query, rows as readonly { near?: boolean }[]),
    });
  }

  /** A page of something that is no kind, of the caller's tenant; its select has the alias `r`. */
  page<Row extends { id: string }, Item>(caller: Caller, list: PlainList<Row, Item>): Promise<Page<Item>> {
    return readPlainPage(this.db, this.tokenKey, caller.actor.tenantId, list);
  }
}

/** One page of what is no kind, for jobs, too. */
export function readPlainPage<Row extends { id: string }, Item>(
  db: Database,
  tokenKey: Buffer,
  tenantId: string,
  list: PlainList<Row, Item>,
): Promise<Page<Item>> {
  const { name, shape, raw, select, base, inOrder = false, view } = list;
  const query = parseListQuery(shape, raw);
  return readPage<Row, Item>(db, tokenKey, tenantId, query, {
    name,
    page: (after) => pageStatement(select, base, query, after),
    count: () => countStatement(select, base, query),
    inOrder,
    view,
  });
}

/** One page of anything that has `tenant_id` scope and the alias `r`. */
async function readPage<Row extends { id: string }, Item>(
  db: Database,
  tokenKey: Buffer,
  tenantId: string,
  query: ListQuery,
  list: ListStatements<Row, Item>,
): Promise<Page<Item>> {
  const bound = JSON.stringify([tenantId, list.name, query.canonical]);
  const after = query.pageToken === undefined ? undefined : decodePageToken(tokenKey, bound, query.pageToken);
  const { inOrder } = list;
  const rows = await db.tenantRead<Row>(tenantId, list.page(after).compile(db.builder), { inOrder });
  list.seen?.(rows);
  const [counted] = query.count ? await db.tenantRead(tenantId, list.count().compile(db.builder), { inOrder }) : [];
  const page = rows.slice(0, query.pageSize);
  const last = page.at(-1);
  return {
    items: page.map(list.view),
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
