/**
 * What controllers have told this machine to be revoked: servers that it no longer dials, nodes that it neither dials nor
 * takes in. Kept beside what else is durable, so that it holds from the first dial on. Nothing is forgotten because a
 * controller knows less: its database may be a restored one, and it gets back what it lacks.
 */
import { join } from 'node:path';
import type { DriverLog } from '#libs/drivers/contract';
import {
  type CredentialsSource,
  digestOf,
  type PkiError,
  parseRevocations,
  type RevokedSet,
  refusingBy,
  revokedError,
  type ShownCertificate,
  type SignedRevocations,
} from '#libs/pki';
import { readJson, writeJsonDurably } from './durable.js';

interface Kept {
  signed: SignedRevocations;
  set: RevokedSet;
}

interface Stored {
  lists: { list: string; signature: string; chain: string }[];
}

/** Each stands for a restored database that has not taken over what was known before; the oldest are forgotten. */
const MOST_LISTS = 4;
const MOST_BELIEVED = 100;

export class KnownRevocations {
  private readonly listeners = new Set<() => void>();
  private readonly watchers = new Set<() => void>();
  /** Servers that were dialled, by serial, the latest last. */
  private readonly believed = new Map<string, ShownCertificate>();
  private writing: Promise<void> = Promise.resolve();

  private constructor(
    private readonly file: string,
    private readonly log: DriverLog,
    private kept: readonly Kept[],
  ) {}

  /** Rejects where the file cannot be read: without it, what was revoked would be believed again. */
  static async load(stateDir: string, log: DriverLog): Promise<KnownRevocations> {
    const file = join(stateDir, 'revocations.json');
    const stored = await readJson<Stored>(file);
    const kept = (stored?.lists ?? []).map(({ list, signature, chain }) =>
      parsed({ list: Buffer.from(list, 'base64'), signature: Buffer.from(signature, 'base64'), chain }),
    );
    return new KnownRevocations(file, log, kept);
  }

  /** SHA-256 of the one list that holds; empty: none does, or several do. */
  get digest(): Buffer {
    return this.kept.length === 1 ? digestOf(this.kept[0]!.signed) : Buffer.alloc(0);
  }

  /** Why it is not to be believed. A server that is believed is looked at again when more was revoked. */
  refusalOf(shown: ShownCertificate): PkiError | undefined {
    if (!this.kept.some(({ set }) => set.refuses(shown))) {
      if (shown.type === 'server') this.believe(shown);
      return undefined;
    }
    return revokedError(shown);
  }

  /**
   * Keeps what a controller tells, in place of what it covers. Returns, once it is durable, the lists that it does not
   * cover: it lacks something that was revoked. Throws PkiError `revocations_malformed`.
   */
  async take(signed: SignedRevocations): Promise<SignedRevocations[]> {
    const told = parsed(signed);
    const others = this.kept.filter(({ set }) => !told.set.covers(set));
    const lists = others.some(({ set }) => set.covers(told.set)) ? others : [told, ...others];
    if (lists.length > MOST_LISTS)
      this.log.warn({ lists: lists.length }, 'too many lists of revocations; the oldest is forgotten');
    this.kept = lists.slice(0, MOST_LISTS);
    for (const watcher of this.watchers) watcher();
    await this.write();
    const fallen = [...this.believed.values()].filter((server) => told.set.refuses(server));
    for (const { serial } of fallen) this.believed.delete(serial);
    if (fallen.length > 0) for (const listener of this.listeners) listener();
    return others.map((one) => one.signed);
  }

  private believe(server: ShownCertificate): void {
    this.believed.delete(server.serial);
    this.believed.set(server.serial, server);
    if (this.believed.size > MOST_BELIEVED) this.believed.delete(this.believed.keys().next().value!);
  }

  /** Calls back when a server that was believed is not to be believed any more. Returns its end. */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Calls back whenever a list was taken. Returns its end. */
  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  private write(): Promise<void> {
    const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64');
    const lists = this.kept.map(({ signed: { list, signature, chain } }) => ({
      list: base64(list),
      signature: base64(signature),
      chain,
    }));
    this.writing = this.writing.catch(() => {}).then(() => writeJsonDurably(this.file, { lists })); // Who asked before has heard.
    return this.writing;
  }
}

function parsed(signed: SignedRevocations): Kept {
  return { signed, set: parseRevocations(signed.list) };
}

/**
 * The credentials, with what is known to be revoked. When a server falls it is as if the own certificate had changed:
 * connections are made anew, and whom they lead to is looked at again. Connections between nodes end where they stand.
 */
export function refusingRevoked(source: CredentialsSource, revocations: KnownRevocations): CredentialsSource {
  return refusingBy(source, {
    subscribe(listener) {
      const ends = [source.subscribe(listener), revocations.subscribe(() => listener(source.current))];
      return () => {
        for (const end of ends) end();
      };
    },
    refusalOf: (shown) => revocations.refusalOf(shown),
    watchRefusals: (listener) => revocations.watch(listener),
  });
}
