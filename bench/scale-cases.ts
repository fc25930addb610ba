/** The requests that are compared between a large and a small tenant: every way to list, GET one, and create. */
import { sql } from 'kysely';
import type { Database, Listener } from '#libs/db';
import { EventReader } from '#libs/events';
import { kinds } from '#libs/kinds';
import {
  type Caller,
  JobService,
  KindRegistry,
  type Page,
  Pipeline,
  ResourceReader,
  readInstallation,
} from '#libs/resources';
import { callerIn, FEW } from '#libs/testing';

type Query = Record<string, string>;

export interface ScaleCase {
  name: string;
  /** For a tenant: the request, which returns how many items came. */
  prepare(tenantId: string): Promise<() => Promise<number>>;
  /** The tenant beside `big`. */
  against: 'small' | 'empty';
  /** How often in a round; fewer where it writes or is slow. */
  times?: number;
  /** What it costs follows from how many rows match; said in the documentation, and no ratio is asked of it. */
  isCounting?: boolean;
}

type List = (caller: Caller, query: Query) => Promise<Page<unknown>>;

/** Where in a list: the first page, one in the middle, the last. */
const positions = ['first', 'middle', 'last'] as const;
type Position = (typeof positions)[number];

/** All page tokens of a list, by large pages; the last one leads to the last `pageSize` items. */
async function tokenOf(list: List, caller: Caller, query: Query, position: Position): Promise<string | undefined> {
  if (position === 'first') return undefined;
  const tokens: string[] = [];
  for (let pageSize = '500'; ; ) {
    const pageToken = tokens.at(-1);
    const page = await list(caller, { ...query, pageSize, ...(pageToken && { pageToken }) });
    if (page.nextPageToken) tokens.push(page.nextPageToken);
    else if (pageSize === '500' && query.pageSize) pageSize = query.pageSize;
    else break;
  }
  return position === 'middle' ? tokens[Math.floor(tokens.length / 2)] : tokens.at(-1);
}

const listCase = (title: string, list: List, query: Query, position: Position = 'first'): ScaleCase => ({
  name: `${title} ${new URLSearchParams(query).toString().replaceAll('%2C', ',')}${position === 'first' ? '' : `, ${position} page`}`,
  against: 'small',
  prepare: async (tenantId) => {
    const caller = callerIn(tenantId);
    const pageToken = await tokenOf(list, caller, query, position);
    return async () => (await list(caller, { ...query, ...(pageToken && { pageToken }) })).items.length;
  },
});

/** Selector or filter, and the page size that a tenant of 500 fills, too. */
const selections: [Query, number][] = [
  [{ state: 'failed' }, 5],
  [{ state: 'ready' }, 50],
  [{ tagSelector: 'env=prod' }, 50],
  [{ tagSelector: 'env=dev' }, 5],
  [{ tagSelector: 'env in (dev,test)' }, 10],
  [{ tagSelector: 'env!=prod' }, 10],
  [{ tagSelector: 'env notin (dev,test)' }, 50],
  [{ tagSelector: 'tier=t7' }, 2],
  [{ tagSelector: 'team' }, 50],
  [{ tagSelector: '!team' }, FEW],
  [{ tagSelector: 'legacy' }, FEW],
  [{ tagSelector: '!legacy' }, 50],
  [{ tagSelector: 'legacy=yes' }, FEW],
  [{ tagSelector: 'env=prod,tier=t7' }, 2],
  [{ tagSelector: 'env=prod,!team' }, 10],
  [{ tagSelector: 'env=prod', state: 'failed' }, 5],
  [{ tagSelector: 'nobody=has-it' }, 50],
];

