/**
 * Takes a backup of the control plane's database: everything but events, as of one moment, while servers run. The content of
 * images is not in it: that is a directory of its own (docs/operations.md).
 */

import type { ConnectionOptions } from '#libs/config';
import { newId } from '#libs/core';
import { copyOut, withSession } from '#libs/db';
import { programVersion } from '../installed.js';
import { type BackupHeader, type Given, type TableSum, writeBackup } from './backup-file.js';

/** Not kept: watchers list anew after a restore, whatever they had seen. And the migrations, which make the schema. */
const LEFT_OUT = ['event', 'migration'];

interface Table {
  name: string;
  columns: string[];
}

type Session = Parameters<Parameters<typeof withSession>[3]>[0];

/** Gives what is in it. */
export async function takeBackup(
  connection: ConnectionOptions,
  file: string,
): Promise<{ header: BackupHeader; tables: Record<string, TableSum> }> {
  return withSession(connection, 'rhyzome_owner', 'rhyzome backup', async (session) => {
    await session.query('begin isolation level repeatable read read only');
    const header = await readHeader(session);
    const tables = await writeBackup(file, partsOf(session, header));
    await session.query('commit');
    return { header, tables };
  });
}

async function readHeader(session: Session): Promise<BackupHeader> {
  const { rows } = await session.query<Omit<BackupHeader, 'id' | 'version' | 'takenAt'> & { takenAt: Date }>(
    `select clock_timestamp() as "takenAt", i.id as "installationId", current_setting('server_version') as server,
      (select json_agg(json_build_object('name', name, 'checksum', checksum) order by name) from migration) as migrations
     from installation i`,
  );
  const { takenAt, ...found } = rows[0]!;
  return { id: newId(), takenAt: takenAt.toISOString(), version: programVersion(), ...found };
}

async function* partsOf(session: Session, header: BackupHeader): AsyncGenerator<Given> {
  yield { type: 'header', header };
  for (const { name, columns } of await readTables(session)) {
    if (LEFT_OUT.includes(name)) continue;
    const list = columns.map(quoted).join(', ');
    yield { type: 'table', name, columns, rows: copyOut(session, `select ${list} from ${quoted(name)}`) };
  }
  const { rows } = await session.query<{ name: string; value: string | null }>(
    `select sequencename as name, last_value::text as value from pg_sequences where schemaname = 'public' order by 1`,
  );
  for (const { name, value } of rows)
    yield { type: 'sequence', name, value: Number(value ?? 1), isCalled: value !== null };
}

/** Those that others refer to before those; without generated columns, which cannot be written. */
async function readTables(session: Session): Promise<Table[]> {
  const { rows } = await session.query<Table & { needs: string[] }>(
    `select c.relname as name, array_agg(a.attname::text order by a.attnum) as columns,
       array(select distinct f.relname::text from pg_constraint k join pg_class f on f.oid = k.confrelid
         where k.conrelid = c.oid and k.contype = 'f' and k.confrelid <> c.oid) as needs
     from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
     where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' group by c.oid, c.relname order by c.relname`,
  );
  const ordered: Table[] = [];
  const left = new Map(rows.map((row) => [row.name, row]));
  while (left.size > 0) {
    const free = [...left.values()].filter(({ needs }) => !needs.some((name) => left.has(name)));
    if (free.length === 0)
      throw new Error(`tables that refer to each other in a circle: ${[...left.keys()].join(', ')}`);
    for (const { name, columns } of free) {
      ordered.push({ name, columns });
      left.delete(name);
    }
  }
  return ordered;
}

export function quoted(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}
