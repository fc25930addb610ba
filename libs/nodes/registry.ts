/** Nodes as rows: who said hello, who holds the stream, who was seen when. Written as operator. */

import { sql } from 'kysely';
import { newId } from '#libs/core';
import { type Database, type Tx, wakeAfterCommit } from '#libs/db';
import { keepStorage, type NodeStorage } from './shared-storage.js';

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
  /** The highest epoch of the node that the agent has stopped for; 0: it knows none. */
  epoch?: number;
  /** Where other nodes reach it. Absent: it takes no part in networks across nodes. */
  underlay?: NodeUnderlay;
  /** Where it makes disks, shared with other nodes. Absent: on its own. */
  storage?: NodeStorage;
}

export interface NodeUnderlay {
  address: string;
  port: number;
  /** The largest MTU of a network that it carries; null: the node does not know now, so what it said before counts. */
  networkMtu: number | null;
}

export interface NodeSession {
  nodeId: string;
  /** Later streams of the same node have higher ones; only the highest may write. */
  session: number;
}

/** A session that has just begun. */
export interface OpenedSession extends NodeSession {
  /** The node's epoch. */
  epoch: number;
  /** The node was fenced, and its agent has not said yet that it has stopped what is no longer its own. */
  isReturning: boolean;
}

/**
 * Writes down that a node's stream is held by `replica` from now on. Whoever held it before has lost it. An agent that knows
 * a later epoch than the database is believed: that one was restored from before a fence.
 */
export async function openSession(db: Database, hello: NodeHello, replica: string): Promise<OpenedSession> {
  // Every node begins with the first epoch, and so does an agent that has not been told of any.
  const known = Math.max(1, hello.epoch ?? 0);
  const opened = await db.operatorTransaction(async (tx) => {
    const node = await sql<{ id: string; epoch: number; gone: boolean }>`
      insert into node as n (id, name, driver, agent_version, kinds, labels, vcpus, memory_mib, disk_gib, epoch,
        migration_address)
      values (${newId()}, ${hello.name}, ${hello.driver}, ${hello.agentVersion}, ${[...hello.kinds]}::text[],
        ${JSON.stringify(hello.labels)}::jsonb, ${hello.vcpus}, ${hello.memoryMiB}, ${hello.diskGiB}, ${known},
        ${hello.migrationAddress ?? null})
      on conflict (name) do update set driver = excluded.driver, agent_version = excluded.agent_version,
        kinds = excluded.kinds, labels = excluded.labels, vcpus = excluded.vcpus, memory_mib = excluded.memory_mib,
        disk_gib = excluded.disk_gib, migration_address = excluded.migration_address, last_seen_at = now(),
        epoch = greatest(n.epoch, excluded.epoch)
      returning id, epoch, gone_at is not null as gone`.execute(tx);
    const { id: nodeId, epoch, gone } = node.rows[0]!;
    await keepUnderlay(tx, nodeId, hello.underlay);
    if (hello.migrationAddress) await tellSenders(tx, hello.name, hello.migrationAddress);
    await keepStorage(tx, nodeId, hello.storage);
    const session = await sql<{ session: number }>`
      insert into node_session as s (node_id, session, replica, epoch) values (${nodeId}, 1, ${replica}, ${known})
      on conflict (node_id) do update set session = s.session + 1, replica = excluded.replica, epoch = excluded.epoch,
        connected_at = now(), heartbeat_at = now()
      returning session`.execute(tx);
    return { nodeId, session: session.rows[0]!.session, epoch, isReturning: known < epoch, gone };
  });
  const { gone, ...session } = opened;
  // It had stopped for this epoch, and the stream ended before its word of it arrived.
  if (gone && !session.isReturning) await takeBack(db, session, known);
  return session;
}

/** Nodes that are sending machines to it are told where it is now, if that is not where it was. */
async function tellSenders(tx: Tx, name: string, address: string): Promise<void> {
  const told = await sql<{ nodeId: string }>`
    update deed set arguments = jsonb_set(arguments, '{to,address}', to_jsonb(${address}::text))
    where (tenant_id, id) in (select m.tenant_id, unnest(array[m.id, m.abandon_id]) from move m
        join node n on n.id = m.to_node where n.name = ${name})
      and state = 'asked' and arguments #>> '{to,address}' <> ${address}
    returning node_id as "nodeId"`.execute(tx);
  for (const { nodeId } of told.rows) wakeAfterCommit('rhyzome_node', nodeId);
}