/** The cases over one database. */
export async function scaleCases(db: Database, listener: Listener): Promise<ScaleCase[]> {
  const registry = new KindRegistry(kinds);
  const { tokenKey } = await readInstallation(db);
  const reader = new ResourceReader(db, tokenKey);
  const jobs = new JobService(db, registry, tokenKey, listener);
  const network = registry.get('network');
  const instance = registry.get('instance');
  const networks: List = (caller, query) => reader.list(caller, network, query);
  const instances: List = (caller, query) => reader.list(caller, instance, query);
  const jobList: List = (caller, query) => jobs.list(caller, query);
  const sorts = ['createdAt', 'name', 'updatedAt'];
  return [
    ...['createdAt', '-createdAt', 'name', '-name', 'updatedAt', '-updatedAt'].flatMap((sort) =>
      positions.map((position) => listCase('networks', networks, { sort, pageSize: '50' }, position)),
    ),
    listCase('networks', networks, { name: 'net-5' }),
    ...selections.flatMap(([query, size]) =>
      sorts.map((sort) => listCase('networks', networks, { ...query, sort, pageSize: String(size) })),
    ),
    ...selections
      .filter(([, size]) => size === 50)
      .map(([query, size]) => listCase('networks', networks, { ...query, pageSize: String(size) }, 'middle')),
    ...positions.map((position) => listCase('instances', instances, { pageSize: '50' }, position)),
    listCase('instances', instances, { powerState: 'stopped', pageSize: '5' }),
    listCase('instances', instances, { powerState: 'paused', pageSize: '5' }),
    listCase('instances', instances, { vcpus: '2', pageSize: '50' }),
    ...['name', '-name'].flatMap((sort) => [
      listCase('instances', instances, { powerState: 'stopped', sort, pageSize: '5' }),
      listCase('instances', instances, { vcpus: '2', sort, pageSize: '50' }),
    ]),
    ...['createdAt', 'name'].map((sort) => listCase('networks', networks, { domain: 'd7', sort, pageSize: '2' })),
    ...positions.map((position) => listCase('jobs', jobList, { pageSize: '50' }, position)),
    listCase('jobs', jobList, { pageSize: '50', sort: '-createdAt' }),
    listCase('jobs', jobList, { pageSize: '10', state: 'failed' }),
    listCase('jobs', jobList, { pageSize: '50', action: 'delete' }),
    listCase('jobs', jobList, { pageSize: '50', kind: 'image' }),
    { ...listCase('networks', networks, { count: 'true', pageSize: '50' }), isCounting: true, times: 5 },
    { ...listCase('networks', networks, { count: 'true', tagSelector: 'env=dev', pageSize: '5' }), isCounting: true },
    ...single(db, reader, registry),
  ];
}

function single(db: Database, reader: ResourceReader, registry: KindRegistry): ScaleCase[] {
  const network = registry.get('network');
  const pipeline = new Pipeline(db, registry);
  const events = new EventReader(db);
  let count = 0;
  const read = (name: string, key: 'id' | 'name'): ScaleCase => ({
    name,
    against: 'small',
    prepare: async (tenantId) => {
      const caller = callerIn(tenantId);
      const { items } = await reader.list(caller, network, { pageSize: '100', sort: '-name' });
      let n = 0;
      return async () => {
        await reader.get(caller, network, items[n++ % items.length]![key] as string);
        return 1;
      };
    },
  });
  return [
    {
      name: '200 events after a number',
      against: 'small',
      prepare: async (tenantId) => {
        const { last } = await events.head(tenantId);
        return async () => (await events.read(tenantId, Math.floor(last / 2), {})).events.length;
      },
    },
    read('GET one by id', 'id'),
    read('GET one by name', 'name'),
    {
      name: 'create a network',
      against: 'empty',
      prepare: async (tenantId) => {
        const caller = callerIn(tenantId);
        await sql`insert into tenant (id, display_name) values (${tenantId}, '') on conflict do nothing`.execute(
          db.operator,
        );
        return async () => {
          const body = {
            name: `made-${process.pid}-${count++}`,
            subnet: '10.1.0.0/16',
            tags: { tier: 't1', env: 'prod' },
          };
          await pipeline.create(caller, network, body);
          return 1;
        };
      },
    },
  ];
}
