/** What the agent must remember of a network to take it away again: written before the first effect, removed after the last. */
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Ref } from '#libs/drivers/contract';
import type { Opening } from './agent-rules.js';
import type { GuardEntry } from './guard.js';
import type { Gate } from './overlay-gate.js';

export interface NetworkRecord {
  ref: Ref;
  /** Pair of addresses of the way out; null: none was ever made. */
  slot: number | null;
  /** All that may stand in the guard's sets for this network. */
  entries: GuardEntry[];
  /** All that may stand open for it to the outside. */
  openings: RecordedOpening[];
  /** Port of its VPN door, and whether a process keeps that; null: it has none. */
  door: { port: number; process: boolean } | null;
  /** What its namespace is; null: perhaps either. */
  role: Role | null;
  /** What may let frames of other nodes in, and the router's MAC that may come from there; null: it is on no other. */
  overlay: { gates: Gate[]; gateway: string | null } | null;
}

/** The network's router, or what answers guests for their own node while that is on another. */
export type Role = 'router' | 'annex';

export interface RecordedOpening extends Opening {
  /** The uplink's interface at that time. */
  link: string;
}

/** As agents before these features wrote it, too. */
function parse(text: string): NetworkRecord {
  const record = JSON.parse(text) as NetworkRecord;
  const absent = { ip6: null, wall: null, away: null, annex: false };
  const entries = record.entries.map((entry) => ({ ...absent, ...entry }));
  const role = record.role === undefined ? 'router' : record.role;
  const { openings = [], door = null, overlay = null } = record as Partial<NetworkRecord>;
  return { ...record, entries, openings, door, role, overlay };
}

/** Records under `<stateDir>/network/<id>/record.json`. */
export interface Records {
  dir(id: string): string;
  load(id: string): Promise<NetworkRecord | null>;
  save(record: NetworkRecord): Promise<void>;
  delete(id: string): Promise<void>;
  all(): Promise<NetworkRecord[]>;
  /** The interface on which this agent turned forwarding on, so that it can be turned off again; null: none. */
  forwarding(): Promise<string | null>;
  setForwarding(link: string | null): Promise<void>;
}

export function openRecords(stateDir: string): Records {
  const root = join(stateDir, 'network');
  const dir = (id: string) => join(root, id);
  const forwarding = join(stateDir, 'network-forwarding');
  const load = async (id: string): Promise<NetworkRecord | null> => {
    try {
      return parse(await readFile(join(dir(id), 'record.json'), 'utf8'));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  };
  return {
    dir,
    load,
    async save(record) {
      const path = join(dir(record.ref.id), 'record.json');
      await mkdir(dir(record.ref.id), { recursive: true, mode: 0o755 });
      await writeFile(`${path}.new`, JSON.stringify(record), { flush: true });
      await rename(`${path}.new`, path);
    },
    async delete(id) {
      await rm(dir(id), { recursive: true, force: true });
    },
    async all() {
      const names = await readdir(root).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return [];
        throw error;
      });
      const records = await Promise.all(names.map(load));
      return records.filter((record) => record !== null);
    },
    async forwarding() {
      try {
        return await readFile(forwarding, 'utf8');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
        throw error;
      }
    },
    async setForwarding(link) {
      if (link === null) return rm(forwarding, { force: true });
      await mkdir(stateDir, { recursive: true });
      await writeFile(forwarding, link, { flush: true });
    },
  };
}
