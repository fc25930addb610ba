/**
 * What is known of each snapshot on this machine: written before it is made and again when it is there, so that one that
 * is lost later is never taken for one that was not made yet.
 */
import { join } from 'node:path';
import { type Folders, openFolders, readJson, writeJson } from './folders.js';

export interface SnapshotRecord {
  diskId: string;
  made: boolean;
  /** Of the disk's file when it was taken. */
  sizeBytes: number;
  virtualSizeBytes: number;
}

export interface SnapshotRecords {
  readonly folders: Folders;
  load(id: string): Promise<SnapshotRecord | null>;
  save(id: string, record: SnapshotRecord): Promise<void>;
  /** Whether a disk has any. */
  anyOf(diskId: string): Promise<boolean>;
}

/** Records under `<stateDir>/snapshot/<id>/`. */
export function openSnapshotRecords(stateDir: string): SnapshotRecords {
  const folders = openFolders(stateDir, 'snapshot');
  const file = (id: string) => join(folders.of(id), 'snapshot.json');
  const load = (id: string) => readJson<SnapshotRecord>(file(id));
  return {
    folders,
    load,
    save: (id, record) => writeJson(file(id), record),
    async anyOf(diskId) {
      for (const id of await folders.ids()) if ((await load(id))?.diskId === diskId) return true;
      return false;
    },
  };
}
