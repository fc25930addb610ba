/** A database with two tenants, and two nodes that have said hello: for specs of what nodes are told and say. */
import { sql } from 'kysely';
import type { Tx } from '#libs/db';
import { type NodeHello, type NodeSession, openSession } from '#libs/nodes';
import { type TestDatabase, testDatabase } from './database.js';

/** The tenant that `inTenant` is of; the other one is `globex`. */
export const TENANT = 'acme';

/** What a small node says of itself. */
export function nodeHello(name: string, more: Partial<NodeHello> = {}): NodeHello {
  const room = { vcpus: 2, memoryMiB: 1024, diskGiB: 10 };
  return { name, driver: 'test', agentVersion: '0', kinds: ['network', 'instance'], labels: {}, ...room, ...more };
}

export interface TwoNodes {
  database: TestDatabase;
  node: NodeSession;
  otherNode: NodeSession;
  inTenant<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
}

/** Whoever makes it closes its database. */
export async function twoNodes(): Promise<TwoNodes> {
  const database = await testDatabase();
  await sql`insert into tenant (id, display_name) values (${TENANT}, 'A'), ('globex', 'G')`.execute(
    database.db.operator,
  );
  const node = await openSession(database.db, nodeHello('n1'), 'replica:1');
  const otherNode = await openSession(database.db, nodeHello('n2'), 'replica:1');
  return { database, node, otherNode, inTenant: (work) => database.db.tenantTransaction(TENANT, work) };
}
