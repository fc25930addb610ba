/**
 * Storage that several nodes share, as rows: which nodes see the same files. A node that names a storage and sees other
 * files than those that came before it is not let in: it would take disks for lost, or make them a second time.
 */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';

export interface NodeStorage {
  name: string;
  /** UUID that stands in a file on it. */
  id: string;
}

/**
 * Writes down which storage a node makes disks on. A name that nothing else uses any more may come to mean other files.
 * Throws RhyzomeError `forbidden`.
 */
export async function keepStorage(tx: Tx, nodeId: string, storage: NodeStorage | undefined): Promise<void> {
  if (storage) await refuseOther(tx, nodeId, storage);
  const name = storage?.name ?? null;
  await sql`update node set storage = ${name} where id = ${nodeId} and storage is distinct from ${name}`.execute(tx);
}

async function refuseOther(tx: Tx, nodeId: string, { name, id }: NodeStorage): Promise<void> {
  const known = await sql<{ id: string }>`
    insert into shared_storage as s (name, id) values (${name}, ${id})
    on conflict (name) do update set id = case when not exists (select from node n where n.storage = s.name and n.id <> ${nodeId})
      and not exists (select from disk d where d.storage = s.name)
      and not exists (select from deleted_disk d where d.storage = s.name) then excluded.id else s.id end
    returning id`.execute(tx);
  if (known.rows[0]!.id === id) return;
  throw new RhyzomeError(
    'forbidden',
    `The shared storage “${name}” of this node has other files than that of the nodes before it (${id}, not ` +
      `${known.rows[0]!.id}). Mount the same storage at agent.storage.dir, or give it another name in agent.storage.shared.`,
  );
}