/**
 * An agent says that it has stopped what a fence took from its node. From then on it counts again, without new machines
 * until an administrator says so. False: the stream was taken over, or the node was fenced again meanwhile.
 */
export async function takeBack(db: Database, session: NodeSession, epoch: number): Promise<boolean> {
  return db.operatorTransaction(async (tx) => {
    const node = await sql<{ gone: boolean }>`
      select gone_at is not null as gone from node where id = ${session.nodeId} and epoch = ${epoch} for update`.execute(
      tx,
    );
    if (!node.rows[0]) return false;
    const written = await sql`
      update node_session set epoch = ${epoch} where node_id = ${session.nodeId} and session = ${session.session}
      returning 1`.execute(tx);
    if (written.rows.length === 0) return false;
    if (node.rows[0].gone) {
      await sql`update node set gone_at = null, cordoned = true where id = ${session.nodeId}`.execute(tx);
      wakeAfterCommit('rhyzome_session', session.nodeId);
    }
    return true;
  });
}

async function keepUnderlay(tx: Tx, nodeId: string, underlay: NodeUnderlay | undefined): Promise<void> {
  const { address = null, port = null, networkMtu = null } = underlay ?? {};
  await sql`
    with said as (
      select id, coalesce(${networkMtu}::int, underlay_mtu) as mtu from node where id = ${nodeId})
    update node n set underlay = case when s.mtu is not null then ${address}::inet end,
      underlay_port = case when s.mtu is not null then ${port}::int end,
      underlay_mtu = case when ${address}::inet is not null then s.mtu end
    from said s where n.id = s.id`.execute(tx);
}

/** A sign of life of a node, by the stream that brought it. */
export interface Beat {
  session: NodeSession;
  /** Undefined: what was told before holds. */
  capacity: { vcpus: number; memoryMiB: number; diskGiB: number } | undefined;
}

/** Those whose streams still are their nodes'; a later stream has taken over the others. In one statement. */
export async function recordHeartbeats(db: Database, beats: readonly Beat[]): Promise<Set<NodeSession>> {
  const rows = beats.map(({ session, capacity }, n) => ({
    n,
    node: session.nodeId,
    session: session.session,
    ...capacity,
  }));
  // In the order of the nodes, so that two replicas never wait for each other.
  const result = await sql<{ n: number }>`
    with beat as materialized (
      select * from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb)
        as b (n int, node uuid, session bigint, vcpus int, "memoryMiB" bigint, "diskGiB" bigint)),
    held as materialized (
      select b.n, s.node_id from beat b join node_session s on s.node_id = b.node and s.session = b.session
      order by s.node_id for no key update of s),
    mine as (
      update node_session s set heartbeat_at = now() from held where s.node_id = held.node_id returning held.n),
    seen as materialized (
      select n.id from node n where n.id in (select node_id from held) order by n.id for no key update),
    told as (
      update node n set last_seen_at = now(), vcpus = coalesce(b.vcpus, n.vcpus),
        memory_mib = coalesce(b."memoryMiB", n.memory_mib), disk_gib = coalesce(b."diskGiB", n.disk_gib)
      from seen join beat b on b.node = seen.id where n.id = seen.id)
    select n from mine`.execute(db.operator);
  return new Set(result.rows.map(({ n }) => beats[n]!.session));
}

/** False when a later stream of the node has taken over. */
export async function heartbeat(db: Database, session: NodeSession, capacity: Beat['capacity']): Promise<boolean> {
  return (await recordHeartbeats(db, [{ session, capacity }])).has(session);
}

/** Whether the stream is still the node's. */
export async function holdsSession(db: Database, session: NodeSession): Promise<boolean> {
  const held = await db.operator
    .selectFrom('node_session')
    .select('session')
    .where('node_id', '=', session.nodeId)
    .where('session', '=', session.session)
    .executeTakeFirst();
  return held !== undefined;
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

/** Of these nodes, those that have not reached what is desired of them, or have been asked for a deed. */
export async function nodesWithNews(db: Database, nodeIds: readonly string[]): Promise<string[]> {
  const result = await sql<{ id: string }>`
    select node_id as id from placement where node_id = any(${[...nodeIds]}::uuid[]) and observed_revision < revision
    union select node_id from deed where node_id = any(${[...nodeIds]}::uuid[]) and state = 'asked'`.execute(
    db.operator,
  );
  return result.rows.map(({ id }) => id);
}
