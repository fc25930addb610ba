/** Nodes as rows: who said hello, who holds the stream, who was seen when. Written as operator. */

import { sql } from 'kysely';
import { newId } from '#libs/core';
import type { Database } from '#libs/db';

export interface NodeHello {
  name: string;
  driver: string;
  agentVersion: string;
  kinds: readonly string[];
  labels: Record<string, string>;
  vcpus: number;
  memoryMiB: number;
  diskGiB: number;
  /** host:port at which other nodes bring machines to it; null: it takes in none. */
  migrationAddress?: string | null;
}

export interface NodeSession {
  nodeId: string;
  /** Later streams of the same node have higher ones; only the highest may write. */
  session: number;
}

/** Writes down that a node's stream is held by `replica` from now on. Whoever held it before has lost it. */
export async function openSession(db: Database, hello: NodeHello, replica: string): Promise<NodeSession> {
  return db.operatorTransaction(async (tx) => {
    const node = await sql<{ id: string }>`
      insert into node (id, name, driver, agent_version, kinds, labels, vcpus, memory_mib, disk_gib, migration_address)
      values (${newId()}, ${hello.name}, ${hello.driver}, ${hello.agentVersion}, ${[...hello.kinds]}::text[],
        ${JSON.stringify(hello.labels)}::jsonb, ${hello.vcpus}, ${hello.memoryMiB}, ${hello.diskGiB},
        ${hello.migrationAddress ?? null})
      on conflict (name) do update set driver = excluded.driver, agent_version = excluded.agent_version,
        kinds = excluded.kinds, labels = excluded.labels, vcpus = excluded.vcpus, memory_mib = excluded.memory_mib,
        disk_gib = excluded.disk_gib, migration_address = excluded.migration_address, last_seen_at = now()
      returning id`.execute(tx);
    const nodeId = node.rows[0]!.id;
    const session = await sql<{ session: number }>`
      insert into node_session as s (node_id, session, replica) values (${nodeId}, 1, ${replica})
      on conflict (node_id) do update set session = s.session + 1, replica = excluded.replica,
        connected_at = now(), heartbeat_at = now()
      returning session`.execute(tx);
    return { nodeId, session: session.rows[0]!.session };
  });
}

/** False when a later stream of the node has taken over. */
export async function heartbeat(
  db: Database,
  session: NodeSession,
  capacity: { vcpus: number; memoryMiB: number; diskGiB: number } | undefined,
): Promise<boolean> {
  const result = await sql`
    with mine as (
      update node_session set heartbeat_at = now() where node_id = ${session.nodeId} and session = ${session.session}
      returning node_id)
    update node n set last_seen_at = now(), vcpus = coalesce(${capacity?.vcpus ?? null}, n.vcpus),
      memory_mib = coalesce(${capacity?.memoryMiB ?? null}, n.memory_mib),
      disk_gib = coalesce(${capacity?.diskGiB ?? null}, n.disk_gib)
    from mine where n.id = mine.node_id returning 1`.execute(db.operator);
  return result.rows.length === 1;
}

/** The stream has ended; nobody holds it, unless a later one has taken over. */
export async function closeSession(db: Database, session: NodeSession): Promise<void> {
  await db.operator
    .updateTable('node_session')
    .set({ replica: null })
    .where('node_id', '=', session.nodeId)
    .where('session', '=', session.session)
    .execute();
}
